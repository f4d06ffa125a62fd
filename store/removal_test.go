package store_test

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// A drained instance stays under its own name until the last cache has
// forgotten it, whatever heartbeats come, and is then removed.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		sub, _, err := r.Subscribe("web", r.Revision(), 10)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		v := r.Service("web")
		if !v.HandOut(r.Now().Add(11 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		gone, err := r.Drain(t.Context(), "web", "a1")
		if err != nil || time.Until(gone.SafeAfter) != 11*time.Second || gone.Revision != r.Revision() {
			t.Fatalf("safe after %v, revision %d, %v; want 11s, %d", time.Until(gone.SafeAfter), gone.Revision, err, r.Revision())
		}
		if v.HandOut(r.Now().Add(30 * time.Second)) {
			t.Error("an answer from before the drain may be sent after it")
		}
		again, err := r.Drain(t.Context(), "web", "a1")
		if err != nil || again != gone {
			t.Errorf("the second time: %v, %v; want %v", again, err, gone)
		}
		for range 10 {
			m := member(t, r)
			if m.Status != store.Draining || m.Lease.End().Sub(r.Now()) != time.Until(gone.SafeAfter) {
				t.Errorf("it is %s until %v, want draining until %v", m.Status, m.Lease.End(), gone.SafeAfter)
			}
			if ttl := m.Lease.TTL(r.Now(), 30); time.Duration(ttl+1)*time.Second > time.Until(gone.SafeAfter) {
				t.Errorf("its own name has TTL %d, %v before it is gone", ttl, time.Until(gone.SafeAfter))
			}
			longer := time.Hour
			for _, b := range []store.Beat{{}, {TTL: &longer}, {Weight: new(uint16(77))}, {Status: new(store.Draining)}} {
				if _, err := r.Heartbeat(t.Context(), "web", "a1", b); err != nil {
					t.Errorf("heartbeat: %v", err)
				}
			}
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{Status: new(store.Up)}); !errors.Is(err, store.ErrDraining) {
				t.Errorf("a heartbeat that says up: %v, want ErrDraining", err)
			}
			storetest.Advance(time.Second)
		}
		storetest.Advance(999 * time.Millisecond)
		member(t, r)
		storetest.Advance(time.Millisecond)
		if got := storetest.Live(r, "web"); len(got) != 0 || r.Len() != 0 {
			t.Errorf("%q live on, %d are registered", got, r.Len())
		}
		for _, want := range []store.Kind{store.Registered, store.StatusChanged, store.Deregistered} {
			if e := <-sub.C; e.Kind != want {
				t.Errorf("a %s event, want %s", e.Kind, want)
			}
		}
	})
}

// Never answered for: gone at once. Never after the lease's end. A permanent
// instance goes as well.
func TestDrainBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		for name, c := range map[string]struct{ ttl, kept, want time.Duration }{
			"unseen":    {30 * time.Second, 0, 0},
			"short":     {5 * time.Second, 20 * time.Second, 5 * time.Second},
			"permanent": {0, 20 * time.Second, 20 * time.Second},
		} {
			i := storetest.Instance(name, "a1")
			i.TTL = c.ttl
			storetest.Register(t, r, i)
			if c.kept > 0 && !r.Service(name).HandOut(r.Now().Add(c.kept)) {
				t.Fatal("the view is not the present one")
			}
			gone, err := r.Drain(t.Context(), name, "a1")
			// Lease.set may need a nanosecond to show that the length is another.
			if err != nil || time.Until(gone.SafeAfter).Truncate(time.Microsecond) != c.want {
				t.Errorf("%s: safe after %v, %v; want %v", name, time.Until(gone.SafeAfter), err, c.want)
			}
			storetest.Advance(c.want + time.Microsecond)
			if got := storetest.Live(r, name); len(got) != 0 {
				t.Errorf("%s: %q live on", name, got)
			}
		}
		if _, err := r.Drain(t.Context(), "web", "nobody"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("drain nobody: %v", err)
		}
	})
}

// Registered again, a drained instance is an ordinary one.
func TestRegisterEndsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		for _, ttl := range []time.Duration{30 * time.Second, 0} {
			fresh := func() *store.Instance {
				i := storetest.Instance("web", "a1")
				i.TTL = ttl
				return i
			}
			storetest.Register(t, r, fresh())
			if !r.Service("web").HandOut(r.Now().Add(5 * time.Second)) {
				t.Fatal("the view is not the present one")
			}
			if _, err := r.Drain(t.Context(), "web", "a1"); err != nil {
				t.Fatal(err)
			}
			storetest.Advance(time.Second)
			if reg := storetest.Register(t, r, fresh()); reg.Created || reg.Status != store.Up || reg.Leaving {
				t.Errorf("registered again: created %v, %s, leaving %v", reg.Created, reg.Status, reg.Leaving)
			}
			for range 4 {
				storetest.Advance(20 * time.Second)
				if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{}); err != nil {
					t.Errorf("heartbeat: %v", err)
				}
			}
			if _, err := r.Deregister(t.Context(), "web", "a1"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Whenever somebody looks while the lease clock stands, drains have the TTL and
// the end that was said; and all that is left of them when it goes on.
func TestDrainsWhileClockStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		random := rand.New(rand.NewPCG(1, 2))
		safe := map[string]time.Time{}
		drain := func() {
			i := storetest.Instance("s"+strconv.Itoa(len(safe)), "a1")
			i.TTL = time.Minute
			storetest.Register(t, r, i)
			r.Service(i.Service).HandOut(r.Now().Add(time.Duration(random.IntN(20_000)) * time.Millisecond))
			gone, err := r.Drain(t.Context(), i.Service, "a1")
			if err != nil {
				t.Fatal(err)
			}
			safe[i.Service] = gone.SafeAfter
		}
		check := func(stands bool) {
			now := r.Now()
			for service, end := range safe {
				left := time.Until(end)
				v := r.Service(service)
				if v == nil {
					if left > 0 {
						t.Fatalf("%s is gone %v before it is safe", service, left)
					}
					continue
				}
				l := v.All()[0].Lease
				if got, want := l.TTL(now, 30), uint32(max(left/time.Second-1, 0)); got != want || l.Alive(now) != (left > 0) {
					t.Fatalf("%v before it is safe %s has TTL %d, want %d, lives: %v", left, service, got, want, l.Alive(now))
				}
				if left <= 0 {
					continue // it may have been judged
				}
				if got := l.End().Sub(now); got > left || !stands && got != left {
					t.Fatalf("%v before it is safe %s has %v left; the clock stands: %v", left, service, got, stands)
				}
			}
		}
		for range 50 {
			drain()
		}
		for range 6 {
			release := r.Hold()
			storetest.Advance(store.WindTime + 1)
			for range 20 {
				storetest.Advance(time.Duration(random.IntN(150)) * time.Millisecond) // also right on whole seconds
				check(true)
				drain()
			}
			for service, end := range safe {
				if time.Until(end) <= 0 {
					continue
				}
				again, err := r.Drain(t.Context(), service, "a1")
				if err != nil || !again.SafeAfter.Equal(end) {
					t.Fatalf("drained again, %s is safe after %v, %v; want %v", service, again.SafeAfter, err, end)
				}
			}
			release()
			storetest.Advance(store.TickTime)
			check(false)
			storetest.Advance(time.Second)
			check(false)
		}
	})
}

// A query between the moment at which drains are put right and that at which the
// clock goes takes nothing from them.
func TestDrainAskedForWhileClockGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		store.AfterGoesOn(r, func() { r.Now() })
		i := storetest.Instance("web", "a1")
		i.TTL = time.Minute
		storetest.Register(t, r, i)
		r.Service("web").HandOut(r.Now().Add(9700 * time.Millisecond))
		gone, err := r.Drain(t.Context(), "web", "a1")
		if err != nil {
			t.Fatal(err)
		}
		release := r.Hold()
		storetest.Advance(3 * time.Second)
		release()
		storetest.Advance(time.Until(gone.SafeAfter) - 100*time.Millisecond)
		if v := r.Service("web"); v == nil || !v.All()[0].Lease.Alive(r.Now()) {
			t.Errorf("it is gone %v before it is safe", time.Until(gone.SafeAfter))
		}
	})
}
