package etcd_test

import (
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// longTTL is that of a server whose --max-ttl is not that of the others.
const longTTL = 5 * time.Minute

func startLong(t *testing.T, cluster *etcdtest.Cluster, name string) *server {
	t.Helper()
	return startAs(t, cluster, etcd.Config{Name: name}, store.Config{MaxTTL: longTTL}, "")
}

// drained drains an instance of web and returns for how long caches may hold it.
func (s *server) drained(t *testing.T, id string) time.Duration {
	t.Helper()
	gone, err := s.Drain(t.Context(), "web", id)
	if err != nil {
		t.Fatalf("drain %s: %v", id, err)
	}
	return time.Until(gone.SafeAfter)
}

// What another server has answered with longer TTLs stays in caches, also when it
// is gone: nobody says before that caches have forgotten it.
func TestLongestTTLOfAnyServer(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := start(t, cluster, "a"), startLong(t, cluster, "b")
		for _, id := range []string{"drains", "goes", "shortened", "later"} {
			storetest.Register(t, a.Registry, instance(id, time.Hour))
		}
		if d := a.drained(t, "drains"); d < longTTL+time.Second {
			t.Errorf("drained with a, caches hold it for %v", d)
		}
		gone, err := a.Deregister(t.Context(), "web", "goes")
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(gone.SafeAfter); d < longTTL+time.Second {
			t.Errorf("deregistered with a, caches hold it for %v", d)
		}
		ttl := 10 * time.Second
		if _, err := a.Heartbeat(t.Context(), "web", "shortened", store.Beat{TTL: &ttl}); err != nil {
			t.Fatal(err)
		}
		c := start(t, cluster, "c")
		for name, s := range map[string]*server{"a": a, "b": b, "a new one": c} {
			if d := time.Until(s.ends(t, "shortened")); d < longTTL {
				t.Errorf("on %s the lease that got shorter lasts for %v", name, d)
			}
		}
		c.close()
		b.kill() // but it may come back
		storetest.Advance(9 * time.Second)
		if d := a.drained(t, "later"); d < longTTL {
			t.Errorf("drained when b was killed, caches hold it for %v", d)
		}
	})
}

// The last server that is left does not take what those that are gone have
// answered for forgotten; once it is, nobody waits for it.
func TestAloneAfterOthers(t *testing.T) {
	for name, end := range map[string]func(*server){"Closed": func(s *server) { s.close() }, "Killed": (*server).kill} {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := start(t, cluster, "a"), startLong(t, cluster, "b")
			for _, id := range []string{"soon", "late"} {
				storetest.Register(t, a.Registry, instance(id, time.Hour))
			}
			end(b)
			storetest.Advance(15 * time.Second)
			if !a.etcd.Alone() {
				t.Fatal("a is not alone")
			}
			if d := a.drained(t, "soon"); d < longTTL-14*time.Second {
				t.Errorf("15 s after b, caches hold it for %v", d)
			}
			storetest.Advance(longTTL)
			if d := a.drained(t, "late"); d > time.Second {
				t.Errorf("long after b, caches hold it for %v", d)
			}
		})
	}
}

// A drain that was decided before it was known that a server with longer TTLs
// has joined is decided again: that server may have answered already, by a lease
// that it has renewed.
func TestJoinsWithLongerTTL(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		storetest.Register(t, b.Registry, instance("1", 10*time.Minute))
		storetest.Advance(10*time.Minute - 40*time.Second)
		b.client.Pause()
		key, value := etcd.Tick("ffffffffffffffff", "c", 1, a.Age(), a.Now(), cluster.Revision(), longTTL)
		if _, err := a.client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var gone store.Removal
		go func() {
			var err error
			gone, err = b.Drain(t.Context(), "web", "1")
			done <- err
		}()
		storetest.Advance(10 * time.Millisecond)
		b.client.Resume()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Until(gone.SafeAfter); d < longTTL {
			t.Errorf("drained with b, caches hold it for %v", d)
		}
	})
}

// Where no server is up, the TTLs of those that were killed count.
func TestStartsAfterLongerTTL(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a := startLong(t, cluster, "a")
		for _, id := range []string{"1", "2"} {
			storetest.Register(t, a.Registry, instance(id, time.Hour))
		}
		a.drained(t, "1")
		a.kill()
		b := start(t, cluster, "b")
		if d := time.Until(b.ends(t, "1")); d < longTTL || d > longTTL+2*time.Second {
			t.Errorf("it drains for %v", d)
		}
		if d := b.drained(t, "2"); d < longTTL {
			t.Errorf("drained now, caches hold it for %v", d)
		}
	})
}
