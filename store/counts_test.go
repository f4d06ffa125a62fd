package store_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// Every change is counted once, and every heartbeat with what it left of the
// lease.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{})
		defer done()
		register := func(id string, ttl time.Duration, port uint16) {
			t.Helper()
			i := storetest.Instance("web", id)
			i.TTL, i.Port = ttl, port
			if _, err := r.Register(t.Context(), i, false); err != nil {
				t.Fatal(err)
			}
		}
		beat := func(id string, b store.Beat) {
			t.Helper()
			if _, err := r.Heartbeat(t.Context(), "web", id, b); err != nil {
				t.Fatal(err)
			}
		}
		register("a1", 30*time.Second, 80)
		register("p1", 0, 80)
		down := store.Down
		beat("p1", store.Beat{Status: &down}) // and so a change of status
		storetest.Advance(12 * time.Second)
		if !r.Renew([]byte("web"), []byte("a1")) { // 18 of 30 s left
			t.Fatal("a1 is not there")
		}
		register("a1", 30*time.Second, 80)  // all of it
		register("a1", 30*time.Second, 81)  // an update, and all of it
		storetest.Advance(29 * time.Second) // 1 of 30 s
		beat("a1", store.Beat{})
		if _, err := r.Heartbeat(t.Context(), "web", "nobody", store.Beat{}); err == nil {
			t.Fatal("nobody has a lease")
		}
		if _, err := r.Deregister(t.Context(), "web", "p1"); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(31 * time.Second)

		c := r.Counts()
		for kind, want := range map[store.Kind]uint64{
			store.Registered: 2, store.Updated: 1, store.StatusChanged: 1, store.Deregistered: 1, store.Expired: 1,
		} {
			if got := c.Changes[kind]; got != want {
				t.Errorf("%v: %d, want %d", kind, got, want)
			}
		}
		if c.Heartbeats != 5 {
			t.Errorf("%d heartbeats, want 5", c.Heartbeats)
		}
		if want := []uint64{1, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0}; !slices.Equal(c.LeaseLeft.Cells, want) {
			t.Errorf("lease left %v, want %v", c.LeaseLeft.Cells, want)
		}
		if want := int64(600 + 2*1000 + 33); c.LeaseLeft.Sum != want {
			t.Errorf("lease left %d in all, want %d", c.LeaseLeft.Sum, want)
		}
	})
}

// What is being drained renews nothing, whatever it sends, and its end is the
// removal that was asked for, whoever finds it first.
func TestCountsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := store.Open(t.Context(), store.NewMemory(), store.Config{}) // nobody sweeps
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		r.Service("web").HandOut(r.Now().Add(20 * time.Second))
		if _, err := r.Drain(t.Context(), "web", "a1"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{}); err != nil {
			t.Fatal(err)
		}
		if c := r.Counts(); c.Heartbeats != 0 || c.LeaseLeft.Sum != 0 {
			t.Errorf("%d heartbeats, lease left %d in all, want none", c.Heartbeats, c.LeaseLeft.Sum)
		}
		storetest.Advance(time.Minute)
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if c := r.Counts().Changes; c[store.Deregistered] != 1 || c[store.Expired] != 0 {
			t.Errorf("%d deregistered, %d expired, want 1 and 0", c[store.Deregistered], c[store.Expired])
		}
	})
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	h := store.NewHistogram(1, 10, 100)
	for _, n := range []int64{0, 1, 2, 10, 11, 100, 101, 1000} {
		h.Count(n)
	}
	d := h.Read()
	if !slices.Equal(d.Bounds, []int64{1, 10, 100}) || !slices.Equal(d.Cells, []uint64{2, 2, 2, 2}) || d.Sum != 1225 {
		t.Errorf("got %+v", d)
	}
}
