package etcd_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// earlyTime is how much earlier the others may let a lease end than the server
// that has heard from the instance, where nothing is delayed: two ticks and what
// a batch of renewals waits.
const earlyTime = 600 * time.Millisecond

// However slow the network is: where a lease was renewed, it ends latest; and
// elsewhere not much earlier.
func TestLeaseEndsAtTheSameTime(t *testing.T) {
	for _, most := range []int{0, 10, 50, 100, 200, 400} {
		t.Run(fmt.Sprintf("%dms", most), func(t *testing.T) {
			bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
				servers, random := three(t, cluster), rand.New(rand.NewPCG(1, uint64(most)))
				delay := func() {
					for _, s := range servers {
						s.client.Delay(time.Duration(random.IntN(most+1)) * time.Millisecond)
					}
				}
				delay()
				storetest.Register(t, servers[0].Registry, instance("1", 30*time.Second))
				least := time.Duration(0)
				for k := range 100 {
					delay()
					storetest.Advance(time.Duration(random.IntN(1000)) * time.Millisecond)
					by := servers[k%3]
					by.mustBeat(t, "1")
					storetest.Advance(time.Duration(most+1) * time.Millisecond) // the others hear of it
					for n, s := range servers {
						if s == by {
							continue
						}
						d := s.ends(t, "1").Sub(by.ends(t, "1"))
						least = min(least, d)
						if early := earlyTime + 2*time.Duration(most)*time.Millisecond; d > 0 || d < -early {
							t.Fatalf("%d: heard by %d, on %d the lease ends %v later", k, k%3, n, d)
						}
					}
				}
				t.Logf("at most %v earlier", -least)
			})
		})
	}
}

// The shortest leases, renewed as they should be, end nowhere.
func TestShortLeases(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond} {
		subbubble(t, delay.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			servers := three(t, cluster)
			for _, s := range servers {
				s.client.Delay(delay)
			}
			for k := range 10 {
				id := fmt.Sprint("i", k)
				storetest.Register(t, servers[k%3].Registry, instance(id, time.Second))
				servers[k%3].keep(t, id, 333*time.Millisecond)
				storetest.Advance(37 * time.Millisecond)
			}
			storetest.Advance(200 * time.Millisecond)
			sample(20*time.Second, 10*time.Millisecond, func() {
				for n, s := range servers {
					if live := storetest.Live(s.Registry, "web"); len(live) != 10 {
						t.Fatalf("server %d has only %v", n, live)
					}
				}
			})
		})
	}
}

// subbubble runs a part of a test in a bubble.
func subbubble(t *testing.T, name string, test func(t *testing.T, cluster *etcdtest.Cluster)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { bubble(t, test) })
}

// The dead are in no answer once their lease has ended, and are removed once:
// every server tells of it with one event, and they are the same events.
func TestExpiresOnce(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		const n = 60
		servers := three(t, cluster)
		var histories []func() []store.Event
		for _, s := range servers {
			histories = append(histories, s.watchEvents(t))
		}
		for k := range n {
			by := servers[k%3]
			storetest.Register(t, by.Registry, instance(fmt.Sprint("i", k), 5*time.Second))
			if k%2 == 0 { // these are known to be renewed by another one
				servers[(k+1)%3].mustBeat(t, fmt.Sprint("i", k))
			}
		}
		storetest.Register(t, servers[0].Registry, instance("lives", 5*time.Second))
		servers[1].keep(t, "lives", time.Second)
		before := cluster.Counts()
		gone := time.Now().Add(5 * time.Second)
		for !time.Now().After(gone.Add(5 * time.Second)) {
			storetest.Advance(50 * time.Millisecond)
			for k, s := range servers {
				if !s.has("lives") {
					t.Fatalf("server %d misses what lives", k)
				}
				if live := storetest.Live(s.Registry, "web"); time.Now().After(gone) && len(live) != 1 {
					t.Fatalf("server %d still answers %v %v after the end", k, live, time.Since(gone))
				}
			}
		}
		same(t, servers...)
		want := brief(histories[0]())
		for k := range servers {
			got := want
			if k > 0 {
				got = brief(histories[k]())
			}
			ended := map[string]int{}
			for j, e := range got {
				if e != want[j] {
					t.Fatalf("server %d: event %d is %v, want %v", k, j, e, want[j])
				}
				if e.kind == store.Expired {
					ended[e.id]++
				}
			}
			if len(ended) != n || len(got) != 2*n+1 {
				t.Errorf("server %d: %d have ended, in %d events", k, len(ended), len(got))
			}
		}
		if n := len(keys(t, servers[0], "/roster/instances/")); n != 1 {
			t.Errorf("%d instances are stored", n)
		}
		if did := cluster.Counts().Changes - before.Changes; did > n+3*70 {
			t.Errorf("%d changes of etcd for %d removals", did, n)
		}
	})
}

// keys returns the keys in etcd with a prefix, as a server can read them.
func keys(t *testing.T, s *server, prefix string) (all []string) {
	t.Helper()
	resp, err := s.client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		all = append(all, string(kv.Key))
	}
	return all
}

// A renewal that another server has written just before a lease ends counts, also
// where the server that has known of the instance has not seen it yet.
func TestLateRenewalWins(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		ended := a.watchEvents(t)
		storetest.Register(t, b.Registry, instance("1", 5*time.Second))
		storetest.Advance(5700 * time.Millisecond) // b judges a second after the end
		b.client.Pause()                           // b does not see what is written, and writes itself
		storetest.Advance(50 * time.Millisecond)
		a.mustBeat(t, "1")
		storetest.Advance(450 * time.Millisecond)
		if b.has("1") {
			t.Fatal("b has seen the renewal: this tests nothing")
		}
		b.client.Resume()
		storetest.Advance(100 * time.Millisecond)
		if !a.has("1") || !b.has("1") {
			t.Errorf("a has it: %v, b has it: %v", a.has("1"), b.has("1"))
		}
		storetest.Advance(3 * time.Second)
		if n := count(ended(), store.Expired); n > 0 || !a.has("1") || !b.has("1") {
			t.Errorf("%d removals; a has it: %v, b has it: %v", n, a.has("1"), b.has("1"))
		}
		storetest.Advance(4 * time.Second)
		if n := count(ended(), store.Expired); n != 1 || a.Len()+b.Len() > 0 {
			t.Errorf("in the end %d removals, %d are there", n, a.Len()+b.Len())
		}
	})
}

// Heartbeats share batches, however many there are.
func TestHeartbeatsShareBatches(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		const n = 200
		for k := range n {
			storetest.Register(t, a.Registry, instance(fmt.Sprint("i", k), 5*time.Second))
		}
		storetest.Advance(2 * time.Second)
		before, renewed := cluster.Counts(), a.etcd.Counts().Renewed
		const seconds, each = 10, 100 * time.Millisecond // 2000 heartbeats a second
		begin := time.Now()
		slowest := make(chan time.Duration, n)
		for k := range n {
			go func() {
				id, most := fmt.Sprint("i", k), time.Duration(0)
				<-time.After(time.Duration(k) * each / n)
				for range seconds * int(time.Second/each) {
					next := time.Now().Add(each)
					a.mustBeat(t, id)
					most = max(most, each-time.Until(next))
					<-time.After(time.Until(next))
				}
				slowest <- most
			}()
		}
		most := time.Duration(0)
		for range n {
			most = max(most, <-slowest)
		}
		after := cluster.Counts()
		ticks := 5 * int(time.Since(begin)/time.Second) // of b
		if did := after.Writes - before.Writes; did > 20+20*(seconds+1)+ticks {
			t.Errorf("%d transactions in %v", did, time.Since(begin))
		}
		if most > 60*time.Millisecond {
			t.Errorf("a heartbeat has waited for %v", most)
		}
		if did := a.etcd.Counts().Renewed - renewed; did < n*seconds*5 {
			t.Errorf("%d leases were written", did)
		}
		for k := range n {
			if id := fmt.Sprint("i", k); b.ends(t, id).After(a.ends(t, id)) {
				t.Errorf("on b the lease of %s ends later", id)
			}
		}
		if n := len(keys(t, a, "/roster/renewals/")); n > 20 {
			t.Errorf("%d batches are stored", n)
		}
	})
}

// What a server that is gone wrote long ago, and a member of etcd brings only now,
// makes no lease longer than it was when that was written.
func TestRenewalThatCameLate(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a := start(t, cluster, "a")
		storetest.Register(t, a.Registry, instance("1", 10*time.Second))
		key, err := a.client.Get(t.Context(), "/roster/instances/web/1")
		if err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		written, ends := a.Now(), time.Now().Add(10*time.Second)
		storetest.Advance(5 * time.Second)
		name, value := etcd.Batch("ffffffffffffffff", written, key.Kvs[0].CreateRevision, written.Add(10*time.Second))
		if _, err := a.client.Put(t.Context(), name, value); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if d := a.ends(t, "1").Sub(ends); d > 0 || d < -time.Second {
			t.Errorf("the lease ends %v later than its time", d)
		}
	})
}
