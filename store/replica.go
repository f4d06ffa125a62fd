package store

import (
	"context"
	"math"
	"time"
)

// Shared is a [Backend] on which several servers work at the same time, each
// with a registry of its own. It decides the order of all their changes, and
// makes each known to every one of them; and it carries what only one has
// heard, heartbeats, to the others.
type Shared interface {
	Backend

	// Join is called once, before Start, with the registry as the backend
	// drives it. Start then restores by [Replica.Restore], and not by the
	// function that it is given.
	Join(r *Replica)

	// Renew makes it known to all servers, and to those that will be started,
	// until when leases last. It returns nil when that is so, and this registry
	// has seen every change that was made before. An error wraps ErrNotDurable
	// or ErrClosed; then it may or may not have become known. It may be called
	// concurrently; calls share what is written.
	Renew(ctx context.Context, leases []Renewal) error

	// Alone reports whether no other server works on the backend. It may say
	// false for a while after the last one has gone.
	Alone() bool

	// Judges reports whether it is for this server to run the check of an
	// instance. Of all servers that are up, one judges; while one comes or
	// goes, none or two may.
	Judges(service, label string) bool
}

// Renewal says until when a lease lasts at least.
type Renewal struct {
	Service, Label string
	End            Instant
}

// Replica is a [Registry] as a [Shared] backend drives it. The lease clocks of
// all replicas show nearly the same, so that instants mean something to all;
// how they are kept together is the backend's business.
type Replica struct{ r *Registry }

// Stale reports whether the backend has been out of reach for so long that what
// the registry holds can no longer be confirmed, and for how long that has been
// so. Such a registry still answers, but the lease clock stands. It is never so
// for a backend that nobody shares. It allocates nothing and may be called for
// every query.
func (r *Registry) Stale() (since time.Duration, stale bool) {
	until := r.confirmed.Load()
	if until == math.MaxInt64 {
		return 0, false
	}
	since = r.Age() - time.Duration(until)
	return max(since, 0), since > 0
}
