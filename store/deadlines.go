package store

import (
	"container/heap"
	"sync"
)

// deadlines tells which leases have come to their end. A lease stands in it
// at a moment that is at or before its true end, so a renewal touches nothing
// here: an entry that comes up too early is put back at the true end. That is
// one heap operation per lease length, however often the instance heartbeats.
type deadlines struct {
	mu   sync.Mutex
	heap deadlineHeap

	// wake has room for one: something earlier than all else was added.
	wake chan struct{}
}

type deadline struct {
	at    Instant
	lease *Lease
}

func newDeadlines() *deadlines {
	return &deadlines{wake: make(chan struct{}, 1)}
}

// schedule makes the lease come up at the given moment, unless it does so
// earlier already.
func (d *deadlines) schedule(l *Lease, at Instant) {
	if at == Never {
		return
	}
	d.mu.Lock()
	switch {
	case l.index < 0:
		heap.Push(&d.heap, deadline{at, l})
	case at < d.heap[l.index].at:
		d.heap[l.index].at = at
		heap.Fix(&d.heap, int(l.index))
	}
	first := l.index == 0
	d.mu.Unlock()
	if first {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// remove forgets the lease: its instance was removed, or is being judged.
func (d *deadlines) remove(l *Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.index >= 0 {
		heap.Remove(&d.heap, int(l.index))
	}
}

// due returns up to limit leases that have ended by now, and marks them so.
// Where there are none, next is when to ask again, Never where nothing waits.
func (d *deadlines) due(now Instant, limit int) (leases []*Lease, next Instant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.heap) > 0 && len(leases) < limit {
		top := &d.heap[0]
		if top.at > now {
			return leases, top.at
		}
		if top.lease.judge(now) {
			leases = append(leases, top.lease)
			heap.Pop(&d.heap)
			continue
		}
		if top.at = top.lease.due(); top.at == Never { // became permanent
			heap.Pop(&d.heap)
			continue
		}
		heap.Fix(&d.heap, 0)
	}
	if len(d.heap) > 0 {
		return leases, d.heap[0].at
	}
	return leases, Never
}

type deadlineHeap []deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].lease.index, h[j].lease.index = int32(i), int32(j)
}

func (h *deadlineHeap) Push(x any) {
	d := x.(deadline) //nolint:errcheck // container/heap hands back what schedule pushed
	d.lease.index = int32(len(*h))
	*h = append(*h, d)
}

func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	d.lease.index = -1
	(*h)[last] = deadline{}
	*h = (*h)[:last]
	return d
}
