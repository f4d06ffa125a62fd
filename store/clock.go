package store

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// clock is the lease clock of a registry. It goes as the monotonic clock goes,
// but like a clockwork only while it is wound: each tick winds it for windTime,
// and a goroutine among those that take heartbeats ticks. While the process
// does not run, is starved, or its ticks are held, the clock stands for every
// reader at the same moment, without anybody having to notice first. What it
// stood is what all leases have been extended by. It never goes back and never
// faster than time.
type clock struct {
	epoch time.Time // 0 on the monotonic clock that it follows
	wound atomic.Pointer[winding]
	held  atomic.Int32 // how many keep it from being wound

	// goesOn is called right before the clock goes on that has stood, and right
	// after, with the moment from which on it does.
	goesOn func(real time.Duration)

	// What follows belongs to the goroutine that ticks.
	ran    time.Duration // when it ran last; 0: never
	grace  time.Duration // how much longer the clock is to stand because of a stall
	credit time.Duration // how much grace the next stall may get at most

	counts stallCounts
}

// winding is one turn of the key. Instants follow from it and the time; it is
// never changed.
type winding struct {
	real  time.Duration // when, since the epoch
	lease Instant       // what the clock showed then
	most  time.Duration // how far it goes from there
}

const (
	// tickTime is from one tick to the next.
	tickTime = 20 * time.Millisecond
	// windTime is how far the clock goes without a tick, and so how much of a
	// lease a stall takes away at most. Ticks that are no later than that change
	// nothing: with no stall expiry is exact.
	windTime = 100 * time.Millisecond
	// maxGrace bounds how much longer the clock stands after a stall, while the
	// heartbeats that have come meanwhile are read from the sockets. The grace
	// is as long as the stall was: what came in that time, a server which is up
	// to its load works off in no more than that; and clients who wait for an
	// answer send nothing more. It is never less than windTime, so that leases
	// gain by a stall at least what it lasted, also for TTLs that were worked
	// out just before and sent just after it.
	maxGrace = time.Second
)

// stallCounts are what stalls came to.
type stallCounts struct {
	n     atomic.Uint64
	stood atomic.Int64 // a Duration
}

// set has a clock that stands show another moment.
func (c *clock) set(to Instant) { c.wound.Store(&winding{lease: to}) }

// windUntil lets the clock go until a moment of the one that it follows, and no
// further: one that a backend winds, and not ticks. Where that came too late by
// a little, it is as if the clock had not stood.
func (c *clock) windUntil(until time.Duration) {
	for {
		w, real := c.wound.Load(), c.real()
		now := w.lease + Instant(max(real-w.real, 0))
		if real >= until {
			return
		}
		if c.wind(w, &winding{real, now, until - real}) {
			return
		}
	}
}

// goOn lets the clock go until a moment of the one that it follows, and ahead of
// that by so much, but not back.
func (c *clock) goOn(ahead, until time.Duration) {
	for {
		w, real := c.wound.Load(), c.real()
		now, _ := w.at(real)
		if real >= until {
			return
		}
		if c.wind(w, &winding{real, max(now, Instant(real+ahead)), until - real}) {
			return
		}
	}
}

// wind replaces a winding by one with which the clock goes, and reports whether it
// was still in place. Where the clock has stood, it tells before that, so that
// nobody sees it go with leases of when it stood; and after it, for in between
// somebody may have looked and taken it to stand.
func (c *clock) wind(w, next *winding) bool {
	_, stands := w.at(next.real)
	tells := stands > 0 && c.goesOn != nil
	if tells {
		c.goesOn(next.real)
	}
	wound := c.wound.CompareAndSwap(w, next)
	if tells && wound {
		c.goesOn(next.real)
	}
	return wound
}

// advance puts the clock forward.
func (c *clock) advance(to Instant) {
	for {
		w, real := c.wound.Load(), c.real()
		now, stands := w.at(real)
		if to <= now || c.wound.CompareAndSwap(w, &winding{real, to, max(-stands, 0)}) {
			return
		}
	}
}

// newClock returns a clock that shows 0 until it is started.
func newClock() *clock {
	c := &clock{epoch: time.Now(), credit: maxGrace}
	c.wound.Store(&winding{})
	return c
}

// start lets the clock go, without ticks until run winds it.
func (c *clock) start() {
	c.wind(c.wound.Load(), &winding{real: c.real(), most: math.MaxInt64})
}

// real returns the present moment of the clock that it follows.
func (c *clock) real() time.Duration { return time.Since(c.epoch) }

// at returns what the clock shows at a moment that is not before the last call,
// and for how long it has been standing then; below 0 where it goes.
func (c *clock) at(real time.Duration) (now Instant, stands time.Duration) {
	return c.wound.Load().at(real)
}

func (w *winding) at(real time.Duration) (now Instant, stands time.Duration) {
	gone := max(real-w.real, 0) // others may have wound it since real was read
	return w.lease + Instant(min(gone, w.most)), gone - w.most
}

// hold keeps the clock from being wound until release is called.
func (c *clock) hold() (release func()) {
	c.held.Add(1)
	return sync.OnceFunc(func() { c.held.Add(-1) })
}

// tick winds the clock, unless it is to stand. It reports what stall has just
// ended, if one has: how long nobody ticked, and by how much that extends the
// leases.
func (c *clock) tick(real time.Duration) (lasted, extends time.Duration) {
	before := c.ran
	c.ran = real
	now, _ := c.at(real)
	if gap := real - before; before > 0 && gap > windTime {
		shown, _ := c.at(before)
		grace := min(gap, c.credit)
		c.credit -= grace
		c.grace += grace
		extends = gap - now.Sub(shown) + grace
		c.counts.n.Add(1)
		c.counts.stood.Add(int64(extends))
		return gap, extends
	}
	w := c.wound.Load()
	if c.held.Load() > 0 && w.most == windTime { // the first tick makes it one that stands without more
		return 0, 0
	}
	if c.grace > 0 {
		if c.grace -= real - before; c.grace > 0 {
			return 0, 0
		}
		c.counts.stood.Add(int64(-c.grace)) // it stood until this tick
		c.grace = 0
	}
	// The clock must not stand for more than half of the time in which ticks
	// come, or a server that is always short of time would keep the dead.
	c.credit = min(c.credit+now.Sub(w.lease), maxGrace)
	c.wind(w, &winding{real, now, windTime})
	return 0, 0
}

// runClock ticks until ctx is done. From then on the clock stands.
func (r *Registry) runClock(ctx context.Context) {
	ticker := time.NewTicker(tickTime)
	defer ticker.Stop()
	for {
		real := r.clock.real()
		r.nowAt(real)        // so that drains end where nobody else looks
		if r.shared != nil { // the backend winds it
			_, stale := r.staleAt(real)
			r.staleness.note(stale)
		} else if lasted, extends := r.clock.tick(real); lasted > 0 {
			r.cfg.Stalled(lasted, extends)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Now returns the present moment of the lease clock. It allocates nothing.
func (r *Registry) Now() Instant { return r.nowAt(r.clock.real()) }

func (r *Registry) nowAt(real time.Duration) Instant {
	now, stands := r.clock.at(real)
	if stands > 0 {
		r.drains.keepTime(r, real)
	}
	return now
}

// Age returns how long the registry has been open, on a clock that never
// stands. It is for what is no lease.
func (r *Registry) Age() time.Duration { return r.clock.real() }

// Wall returns the wall clock's time at a moment of the lease clock, as far as
// one can say: it will be later if the lease clock stands meanwhile.
func (r *Registry) Wall(t Instant) time.Time {
	wall := time.Now()
	now, _ := r.clock.at(wall.Sub(r.clock.epoch))
	return wall.Add(t.Sub(now))
}

// Hold makes the lease clock stand, within 100 ms, until release is called: no
// lease ends, and none gets shorter. It is for a server that knows that
// heartbeats go elsewhere for a while. With a [Shared] backend it does nothing:
// what is known elsewhere does not wait. Everything else goes on; instances that
// are being drained go when it was said they would. Several may hold it at a
// time. It works while Run runs.
func (r *Registry) Hold() (release func()) { return r.clock.hold() }
