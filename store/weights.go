package store

import (
	"context"
	"sync"
	"time"
)

// weightPause is the least time between two commits that change nothing but
// the weight of one instance.
const weightPause = time.Second

// weights spares the backend a commit for each weight of a client that sends
// another one with every heartbeat. The first is committed at once; those that
// come in the second after it wait here, and the last of them is committed
// when that second is over, together with those of other instances.
type weights struct {
	mu    sync.Mutex
	held  map[*Lease]heldWeight // guarded by mu
	queue []*Lease              // those in held, by until; guarded by mu

	// wake has room for one: there is something in the queue that was empty.
	wake chan struct{}
}

// heldWeight is for one instance whose weight was committed lately.
type heldWeight struct {
	until   Instant // before this, no commit for a weight alone
	weight  uint16  // what is to be committed then
	waiting bool    // unless this is false
}

func newWeights() *weights {
	return &weights{held: map[*Lease]heldWeight{}, wake: make(chan struct{}, 1)}
}

// hold keeps the weight for later and reports whether it does: not where no
// weight of the instance was committed lately, which is for the caller to do.
// The caller holds the instance's slot.
func (w *weights) hold(m Member, weight uint16) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	h, lately := w.held[m.Lease]
	if !lately {
		return false
	}
	h.weight, h.waiting = weight, weight != m.Weight
	w.held[m.Lease] = h
	return true
}

// forget drops a weight that waits: something later was said.
func (w *weights) forget(l *Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h, ok := w.held[l]; ok {
		h.waiting = false
		w.held[l] = h
	}
}

// pause notes that a weight of the instance was committed.
func (w *weights) pause(l *Lease, until Instant) {
	w.mu.Lock()
	_, queued := w.held[l]
	if !queued {
		w.held[l] = heldWeight{until: until}
		w.queue = append(w.queue, l)
	}
	first := len(w.queue) == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// due returns up to limit instances whose pause is over and for whom a weight
// waits; they pause again, until again. Where there are none, next is when to
// ask again, Never where nothing waits.
func (w *weights) due(now, again Instant, limit int) (leases []*Lease, next Instant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 && len(leases) < limit {
		l := w.queue[0]
		h := w.held[l]
		if h.until > now {
			return leases, h.until
		}
		w.queue = w.queue[1:]
		if !h.waiting {
			delete(w.held, l)
			continue
		}
		h.until = again
		w.held[l] = h
		w.queue = append(w.queue, l)
		leases = append(leases, l)
	}
	if len(w.queue) == 0 {
		w.queue = nil // not to keep what stood there
		return leases, Never
	}
	return leases, w.held[w.queue[0]].until
}

// waiting returns the weight that waits for the instance, if one does.
func (w *weights) waiting(l *Lease) (weight uint16, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.held[l]
	return h.weight, h.waiting
}

func (w *weights) waits(l *Lease) bool {
	_, ok := w.waiting(l)
	return ok
}

// runWeights commits the weights that wait until ctx is done. What waits then
// is lost, as its client was told: it sends the next one anyway.
func (r *Registry) runWeights(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := r.Now()
		leases, next := r.weights.due(now, now.Add(weightPause), sweepBatch)
		if len(leases) > 0 {
			r.commitWeights(ctx, leases)
			next = now // there may be more
		}
		timer.Reset(r.until(next))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.weights.wake:
		}
	}
}

// commitWeights makes the weights that wait durable, all together. Where the
// backend fails they wait on.
func (r *Registry) commitWeights(ctx context.Context, leases []*Lease) {
	var events []Event
	var changed []*Lease
	var locked []slot
	defer func() { r.writing.unlock(locked...) }()
	for _, l := range leases {
		if r.writing.lock(ctx, l.slot) != nil {
			return // the end
		}
		locked = append(locked, l.slot)
		weight, ok := r.weights.waiting(l)
		m, known := r.member(l.slot)
		if !ok || !known || m.Lease != l || m.Leaving || !l.Alive(r.Now()) || m.Weight == weight {
			r.weights.forget(l)
			continue
		}
		after := *m.Instance
		after.Weight = weight
		events = append(events, Event{Kind: Updated, Before: m.Instance, After: &after})
		changed = append(changed, l)
	}
	if len(events) == 0 {
		return
	}
	if r.backend.Commit(ctx, events) != nil { // it tells of its trouble itself
		return
	}
	for _, l := range changed {
		r.weights.forget(l)
	}
}
