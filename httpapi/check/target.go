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
	started      time.Time // the last probe
	cancel       func()    // breaks off the probe under way; nil: none
	dropped      bool      // it is no target any more

	// How the last probes ended; while one is under way they are its own.
	passes, fails int
}

const notScheduled = -1

// count takes in one probe of the instance as it was at its start, and reports
// whether the registry is to know: rise or fall in a row agree, and it does not
// say so already. One that is starting stays so until it passes.
func (t *target) count(i *store.Instance, pass bool) bool {
	if pass {
		t.passes, t.fails = t.passes+1, 0
		return t.passes >= int(i.Check.Rise) && i.Status != store.Up
	}
	t.passes, t.fails = 0, t.fails+1
	return t.fails >= int(i.Check.Fall) && (i.Check.Removes || i.Status == store.Up)
}

// schedule has the targets that wait, by when they are due.
type schedule struct{ heap targetHeap }

func (s *schedule) add(t *target, due time.Time) {
	t.due = due
	heap.Push(&s.heap, t)
}

func (s *schedule) remove(t *target) {
	if t.place != notScheduled {
		heap.Remove(&s.heap, t.place)
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
