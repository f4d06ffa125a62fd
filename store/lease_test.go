package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func memory(*testing.T) store.Backend { return store.NewMemory() }

// member returns the one instance of web, which must be live.
func member(t *testing.T, r *store.Registry) store.Member {
	t.Helper()
	for m := range r.Service("web").Members(r.Now()) {
		return m
	}
	t.Fatal("web has no live instance")
	return store.Member{}
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		i := storetest.Instance("web", "a1")
		i.TTL = 10 * time.Second
		storetest.Register(t, r, i)
		lease, start := member(t, r).Lease, r.Now()
		for _, c := range []struct {
			after time.Duration
			limit uint32
			want  uint32
		}{
			{0, 30, 9},
			{0, 5, 5},
			{0, 0, 0},
			{time.Nanosecond, 30, 8}, // nine whole seconds are left, less one
			{time.Second, 30, 8},
			{7999 * time.Millisecond, 30, 1},
			{8 * time.Second, 30, 1},
			{8001 * time.Millisecond, 30, 0},
			{9 * time.Second, 30, 0},
			{10 * time.Second, 30, 0},
			{11 * time.Second, 30, 0},
			{1000 * time.Hour, 30, 0},
		} {
			if got := lease.TTL(start.Add(c.after), c.limit); got != c.want {
				t.Errorf("after %v with a limit of %d: TTL %d, want %d", c.after, c.limit, got, c.want)
			}
		}
		if !lease.Alive(start.Add(10*time.Second-1)) || lease.Alive(start.Add(10*time.Second)) {
			t.Error("a lease of 10 s lasts for 10 s, and not at its end")
		}
		storetest.Advance(10 * time.Second)
		if got := lease.TTL(r.Now(), 30); got != 0 {
			t.Errorf("an expired lease has TTL %d", got)
		}
	})
}

func TestPermanentTTL(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	i := storetest.Instance("web", "a1")
	i.TTL = 0
	reg := storetest.Register(t, r, i)
	if got := member(t, r).Lease.TTL(r.Now(), 30); got != 30 {
		t.Errorf("a permanent instance has TTL %d, want the largest", got)
	}
	if !reg.Expires.IsZero() {
		t.Errorf("a permanent instance expires at %v", reg.Expires)
	}
}

// A smaller lease never ends before the moment at which the last honest cache
// has forgotten the instance.
func TestShorterLeaseOutlastsCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		shorten := func() time.Duration {
			t.Helper()
			ttl := 2 * time.Second
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{TTL: &ttl}); err != nil {
				t.Fatal(err)
			}
			return member(t, r).Lease.End().Sub(r.Now())
		}
		if !r.Service("web").HandOut(r.Now().Add(11 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		if got := shorten(); got != 11*time.Second {
			t.Errorf("with an answer in caches for 11 s the lease lasts %v", got)
		}
		storetest.Advance(11 * time.Second)
		if got := storetest.Live(r, "web"); len(got) != 0 {
			t.Errorf("%q live on", got)
		}

		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if got := shorten(); got != 2*time.Second {
			t.Errorf("with nothing in caches the lease lasts %v", got)
		}
	})
}

func TestSafeAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		remove := func(keep time.Duration) time.Duration {
			t.Helper()
			storetest.Register(t, r, storetest.Instance("web", "a1"))
			storetest.Register(t, r, storetest.Instance("web", "a2"))
			v := r.Service("web")
			if keep > 0 && !v.HandOut(r.Now().Add(keep)) {
				t.Fatal("the view is not the present one")
			}
			gone, err := r.Deregister(t.Context(), "web", "a1")
			if err != nil {
				t.Fatal(err)
			}
			if v.HandOut(r.Now().Add(keep)) {
				t.Error("an answer from the view before a removal may be sent after it")
			}
			return time.Until(gone.SafeAfter)
		}
		if got := remove(0); got != 0 {
			t.Errorf("never answered: safe after %v, want at once", got)
		}
		storetest.Advance(time.Minute)
		if got := remove(11 * time.Second); got != 11*time.Second {
			t.Errorf("answered for 11 s: safe after %v", got)
		}
		storetest.Advance(time.Minute)
		if got := remove(time.Hour); got != store.DefaultTTL {
			t.Errorf("safe after %v, want the lease's end at the latest", got)
		}
	})
}

// Instances that heartbeat are never gone, however long; the heap of deadlines
// keeps one entry for each.
func TestHeartbeatsKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		i := storetest.Instance("web", "a1")
		i.TTL = 3 * time.Second
		storetest.Register(t, r, i)
		for range 200 {
			storetest.Advance(2999 * time.Millisecond)
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{}); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Revision(); got != member(t, r).Revision {
			t.Error("heartbeats moved the revision")
		}
		if got := store.Deadlines(r); got != 1 {
			t.Errorf("%d deadlines wait, want 1", got)
		}
	})
}

// A hundred thousand leases that end in one second are all gone at their end.
func TestManyExpireTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		const services, each = 1000, 20
		for s := range services {
			for k := range each {
				i := storetest.Instance("s"+string(rune('a'+s%26))+time.Duration(s).String(), time.Duration(k).String())
				i.TTL = 5 * time.Second
				storetest.Register(t, r, i)
			}
		}
		if got := r.Len(); got != services*each {
			t.Fatalf("%d are registered, want %d", got, services*each)
		}
		storetest.Advance(5 * time.Second)
		if got := r.Len(); got != 0 {
			t.Errorf("%d are left after their end", got)
		}
		if got := store.Deadlines(r); got != 0 {
			t.Errorf("%d deadlines are left", got)
		}
		for v := range r.Services {
			t.Fatalf("service %s is left", v.Service)
		}
		if r.HasProtocol(store.TCP) {
			t.Error("a protocol is left")
		}
	})
}
