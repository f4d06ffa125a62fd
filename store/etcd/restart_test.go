package etcd_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// A server that is started while another one is up takes leases as they are:
// never longer, and little shorter.
func TestStartsBesideAnother(t *testing.T) {
	for _, delay := range []time.Duration{0, 30 * time.Millisecond, 150 * time.Millisecond} {
		subbubble(t, delay.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			a := start(t, cluster, "a")
			a.client.Delay(delay)
			i := instance("permanent", 0)
			storetest.Register(t, a.Registry, i)
			for k := range 20 {
				storetest.Register(t, a.Registry, instance(fmt.Sprint("i", k), time.Duration(10+k)*time.Second))
				storetest.Advance(330 * time.Millisecond)
			}
			for k := range 10 {
				a.mustBeat(t, fmt.Sprint("i", 2*k))
				storetest.Advance(110 * time.Millisecond)
			}
			b := start(t, cluster, "b")
			for round := range 2 {
				same(t, a, b)
				for k := range 20 {
					id := fmt.Sprint("i", k)
					if !a.has(id) {
						continue
					}
					if d := b.ends(t, id).Sub(a.ends(t, id)); d > 0 || d < -1300*time.Millisecond {
						t.Errorf("round %d: on b the lease of %s ends %v later", round, id, d)
					}
				}
				if end := b.lease("permanent").End(); end != store.Never {
					t.Errorf("what is permanent ends at %v", end)
				}
				storetest.Advance(2 * time.Second)
			}
		})
	}
}

// What the shortest leases need goes on while servers come and go.
func TestShortLeasesWhileServersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a := start(t, cluster, "a")
		storetest.Register(t, a.Registry, instance("1", time.Second))
		a.keep(t, "1", 333*time.Millisecond)
		storetest.Advance(500 * time.Millisecond)
		for k := range 10 {
			b := start(t, cluster, "b")
			sample(time.Duration(700+110*k)*time.Millisecond, 10*time.Millisecond, func() {
				if !a.has("1") || !b.has("1") {
					t.Fatalf("%d: a has it: %v, b has it: %v", k, a.has("1"), b.has("1"))
				}
			})
			if k%2 == 0 {
				b.close()
			} else {
				b.kill()
			}
			storetest.Advance(100 * time.Millisecond)
		}
	})
}

// Where no server was up, nobody could send a heartbeat: all leases are fresh.
// It makes no difference how the last one ended.
func TestStartsAlone(t *testing.T) {
	for name, end := range map[string]func(*server){"Closed": func(s *server) { s.close() }, "Killed": (*server).kill} {
		for _, after := range []time.Duration{0, 5 * time.Second, time.Hour} {
			subbubble(t, fmt.Sprint(name, after), func(t *testing.T, cluster *etcdtest.Cluster) {
				a := start(t, cluster, "a")
				storetest.Register(t, a.Registry, instance("1", 10*time.Second))
				storetest.Register(t, a.Registry, instance("2", time.Minute))
				storetest.Register(t, a.Registry, instance("drains", time.Minute))
				storetest.Register(t, a.Registry, instance("permanent", 0))
				storetest.Advance(5 * time.Second)
				a.mustBeat(t, "2") // a batch says so
				gone, err := a.Drain(t.Context(), "web", "drains")
				if err != nil {
					t.Fatal(err)
				}
				want, at := a.all(), a.Revision()
				end(a)
				storetest.Advance(after)
				b := start(t, cluster, "b")
				if b.Revision() < at || len(b.all()) != len(want) {
					t.Errorf("at revision %d, before %d; it has %v", b.Revision(), at, b.all())
				}
				for id, ttl := range map[string]time.Duration{"1": 10 * time.Second, "2": time.Minute} {
					if left := time.Until(b.ends(t, id)); left > ttl || left < ttl-time.Second {
						t.Errorf("the lease of %s lasts for %v", id, left)
					}
				}
				if left := time.Until(b.ends(t, "drains")); left > 31*time.Second || left < 29*time.Second || gone.SafeAfter.IsZero() {
					t.Errorf("it drains for %v", left)
				}
				storetest.Advance(32 * time.Second)
				if got := storetest.Live(b.Registry, "web"); !slices.Equal(got, []string{"2", "permanent"}) {
					t.Errorf("later there is %v", got)
				}
				storetest.Advance(time.Minute)
				if got := storetest.Live(b.Registry, "web"); !slices.Equal(got, []string{"permanent"}) || b.Len() != 1 {
					t.Errorf("in the end there is %v", got)
				}
			})
		}
	}
}

// A server that ends without a word is gone for the others after ten seconds,
// with all that it kept in etcd.
func TestKilled(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for k := range 5 {
			storetest.Register(t, b.Registry, instance(fmt.Sprint("i", k), 20*time.Second))
			storetest.Advance(100 * time.Millisecond)
			b.mustBeat(t, fmt.Sprint("i", k))
		}
		if got := a.etcd.Servers(); !slices.Equal(got, []string{"b"}) || a.etcd.Alone() {
			t.Errorf("a knows of %v", got)
		}
		b.kill()
		storetest.Advance(9500 * time.Millisecond)
		if a.etcd.Alone() {
			t.Error("after 9.5 s a takes b for gone")
		}
		storetest.Advance(1100 * time.Millisecond)
		if got := a.etcd.Servers(); len(got) != 0 || !a.etcd.Alone() {
			t.Errorf("after 10.6 s a knows of %v", got)
		}
		if n := len(keys(t, a, "/roster/servers/")); n != 1 {
			t.Errorf("%d servers are in etcd", n)
		}
		storetest.Advance(15 * time.Second)
		if a.Len() != 0 || len(keys(t, a, "/roster/instances/")) != 0 {
			t.Errorf("there is still %v", a.all())
		}
		if got := keys(t, a, "/roster/renewals/"); len(got) != 0 {
			t.Errorf("batches are left: %v", got)
		}
		// It was only away, and comes again.
		b.client.Heal()
		storetest.Advance(2 * time.Second)
		same(t, a, b)
		if b.stale() || len(a.etcd.Servers()) != 1 || len(b.etcd.Servers()) != 1 {
			t.Errorf("b is stale: %v; known are %v and %v", b.stale(), a.etcd.Servers(), b.etcd.Servers())
		}
	})
}

// Who was killed is not said to be up for long, also by a server that is started
// then.
func TestServersThatAreUp(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		up := func(s *server, want ...string) {
			t.Helper()
			if got := s.etcd.Servers(); !slices.Equal(got, want) {
				t.Errorf("up are %v, want %v", got, want)
			}
		}
		b.kill()
		storetest.Advance(1700 * time.Millisecond)
		up(a, "b")
		storetest.Advance(400 * time.Millisecond)
		up(a)
		up(b, "a") // it may not have heard
		c := start(t, cluster, "c")
		up(c, "a")
		b.client.Heal()
		storetest.Advance(2 * time.Second)
		up(a, "b", "c")
	})
}

// Batches of renewals do not pile up.
func TestBatchesAreDeleted(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for k := range 100 {
			id, by := fmt.Sprint("i", k), []*server{a, b}[k%2]
			storetest.Register(t, by.Registry, instance(id, 30*time.Second))
			by.keep(t, id, 10*time.Second)
			storetest.Advance(97 * time.Millisecond)
		}
		storetest.Register(t, a.Registry, instance("slow", time.Hour))
		a.mustBeat(t, "slow") // the batch that has it is needed for long
		most := 0
		sample(10*time.Minute, 10*time.Second, func() { most = max(most, len(keys(t, a, "/roster/renewals/"))) })
		if most > 110 {
			t.Errorf("there were %d batches of 101 leases", most)
		}
		if a.Len() != 101 || b.Len() != 101 {
			t.Errorf("%d and %d instances are there", a.Len(), b.Len())
		}
		t.Logf("at most %d batches", most)
	})
}

// Where etcd is set back to an earlier state, revisions do not go back.
func TestEtcdSetBack(t *testing.T) {
	for _, lost := range []string{"/roster/changed", "/roster/base", "/roster/"} {
		subbubble(t, lost, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			for k := range 20 {
				storetest.Register(t, a.Registry, instance(fmt.Sprint("i", k), time.Minute))
			}
			same(t, a, b)
			at := a.Revision()
			c := cluster.Client()
			defer c.Close()
			var opts []clientv3.OpOption
			if lost == "/roster/" {
				opts = append(opts, clientv3.WithPrefix())
			}
			if _, err := c.Delete(t.Context(), lost, opts...); err != nil {
				t.Fatal(err)
			}
			for range 40 {
				storetest.Advance(50 * time.Millisecond)
				for k, s := range []*server{a, b} {
					if now := s.Revision(); now < at {
						t.Fatalf("server %d is at revision %d, before %d", k, now, at)
					}
				}
			}
			same(t, a, b)
			if want := map[bool]int{true: 0, false: 20}[lost == "/roster/"]; a.Len() != want || a.stale() || b.stale() {
				t.Errorf("%d instances are there, want %d; stale: %v, %v", a.Len(), want, a.stale(), b.stale())
			}
			at = a.Revision()
			storetest.Register(t, b.Registry, instance("new", time.Minute))
			same(t, a, b)
			if now := a.Revision(); now <= at {
				t.Errorf("revision %d after %d", now, at)
			}
			d := start(t, cluster, "d") // one that has not seen what was before
			same(t, a, b, d)
		})
	}
}
