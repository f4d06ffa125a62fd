package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// A registration that is refused is no heartbeat of the instance in its way:
// otherwise a standby that tries again and again would keep the dead alive.
func TestRefusedRegistrationRenewsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		storetest.Register(t, r, storetest.Instance("web", "Holder"))
		storetest.Register(t, r, storetest.Instance("web", "held"))
		for range 3 {
			storetest.Advance(9 * time.Second)
			var conflict *store.ConflictError
			if _, err := r.Register(t.Context(), storetest.Instance("web", store.Label("Holder")), false); !errors.As(err, &conflict) {
				t.Fatalf("got %v, want a conflict", err)
			}
			if _, err := r.Register(t.Context(), storetest.Instance("web", "held"), true); !errors.Is(err, store.ErrExists) {
				t.Fatalf("got %v, want ErrExists", err)
			}
		}
		storetest.Advance(3 * time.Second)
		if got := storetest.Live(r, "web"); len(got) != 0 {
			t.Errorf("%q live on", got)
		}
	})
}

// A service whose last instance goes is remembered for as long as caches may
// hold something of it, and then forgotten.
func TestSafeAfterOutlivesTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		remove := func() time.Duration {
			t.Helper()
			gone, err := r.Deregister(t.Context(), "web", "a1")
			if err != nil {
				t.Fatal(err)
			}
			return time.Until(gone.SafeAfter)
		}
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if !r.Service("web").HandOut(r.Now().Add(20 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		if got := remove(); got != 20*time.Second {
			t.Errorf("safe after %v, want 20s", got)
		}
		storetest.Advance(5 * time.Second)
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if got := remove(); got != 15*time.Second {
			t.Errorf("registered and removed again: safe after %v, want 15s", got)
		}
		if got := store.ServicesKept(r); got != 1 {
			t.Errorf("%d services are kept, want 1", got)
		}
		storetest.Advance(2 * time.Minute)
		if got := store.ServicesKept(r); got != 0 {
			t.Errorf("%d services are kept when no cache holds them, want none", got)
		}
	})
}

// Heartbeats that meet a change of the lease's length never leave the old one.
func TestHeartbeatMeetsNewLength(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	for round := range 300 {
		id := fmt.Sprintf("a%d", round)
		long := storetest.Instance("web", id)
		long.TTL = 0
		storetest.Register(t, r, long)
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		for range 2 {
			g.Go(func() {
				for ctx.Err() == nil {
					if _, err := r.Heartbeat(ctx, "web", id, store.Beat{}); err != nil {
						t.Errorf("heartbeat: %v", err)
						return
					}
				}
			})
		}
		storetest.Register(t, r, storetest.Instance("web", id))
		cancel()
		g.Wait()
		if m, _ := r.Service("web").ByLabel(id, r.Now()); m.Lease.End().Sub(r.Now()) > store.DefaultTTL {
			t.Fatalf("round %d: the lease lasts %v after it was made %v", round, m.Lease.End().Sub(r.Now()), store.DefaultTTL)
		}
		if _, err := r.Deregister(t.Context(), "web", id); err != nil {
			t.Fatal(err)
		}
	}
}

// crowded is a backend in which a thousand others commit together with each
// update: it takes a while until all of them can be seen.
type crowded struct{ *store.Memory }

func (c crowded) Start(ctx context.Context, restore func(*store.Instance), apply func([]store.Event)) (store.Revision, error) {
	return c.Memory.Start(ctx, restore, func(events []store.Event) {
		last := events[len(events)-1]
		if last.Kind == store.Updated {
			for k := range 1000 {
				other := storetest.Instance(fmt.Sprintf("s%d", k), "other")
				if err := other.Normalize(); err != nil {
					panic(err)
				}
				e := store.Event{Kind: store.Registered, After: other}
				e.Stamp(last.Revision)
				events = append(events, e)
			}
		}
		apply(events)
	})
}

// What a reader hands out from a view while a lease in it is being shortened
// does not outlast that lease.
func TestHandOutMeetsShorterLease(t *testing.T) {
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return crowded{store.NewMemory()} }, store.Config{})
	for round := range 50 {
		id := fmt.Sprintf("a%d", round)
		long := storetest.Instance("web", id)
		long.TTL = time.Hour
		storetest.Register(t, r, long)
		var until store.Instant
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() {
			for first := true; first || ctx.Err() == nil; first = false {
				v, now := r.Service("web"), r.Now()
				m, ok := v.ByLabel(id, now)
				if !ok {
					t.Error("it is gone")
					return
				}
				keep := now.Add(time.Duration(m.Lease.TTL(now, 300))*time.Second + time.Second)
				if v.HandOut(keep) {
					until = max(until, keep)
				}
			}
		})
		short := storetest.Instance("web", id)
		short.TTL = 5 * time.Second // over a second, for TTL 0 counts as one here
		storetest.Register(t, r, short)
		m, _ := r.Service("web").ByLabel(id, r.Now())
		cancel()
		g.Wait()
		if m.Lease == nil || m.Lease.End() < until {
			t.Fatalf("round %d: an answer is kept until %v after the lease's end", round, until.Sub(m.Lease.End()))
		}
		if _, err := r.Deregister(t.Context(), "web", id); err != nil {
			t.Fatal(err)
		}
	}
}

// flaky is a backend that fails while it is told to.
type flaky struct {
	*store.Memory
	mu    sync.Mutex
	fails bool // guarded by mu
	tries int  // guarded by mu
}

func (f *flaky) Commit(ctx context.Context, events []store.Event) error {
	f.mu.Lock()
	f.tries++
	fails := f.fails
	f.mu.Unlock()
	if fails {
		return fmt.Errorf("disk: %w", store.ErrNotDurable)
	}
	return f.Memory.Commit(ctx, events)
}

// Where removals cannot be made durable the instances are out of all answers,
// and the removal is tried again at growing intervals.
func TestSweepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &flaky{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		for k := range 3000 {
			storetest.Register(t, r, storetest.Instance("web", fmt.Sprint(k)))
		}
		b.mu.Lock()
		b.fails, b.tries = true, 0
		b.mu.Unlock()
		storetest.Advance(90 * time.Second)
		if got := storetest.Live(r, "web"); len(got) != 0 || r.Len() != 3000 {
			t.Errorf("%d live, %d are registered", len(got), r.Len())
		}
		b.mu.Lock()
		tries := b.tries
		b.fails = false
		b.mu.Unlock()
		if tries < 5 || tries > 20 {
			t.Errorf("tried %d times in a minute", tries)
		}
		storetest.Advance(30 * time.Second)
		if r.Len() != 0 {
			t.Errorf("%d are left", r.Len())
		}
	})
}
