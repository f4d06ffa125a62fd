package storetest

import (
	"context"
	"time"

	"github.com/rosterdns/roster/store"
)

// Shared is a backend for one registry that believes to share it. It keeps
// nothing, and it is in touch with the others for as long as the test says.
type Shared struct {
	store.Memory
	*store.Replica

	// OnRenew is what making leases known comes to. Default: it is done.
	OnRenew func(ctx context.Context, leases []store.Renewal) error
}

var _ store.Shared = (*Shared)(nil)

// Join implements [store.Shared].
func (s *Shared) Join(r *store.Replica) { s.Replica = r }

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

// CutOff has it be out of touch with the others, and have been for that long.
func (s *Shared) CutOff(r *store.Registry, since time.Duration) { s.Confirm(r.Age() - since) }

// BackInTouch ends that, for as long as a test may last.
func (s *Shared) BackInTouch(r *store.Registry) { s.Confirm(r.Age() + 24*time.Hour) }
