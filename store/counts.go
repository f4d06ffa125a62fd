package store

import (
	"sync/atomic"
	"time"
)

// counts are what a registry counts of what it does.
type counts struct {
	changes [len(kindNames)]atomic.Uint64 // by Kind
	renewed [renewalShards]renewals
	shed    atomic.Uint64 // registrations
}

// renewals count heartbeats by how much of the lease was left when they came.
// There are several, each on cache lines of its own, so that processors which
// renew leases at the same time seldom meet in one.
type renewals struct {
	left      [leftCells]atomic.Uint64
	sum       atomic.Int64  // of what was left, in thousandths
	permanent atomic.Uint64 // heartbeats for what has no lease to renew
	_         [32]byte
}

const (
	renewalShards = 16 // a power of two
	leftCells     = 10 // tenths of a lease
)

// Counts are what a [Registry] has done since it was opened.
type Counts struct {
	// Changes are the changes of each kind, with a place for every kind.
	Changes map[Kind]uint64

	// Shed are the registrations that were refused because too many were under
	// way.
	Shed uint64

	// Heartbeats are all that renewed something, registrations that change
	// nothing included.
	Heartbeats uint64

	// LeaseLeft says, in thousandths of the lease, how much of it was left when
	// heartbeats came; permanent instances are not in it.
	LeaseLeft Distribution

	// Stalls is how often the server has stood still, and Extended by how much
	// all leases have been extended because of that.
	Stalls   uint64
	Extended time.Duration
}

// Counts returns what the registry has done. It may be called at any time.
func (r *Registry) Counts() Counts {
	c := Counts{
		Changes:  map[Kind]uint64{},
		Shed:     r.counts.shed.Load(),
		Stalls:   r.clock.counts.n.Load(),
		Extended: time.Duration(r.clock.counts.stood.Load()),
	}
	for k := Registered; int(k) < len(r.counts.changes); k++ {
		c.Changes[k] = r.counts.changes[k].Load()
	}
	left := &c.LeaseLeft
	left.Cells = make([]uint64, leftCells+1) // nothing is above the last bound
	for k := range int64(leftCells) {
		left.Bounds = append(left.Bounds, (k+1)*1000/leftCells)
	}
	for s := range r.counts.renewed {
		one := &r.counts.renewed[s]
		for k := range one.left {
			n := one.left[k].Load()
			left.Cells[k] += n
			c.Heartbeats += n
		}
		left.Sum += one.sum.Load()
		c.Heartbeats += one.permanent.Load()
	}
	return c
}

// renew renews a lease because of a heartbeat, and counts that. It reports
// whether the lease lasts.
func (r *Registry) renew(l *Lease, now Instant) bool {
	end := l.End()
	if !l.renew(now) {
		return false
	}
	if r.shared != nil {
		l.others.Store(!r.shared.Alone())
	}
	shard := &r.counts.renewed[uint64(now)>>4%renewalShards] // the clock is as good as chance
	length := l.length.Load()
	if length == int64(drainLength) {
		return true // nothing of it is renewed
	}
	if length <= 0 || end == Never {
		shard.permanent.Add(1)
		return true
	}
	left := min(max(int64(end-now), 0)*1000/length, 1000)
	shard.left[min(left*leftCells/1000, leftCells-1)].Add(1)
	shard.sum.Add(left)
	return true
}
