package storetest

import (
	"cmp"
	"context"
	"time"

	"github.com/rosterdns/roster/store"
)

// Shared is a backend for one registry that believes to share it. It keeps
// nothing.
type Shared struct {
	store.Memory
	*store.Replica

	// Confirmed is for how long the registry is confirmed from its opening on:
	// then it is cut off. Default: for a day.
	Confirmed time.Duration

	// OnRenew is what making leases known comes to. Default: it is done.
	OnRenew func(ctx context.Context, leases []store.Renewal) error
}

var _ store.Shared = (*Shared)(nil)

// Join implements [store.Shared].
func (s *Shared) Join(r *store.Replica) { s.Replica = r }

// Start implements [store.Shared].
func (s *Shared) Start(ctx context.Context, restore func(*store.Instance), apply func([]store.Event)) (store.Revision, error) {
	s.Confirm(s.Age() + cmp.Or(s.Confirmed, 24*time.Hour))
	return s.Memory.Start(ctx, restore, apply)
}

// Close implements [store.Shared].
func (s *Shared) Close() error { return s.Memory.Close() }

// Renew implements [store.Shared].
func (s *Shared) Renew(ctx context.Context, leases []store.Renewal) error {
	if s.OnRenew == nil {
		return nil
	}
	return s.OnRenew(ctx, leases)
}

// Alone implements [store.Shared].
func (*Shared) Alone() bool { return false }

// Judges implements [store.Shared].
func (*Shared) Judges(string, string) bool { return true }
