package store

import (
	"math"
	"sync/atomic"
	"time"
)

// Instant is a moment on a registry's lease clock: the nanoseconds that the
// registry has been open, less those that the clock stood. It follows the
// monotonic clock, so steps of the wall clock move no lease.
type Instant int64

// Never is the end of a lease that does not end.
const Never Instant = math.MaxInt64

// ended is the end of a lease that has been judged: nothing renews it.
const ended Instant = math.MinInt64

// Add returns t moved by d; Never stays Never.
func (t Instant) Add(d time.Duration) Instant {
	if t == Never {
		return Never
	}
	return t + Instant(d)
}

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Lease is how long one instance lives without a further heartbeat. It is
// shared by all states of its instance from registration to removal; reading
// it never blocks and is safe at any time.
type Lease struct {
	end    atomic.Int64 // an Instant
	length atomic.Int64 // a Duration: how long a renewal makes it; 0: permanent
	spared atomic.Int64 // a Duration: see Spares
	slot   slot         // whose lease it is
	index  int32        // its place in the deadlines, -1: none; guarded by their mu

	// others: other servers may have heard from the instance since. What is known
	// of the end here is the earliest that it can be.
	others atomic.Bool
}

// slot is the place of an instance in the registry: no two instances of a
// service share a label.
type slot struct{ service, label string }

func newLease(at slot, now Instant, length time.Duration) *Lease {
	l := &Lease{slot: at, index: -1}
	l.length.Store(int64(length))
	l.end.Store(int64(endAt(now, length)))
	return l
}

// endAt returns when a lease of that length ends which begins at now.
func endAt(now Instant, length time.Duration) Instant {
	if length == 0 {
		return Never
	}
	return now.Add(length)
}

// End returns when the lease ends; Never for a permanent instance.
func (l *Lease) End() Instant { return Instant(l.end.Load()) }

// Alive reports whether the lease still lasts at now.
func (l *Lease) Alive(now Instant) bool { return now < l.End() }

// TTL returns for how many seconds a cache that is told so at now may keep a
// record of the instance: the whole seconds left less one, because caches
// count in whole seconds and may keep a record up to one second longer than
// its TTL. It is never below 0 and at most limit, which is what a permanent
// instance gets.
func (l *Lease) TTL(now Instant, limit uint32) uint32 {
	end := l.End()
	if end == Never {
		return limit
	}
	if end <= now { // also where end is the ended mark, which must not be subtracted from
		return 0
	}
	left := int64(end.Sub(now)/time.Second) - 1
	return uint32(min(max(left, 0), int64(limit)))
}

// ownTime is how long after the end of a lease, as it is known here, it is judged
// where there are other servers: one of them may have heard from the instance in
// time, and that is on its way. For as long a heartbeat still counts.
const ownTime = time.Second

// lasts reports whether a heartbeat at now counts.
func (l *Lease) lasts(now Instant) bool {
	end := l.End()
	return now < end || l.others.Load() && end != ended && now < end.Add(ownTime)
}

// due returns when the lease is to be judged.
func (l *Lease) due() Instant {
	if end := l.End(); !l.others.Load() || end == ended {
		return end
	}
	return l.End().Add(ownTime)
}

// renew starts the lease afresh at now, unless it has ended by then; it reports
// whether the lease lasts. It never shortens.
func (l *Lease) renew(now Instant) bool {
	for {
		old := l.End() // before the length: see set
		if old <= now && !l.lasts(now) {
			return false
		}
		end := endAt(now, time.Duration(l.length.Load()))
		if end <= old && old > now || l.end.CompareAndSwap(int64(old), int64(end)) {
			return true
		}
	}
}

// set gives the lease a new length, and with it a new end. A shorter one never
// ends before cached, the moment at which the last honest cache has forgotten
// the instance, or before the old end where that comes first. It returns the old
// end.
func (l *Lease) set(end Instant, length time.Duration, cached Instant) Instant {
	changed := l.length.Swap(int64(length)) != int64(length)
	for {
		old := l.End()
		next := max(end, min(old, cached))
		if changed && next == old {
			next++ // so that a renewal under way with the old length fails and looks again
		}
		if l.end.CompareAndSwap(int64(old), int64(next)) {
			return old
		}
	}
}

// extend moves the end to at least the given moment, and returns the old one.
func (l *Lease) extend(end Instant) (old Instant) {
	for {
		old := l.End()
		if end <= old || l.end.CompareAndSwap(int64(old), int64(end)) {
			return old
		}
	}
}

// move moves the end to another moment, unless the lease has been judged, and
// reports whether it has done so.
func (l *Lease) move(end Instant) bool {
	for {
		old := l.End()
		if old == end || old == ended {
			return false
		}
		if l.end.CompareAndSwap(int64(old), int64(end)) {
			return true
		}
	}
}

// judge marks the lease as ended if it is, so that no late heartbeat revives
// it while its removal is made durable, and reports whether it is.
func (l *Lease) judge(now Instant) bool {
	for {
		old := l.End()
		if old != ended && l.due() > now {
			return false
		}
		if old == ended || l.end.CompareAndSwap(int64(old), int64(ended)) {
			return true
		}
	}
}
