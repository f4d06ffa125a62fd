package store

import (
	"context"
	"time"
)

// Deadlines returns how many leases wait for their end.
func Deadlines(r *Registry) int {
	r.deadlines.mu.Lock()
	defer r.deadlines.mu.Unlock()
	return len(r.deadlines.heap)
}

// ServicesKept returns how many services the registry keeps a place for.
func ServicesKept(r *Registry) (n int) {
	r.services.all(func(string, *service) bool { n++; return true })
	return n
}

// Drains returns how many instances it knows to be drained.
func Drains(r *Registry) int {
	r.drains.mu.Lock()
	defer r.drains.mu.Unlock()
	return len(r.drains.ends)
}

// Clock is a lease clock without a registry, whose time is what it is told.
type Clock struct{ c *clock }

// What the clock does with the time.
const (
	TickTime = tickTime
	WindTime = windTime
	MaxGrace = maxGrace
)

// NewClock returns a clock that goes.
func NewClock() Clock {
	c := newClock()
	c.wound.Store(&winding{most: 1<<63 - 1})
	return Clock{c}
}

// At returns what it shows.
func (c Clock) At(real time.Duration) Instant { now, _ := c.c.at(real); return now }

// Tick is what the goroutine does that ticks.
func (c Clock) Tick(real time.Duration) (lasted, extends time.Duration) { return c.c.tick(real) }

// Hold keeps it from being wound.
func (c Clock) Hold() (release func()) { return c.c.hold() }

// Tick does what Run's ticking does at this moment, for tests in which it must
// not do so at others.
func Tick(r *Registry) (lasted, extends time.Duration) {
	real := r.clock.real()
	r.nowAt(real)
	return r.clock.tick(real)
}

// Sweep removes what has ended at this moment, as Run does, and reports whether
// the backend did its part.
func Sweep(ctx context.Context, r *Registry) bool {
	failures := 0
	for {
		ended, _ := r.deadlines.due(r.Now(), sweepBatch)
		if len(ended) == 0 {
			return true
		}
		if !r.expire(ctx, ended, &failures) {
			return false
		}
	}
}

// CommitWeights commits the weights whose pause is over, as Run does.
func CommitWeights(ctx context.Context, r *Registry) {
	now := r.Now()
	if leases, _ := r.weights.due(now, now.Add(weightPause), sweepBatch); len(leases) > 0 {
		r.commitWeights(ctx, leases)
	}
}

// SetConfirmed sets until when the registry counts as confirmed.
func (r *Registry) SetConfirmed(age time.Duration) { r.confirmed.Store(int64(age)) }

// AfterGoesOn has a function called right after what is done where the lease clock
// goes on.
func AfterGoesOn(r *Registry, do func()) {
	before := r.clock.goesOn
	r.clock.goesOn = func(real time.Duration) { before(real); do() }
}
