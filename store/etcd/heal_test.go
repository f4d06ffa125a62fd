package etcd_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// What has died while a server was cut off is gone there when it is back; what
// lives stays, at any moment and without an event.
func TestDeadAndLiveAfterCut(t *testing.T) {
	for name, fault := range faults {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			for _, id := range []string{"dead", "lives", "moves"} {
				storetest.Register(t, b.Registry, instance(id, 5*time.Second))
			}
			a.keep(t, "lives", time.Second)
			b.mustBeat(t, "dead")
			history := b.watchEvents(t)
			b.client.Cut(fault)
			a.keep(t, "moves", time.Second)
			live := func() {
				if !b.has("lives") || !b.has("moves") {
					t.Fatalf("b only has %v", storetest.Live(b.Registry, "web"))
				}
			}
			sample(20*time.Second, 50*time.Millisecond, live)
			if !b.has("dead") || a.has("dead") {
				t.Errorf("cut off: b has the dead: %v, a has it: %v", b.has("dead"), a.has("dead"))
			}
			b.client.Heal()
			sample(600*time.Millisecond, 5*time.Millisecond, live)
			if b.has("dead") {
				t.Error("b still has the dead")
			}
			sample(10*time.Second, 50*time.Millisecond, live)
			same(t, a, b)
			if events := brief(history()); len(events) != 1 || events[0].id != "dead" || events[0].kind != store.Expired {
				t.Errorf("b has published %v", events)
			}
		})
	}
}

// However long a server was cut off: what another has kept alive meanwhile is
// there, and nobody removes it.
func TestKeptAliveDuringCut(t *testing.T) {
	for lasts := 2 * time.Second; lasts < 100*time.Second; lasts += 3300 * time.Millisecond {
		subbubble(t, lasts.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			history := a.watchEvents(t)
			storetest.Register(t, b.Registry, instance("1", 30*time.Second))
			a.keep(t, "1", 10*time.Second)
			same(t, a, b)
			b.client.Cut(etcdtest.Hangs)
			storetest.Advance(5 * time.Second)
			storetest.Register(t, a.Registry, instance("new", 30*time.Second))
			a.keep(t, "new", 10*time.Second)
			if rest := lasts - 5*time.Second; rest > 0 {
				storetest.Advance(rest)
			}
			b.client.Heal()
			storetest.Advance(600 * time.Millisecond)
			sample(30*time.Second, 100*time.Millisecond, func() {
				if !b.has("1") || !b.has("new") {
					t.Fatalf("b only has %v", storetest.Live(b.Registry, "web"))
				}
			})
			if n := count(history(), store.Expired); n > 0 {
				t.Errorf("%d have been removed", n)
			}
		})
	}
}

// What was drained elsewhere during a cut goes when that was promised.
func TestDrainedDuringCut(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		storetest.Register(t, b.Registry, instance("1", time.Minute))
		same(t, a, b)
		b.client.Cut(etcdtest.Hangs)
		storetest.Advance(20 * time.Second)
		gone, err := a.Drain(t.Context(), "web", "1")
		if err != nil {
			t.Fatal(err)
		}
		storetest.Advance(5 * time.Second)
		b.client.Heal()
		storetest.Advance(600 * time.Millisecond)
		for time.Now().Before(gone.SafeAfter.Add(-1200 * time.Millisecond)) {
			if !a.has("1") || !b.has("1") {
				t.Fatalf("%v before its time: a has it: %v, b has it: %v", time.Until(gone.SafeAfter), a.has("1"), b.has("1"))
			}
			storetest.Advance(100 * time.Millisecond)
		}
		storetest.Advance(time.Until(gone.SafeAfter))
		if a.has("1") || b.has("1") {
			t.Errorf("at its time: a has it: %v, b has it: %v", a.has("1"), b.has("1"))
		}
	})
}

// A server that hears late of a drain, or of a shorter TTL, does not keep the
// instance for longer than was said where that was decided.
func TestShortenedHeardOfLate(t *testing.T) {
	for late, cut := range map[time.Duration]func(*etcdtest.Client){
		50 * time.Millisecond: (*etcdtest.Client).Pause,
		10 * time.Second:      func(c *etcdtest.Client) { c.Cut(etcdtest.Hangs) },
	} {
		subbubble(t, late.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			for _, id := range []string{"drained", "shortened"} {
				storetest.Register(t, a.Registry, instance(id, time.Hour))
			}
			same(t, a, b)
			cut(b.client)
			a.drained(t, "drained")
			ttl := 20 * time.Second
			if _, err := a.Heartbeat(t.Context(), "web", "shortened", store.Beat{TTL: &ttl}); err != nil {
				t.Fatal(err)
			}
			storetest.Advance(late)
			b.client.Resume()
			b.client.Heal()
			storetest.Advance(2 * time.Second)
			if b.stale() {
				t.Fatal("it is stale")
			}
			for _, id := range []string{"drained", "shortened"} {
				if d := b.ends(t, id).Sub(a.ends(t, id)); d > 0 || d < -400*time.Millisecond {
					t.Errorf("%s ends %v later than where that was decided", id, d)
				}
			}
		})
	}
}

// What was handed out by a lease that was renewed here, and of which who has drained
// it did not know yet, is in caches all the same.
func TestRenewedBeforeDrainIsHeardOf(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		storetest.Register(t, a.Registry, instance("1", 10*time.Second))
		storetest.Advance(5 * time.Second)
		b.client.Pause()
		a.drained(t, "1")
		storetest.Advance(400 * time.Millisecond)
		b.Renew([]byte("web"), []byte("1"))
		cached := b.Now().Add(10 * time.Second)
		b.Service("web").HandOut(cached)
		b.client.Resume()
		storetest.Advance(time.Second)
		if d := b.lease("1").End().Sub(cached); d < 0 || d > time.Millisecond {
			t.Errorf("it ends %v after the last cache forgets it", d)
		}
	})
}

// What was drained before a cut goes when that was promised, and no sooner because
// the server then catches up with the others.
func TestDrainedBeforeCut(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		storetest.Register(t, b.Registry, instance("1", time.Minute))
		gone, err := b.Drain(t.Context(), "web", "1")
		if err != nil {
			t.Fatal(err)
		}
		same(t, a, b)
		b.client.Cut(etcdtest.Hangs)
		sample(20*time.Second, 100*time.Millisecond, func() {
			if left := b.lease("1").End().Sub(b.Now()); left > time.Until(gone.SafeAfter) {
				t.Fatalf("%v before its time %v of its lease are left", time.Until(gone.SafeAfter), left)
			}
		})
		b.client.Heal()
		for time.Now().Before(gone.SafeAfter.Add(-1200 * time.Millisecond)) {
			if !a.has("1") || !b.has("1") {
				t.Fatalf("%v before its time: a has it: %v, b has it: %v", time.Until(gone.SafeAfter), a.has("1"), b.has("1"))
			}
			storetest.Advance(100 * time.Millisecond)
		}
		storetest.Advance(time.Until(gone.SafeAfter))
		if a.has("1") || b.has("1") {
			t.Errorf("at its time: a has it: %v, b has it: %v", a.has("1"), b.has("1"))
		}
	})
}

// Where etcd has dropped what a server has missed, it reads all again:
// subscribers are told, and what lives is there at any moment.
func TestCompactedWhileCut(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for _, id := range []string{"dead", "gone", "lives", "changed"} {
			storetest.Register(t, b.Registry, instance(id, 5*time.Second))
		}
		a.keep(t, "lives", time.Second)
		a.keep(t, "changed", time.Second)
		before := b.Revision()
		sub, _, err := b.Subscribe("web", before, 100)
		if err != nil {
			t.Fatal(err)
		}
		b.client.Cut(etcdtest.Hangs)
		storetest.Advance(10 * time.Second)
		ttl := 7 * time.Second
		if _, err := a.Heartbeat(t.Context(), "web", "changed", store.Beat{TTL: &ttl}); err != nil {
			t.Fatal(err)
		}
		storetest.Register(t, a.Registry, instance("new", 5*time.Second))
		a.keep(t, "new", time.Second)
		if _, err := a.client.Compact(t.Context(), cluster.Revision()); err != nil {
			t.Fatal(err)
		}
		b.client.Heal()
		sample(600*time.Millisecond, time.Millisecond, func() {
			if !b.has("lives") || !b.has("changed") {
				t.Fatalf("b only has %v", storetest.Live(b.Registry, "web"))
			}
		})
		if b.stale() || !b.has("new") || b.has("dead") || b.has("gone") {
			t.Errorf("stale: %v, it has %v", b.stale(), storetest.Live(b.Registry, "web"))
		}
		synctest.Wait()
		if e, open := <-sub.C; open || !errors.Is(sub.Err(), store.ErrLagged) {
			t.Errorf("the subscription brings %v, and has ended with %v", e, sub.Err())
		}
		if _, err := b.Since("", before); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("since before the cut: %v", err)
		}
		if c := b.etcd.Counts(); c.Resyncs != 1 {
			t.Errorf("all was read %d times", c.Resyncs)
		}
		same(t, a, b)
		if d := b.ends(t, "lives").Sub(a.ends(t, "lives")); d > 0 {
			t.Errorf("on b a lease ends %v later", d)
		}
		storetest.Advance(10 * time.Second)
		same(t, a, b)
	})
}
