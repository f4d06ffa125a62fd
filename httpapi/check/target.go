package check

import (
	"container/heap"
	"time"

	"github.com/rosterdns/roster/store"
)

// name is an instance's place in the registry.
type name struct{ service, id string }

func nameOf(i *store.Instance) name { return name{i.Service, i.ID} }

// target is an instance that is probed.
type target struct {
	store.Member           // as last heard of; its lease is as old as the target
	due          time.Time // of the next probe; valid in the schedule
	place        int       // in the schedule, or notScheduled
	in           *schedule // where it waits, or waited before the probe under way
	started      time.Time // the last probe
	cancel       func()    // breaks off the probe under way; nil: none
	dropped      bool      // it is no target any more

	// How the last probes ended; while one is under way they are its own.
	passes, fails int
	failing       time.Duration // the registry's age when the first probe of the row of failures began
	hung          bool          // the last probe took all of its time
}

const notScheduled = -1

// count takes in one probe of the instance as it was when that began, and
// reports whether the registry is to know: rise or fall in a row agree, and it
// does not say so already. One that is starting stays so until it passes. A
// row of failures that began with a spared one begins again.
func (t *target) count(m store.Member, began time.Duration, pass bool) bool {
	if pass {
		t.passes, t.fails = t.passes+1, 0
		return t.passes >= int(m.Check.Rise) && m.Status != store.Up
	}
	if t.fails == 0 || m.Lease.Spares(t.failing) {
		t.fails, t.failing = 0, began
	}
	t.passes, t.fails = 0, t.fails+1
	return t.fails >= int(m.Check.Fall) && (m.Check.Removes || m.Status == store.Up)
}

// restart forgets how probes have ended.
func (t *target) restart() { t.passes, t.fails = 0, 0 }

// schedule has the targets that wait, by when they are due.
type schedule struct {
	heap    targetHeap
	running int // probes under way of targets that waited here
}

func (s *schedule) add(t *target, due time.Time) {
	t.due, t.in = due, s
	heap.Push(&s.heap, t)
}

// unschedule takes a target out of the schedule that it waits in, if any.
func (t *target) unschedule() {
	if t.place != notScheduled {
		heap.Remove(&t.in.heap, t.place)
	}
}

// next takes out a target that is due. Where none is, wait is until one will
// be.
func (s *schedule) next(now time.Time) (t *target, wait time.Duration) {
	if len(s.heap) == 0 {
		return nil, idle
	}
	if wait := s.heap[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	t = s.heap[0]
	heap.Pop(&s.heap)
	return t, 0
}

type targetHeap []*target

func (h targetHeap) Len() int           { return len(h) }
func (h targetHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h targetHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *targetHeap) Push(x any) {
	t := x.(*target) //nolint:errcheck // container/heap hands back what add pushed
	t.place = len(*h)
	*h = append(*h, t)
}

func (h *targetHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	t.place = notScheduled
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}
