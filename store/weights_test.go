package store_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// counting is a backend that counts its commits.
type counting struct {
	*store.Memory
	commits atomic.Int64
	fails   atomic.Bool
}

func (c *counting) Commit(ctx context.Context, events []store.Event) error {
	c.commits.Add(1)
	if c.fails.Load() {
		return fmt.Errorf("disk: %w", store.ErrNotDurable)
	}
	return c.Memory.Commit(ctx, events)
}

func weigh(t *testing.T, r *store.Registry, id string, w uint16) uint16 {
	t.Helper()
	reg, err := r.Heartbeat(t.Context(), "web", id, store.Beat{Weight: &w})
	if err != nil {
		t.Fatalf("heartbeat with weight %d: %v", w, err)
	}
	return reg.Weight
}

// A client that sends another weight with each heartbeat costs a commit a
// second: the first is in force at once, the last of each second follows at
// its end.
func TestWeightsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &counting{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		b.commits.Store(0)
		at := r.Revision()
		for k := range 100 { // one each 100 ms, for 10 s
			got := weigh(t, r, "a1", uint16(100+k))
			if want := uint16(100 + k/10*10); k%10 == 0 && k > 0 {
				// At the second's end the one before may have been committed first.
				if got != want-1 && got != want {
					t.Errorf("beat %d: weight %d in force, want %d or %d", k, got, want-1, want)
				}
			} else if k == 0 && got != 100 {
				t.Errorf("the first weight is not in force at once: %d", got)
			}
			storetest.Advance(100 * time.Millisecond)
		}
		storetest.Advance(time.Second)
		if got := member(t, r).Weight; got != 199 {
			t.Errorf("a second after the last the weight is %d, want 199", got)
		}
		if n := b.commits.Load(); n < 9 || n > 12 {
			t.Errorf("%d commits in 11 s", n)
		}
		if moved := r.Revision() - at; int64(moved) != b.commits.Load() {
			t.Errorf("the revision moved by %d in %d commits", moved, b.commits.Load())
		}
		// Quiet for a while: the next one is in force at once again.
		storetest.Advance(5 * time.Second)
		if got := weigh(t, r, "a1", 7); got != 7 {
			t.Errorf("after a pause: %d, want 7", got)
		}
	})
}

// The latest word counts, whatever it was said by.
func TestLatestWeightWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &counting{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		after := func(say func()) uint16 {
			t.Helper()
			storetest.Register(t, r, storetest.Instance("web", "a1"))
			weigh(t, r, "a1", 20)
			weigh(t, r, "a1", 30) // held
			say()
			storetest.Advance(3 * time.Second)
			return member(t, r).Weight
		}
		if got := after(func() {}); got != 30 {
			t.Errorf("nothing more: %d, want 30", got)
		}
		if got := after(func() { weigh(t, r, "a1", 20) }); got != 20 {
			t.Errorf("the weight it has: %d, want 20", got)
		}
		if got := after(func() { storetest.Register(t, r, storetest.Instance("web", "a1")) }); got != store.DefaultWeight {
			t.Errorf("a registration: %d, want %d", got, store.DefaultWeight)
		}
		if got := after(func() {
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{Weight: new(uint16(40)), Status: new(store.Down)}); err != nil {
				t.Fatal(err)
			}
		}); got != 40 {
			t.Errorf("a weight with a status: %d, want 40", got)
		}
		if got := after(func() {
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{Status: new(store.Up)}); err != nil {
				t.Fatal(err)
			}
		}); got != 30 {
			t.Errorf("a status alone: %d, want 30", got)
		}
		// The disk is full for a while: it is tried again.
		if got := after(func() {
			b.fails.Store(true)
			storetest.Advance(3 * time.Second)
			b.fails.Store(false)
		}); got != 30 {
			t.Errorf("after a failure: %d, want 30", got)
		}
		// Gone and back within the second: the new one keeps its own.
		if got := after(func() {
			if _, err := r.Deregister(t.Context(), "web", "a1"); err != nil {
				t.Fatal(err)
			}
			storetest.Register(t, r, storetest.Instance("web", "a1"))
		}); got != store.DefaultWeight {
			t.Errorf("registered anew: %d, want %d", got, store.DefaultWeight)
		}
	})
}

// A weight that was held back is no heartbeat when it is committed, and many
// share a commit.
func TestHeldWeightsRenewNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &counting{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		for k := range 500 {
			id := fmt.Sprint(k)
			storetest.Register(t, r, storetest.Instance("web", id))
			weigh(t, r, id, 20)
			weigh(t, r, id, 30)
		}
		end := r.Now().Add(store.DefaultTTL)
		b.commits.Store(0)
		storetest.Advance(time.Second)
		if n := b.commits.Load(); n != 1 {
			t.Errorf("500 weights took %d commits", n)
		}
		for m := range r.Service("web").Members(r.Now()) {
			if m.Weight != 30 || m.Lease.End() != end {
				t.Fatalf("%s: weight %d, ends %v after its last heartbeat's lease", m.Instance, m.Weight, m.Lease.End().Sub(end))
			}
		}
	})
}

// Weights that cannot be stored wait on.
func TestHeldWeightsFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &counting{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		weigh(t, r, "a1", 20)
		b.fails.Store(true)
		weigh(t, r, "a1", 30)
		storetest.Advance(4 * time.Second)
		if got := member(t, r).Weight; got != 20 {
			t.Errorf("after three failures: weight %d", got)
		}
		b.fails.Store(false)
		storetest.Advance(2 * time.Second)
		if got := member(t, r).Weight; got != 30 {
			t.Errorf("when it works again: weight %d", got)
		}
	})
}
