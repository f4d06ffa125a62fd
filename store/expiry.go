package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Run removes instances whose leases have ended, commits weights that were
// held back, and winds the lease clock, until ctx is done. Without it ended
// instances are in no answer either, but stay in memory and in the store.
// Before it the lease clock goes on whatever happens, after it the clock
// stands.
func (r *Registry) Run(ctx context.Context) error {
	var held sync.WaitGroup
	held.Go(func() { r.runWeights(ctx) })
	held.Go(func() { r.runClock(ctx) })
	defer held.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		ended, next := r.deadlines.due(r.Now(), sweepBatch)
		wake := r.deadlines.wake
		if len(ended) > 0 {
			if r.expire(ctx, ended, &failures) {
				continue
			}
			// All that is due would fail as well: none of it before the next try.
			next, wake = r.Now().Add(sweepRetry<<min(failures, 7)), nil
		}
		timer.Reset(r.until(next))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			r.mu.Lock()
			r.forgetLocked()
			r.mu.Unlock()
		case <-wake:
		}
	}
}

// until returns how long to wait for a moment of the lease clock before looking
// again. The clock may stand right before it.
func (r *Registry) until(t Instant) time.Duration {
	return min(max(t.Sub(r.Now()), time.Millisecond), idleTime)
}

const (
	// sweepBatch bounds how many removals share a commit, so that writers get
	// their turn while a hundred thousand leases end in the same second.
	sweepBatch = 1024
	// sweepRetry is how long a removal waits that could not be made durable,
	// doubled with each failure, or whose instance is being written: that
	// write may yet revive it.
	sweepRetry = 100 * time.Millisecond
	// idleTime is how often services without instances are looked through
	// where nothing else happens.
	idleTime = time.Minute
)

// ending returns what the end of the instance's lease does to it.
func (i *Instance) ending() Kind {
	if i.Leaving {
		return Deregistered // as was asked for
	}
	return Expired
}

// expire makes the removal of ended leases durable, and reports whether the
// backend did its part.
func (r *Registry) expire(ctx context.Context, leases []*Lease, failures *int) bool {
	var events []Event
	var locked []slot
	again := r.Now().Add(sweepRetry)
	for _, l := range leases {
		if !r.writing.tryLock(l.slot) {
			r.deadlines.schedule(l, again)
			continue
		}
		locked = append(locked, l.slot)
		if m, ok := r.member(l.slot); ok && m.Lease == l && l.judge(r.Now()) {
			events = append(events, Event{Kind: m.ending(), Before: m.Instance})
		}
	}
	defer r.writing.unlock(locked...)
	if len(events) == 0 {
		return true
	}
	err := r.backend.Commit(ctx, events)
	if err == nil { // it tells of its trouble itself
		*failures = 0
		return true
	}
	for _, l := range leases {
		r.deadlines.schedule(l, again)
	}
	if errors.Is(err, ErrConflict) { // those who are left may not be dead at all
		return true
	}
	*failures++
	return false
}
