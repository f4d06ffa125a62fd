package etcd_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// node is one of several servers that share a cluster.
type node struct {
	*store.Registry
	client *etcdtest.Client
}

// joined opens a node, which the test ends.
func joined(t *testing.T, c *etcdtest.Cluster) *node {
	t.Helper()
	client := c.Client()
	return &node{registryOn(t, client), client}
}

func registryOn(t *testing.T, client etcd.Client) *store.Registry {
	t.Helper()
	r, err := store.Open(t.Context(), etcd.New(client, etcd.Config{Endpoints: []string{"fake"}}), store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		r.Close()
	})
	return r
}

func registered(t *testing.T, r *store.Registry, id string, ttl time.Duration) {
	t.Helper()
	in := &store.Instance{Service: "web", ID: id, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Port: 80, TTL: ttl, Weight: 10}
	if _, err := r.Register(t.Context(), in, false); err != nil {
		t.Fatalf("register %s: %v", id, err)
	}
}

func beaten(t *testing.T, r *store.Registry, id string, b store.Beat) {
	t.Helper()
	if _, err := r.Heartbeat(t.Context(), "web", id, b); err != nil {
		t.Fatalf("heartbeat of %s: %v", id, err)
	}
}

// left returns how long the lease of an instance still lasts.
func left(t *testing.T, r *store.Registry, id string) time.Duration {
	t.Helper()
	if v := r.Service("web"); v != nil {
		if m, ok := v.ByLabel(id, r.Now()); ok {
			return m.Lease.End().Sub(r.Now())
		}
	}
	t.Fatalf("%s is not there", id)
	return 0
}

func inBubble(t *testing.T, test func(t *testing.T, c *etcdtest.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, etcdtest.NewCluster()) })
}

// A lease that has been made shorter stays so on all servers, whatever was said
// before of the longer one.
func TestShorterLeaseStaysShort(t *testing.T) {
	inBubble(t, func(t *testing.T, c *etcdtest.Cluster) {
		a, b := joined(t, c), joined(t, c)
		registered(t, a.Registry, "a1", 300*time.Second)
		beaten(t, a.Registry, "a1", store.Beat{})
		ttl, weight := 40*time.Second, uint16(20)
		beaten(t, a.Registry, "a1", store.Beat{TTL: &ttl})
		beaten(t, a.Registry, "a1", store.Beat{Weight: &weight})
		storetest.Advance(3 * time.Second)
		for name, r := range map[string]*store.Registry{"a": a.Registry, "b": b.Registry, "a new one": joined(t, c).Registry} {
			if got := left(t, r, "a1"); got > ttl {
				t.Errorf("on %s the lease lasts for %v, want at most %v", name, got, ttl)
			}
		}
	})
}

// A heartbeat that was under way when its instance was drained does not keep it.
func TestDrainedDespiteHeartbeat(t *testing.T) {
	inBubble(t, func(t *testing.T, c *etcdtest.Cluster) {
		a, b := joined(t, c), joined(t, c)
		registered(t, a.Registry, "a1", 30*time.Second)
		storetest.Advance(20 * time.Second)
		a.client.Delay(100 * time.Millisecond)
		go a.Heartbeat(t.Context(), "web", "a1", store.Beat{})
		storetest.Advance(10 * time.Millisecond)
		removal, err := b.Drain(t.Context(), "web", "a1")
		if err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		for name, r := range map[string]*store.Registry{"a": a.Registry, "b": b.Registry} {
			if late := r.Wall(r.Now().Add(left(t, r, "a1"))).Sub(removal.SafeAfter); late > time.Millisecond {
				t.Errorf("on %s it is there for %v longer than it was said", name, late)
			}
		}
	})
}

// A heartbeat that came in time, to another server, is in time for all instances
// whose leases end at once.
func TestHeartbeatsBeatExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, c *etcdtest.Cluster) {
		const n = 200
		a, b := joined(t, c), joined(t, c)
		ids := make([]string, n)
		for k := range ids {
			ids[k] = fmt.Sprintf("i%d", k)
			registered(t, a.Registry, ids[k], 10*time.Second)
		}
		storetest.Advance(left(t, a.Registry, "i0") - 30*time.Millisecond)
		a.client.Delay(100 * time.Millisecond)
		var beating sync.WaitGroup
		for _, id := range ids {
			beating.Go(func() { beaten(t, b.Registry, id, store.Beat{}) })
		}
		beating.Wait()
		storetest.Advance(5 * time.Second)
		if got := b.Len(); got != n {
			t.Errorf("%d of %d are there 5 s after their heartbeats", got, n)
		}
	})
}

// A server that was started late in a long lease ends it in time, also where it
// is the only one that is left.
func TestNewServerExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, c *etcdtest.Cluster) {
		a := joined(t, c)
		registered(t, a.Registry, "a1", time.Hour)
		storetest.Advance(time.Hour - 30*time.Second)
		b := joined(t, c)
		a.client.Cut(etcdtest.Refuses)
		left(t, b.Registry, "a1")
		storetest.Advance(35 * time.Second)
		if b.Len() != 0 {
			t.Error("it is still there 5 s after its lease")
		}
	})
}

// Expiries get their turn, and do not flood etcd, where it is far away and others
// send heartbeats all the time.
func TestExpiresFarFromEtcd(t *testing.T) {
	inBubble(t, func(t *testing.T, c *etcdtest.Cluster) {
		var all []*node
		for range 3 {
			n := joined(t, c)
			n.client.Delay(30 * time.Millisecond)
			all = append(all, n)
		}
		ctx, stop := context.WithCancel(t.Context())
		var beating sync.WaitGroup
		for k := range 60 {
			id, r := fmt.Sprintf("live%d", k), all[k%3].Registry
			registered(t, r, id, 300*time.Second)
			beating.Go(func() {
				for ctx.Err() == nil {
					_, _ = r.Heartbeat(ctx, "web", id, store.Beat{})
					<-time.After(200*time.Millisecond + time.Duration(k)*3*time.Millisecond)
				}
			})
		}
		for k := range 200 {
			registered(t, all[k%3].Registry, fmt.Sprintf("dead%d", k), 20*time.Second)
		}
		writes := c.Counts().Writes
		storetest.Advance(40 * time.Second)
		if got := all[0].Len(); got != 60 {
			t.Errorf("%d are there, want the 60 that live", got)
		}
		if got := c.Counts().Writes - writes; got > 10_000 {
			t.Errorf("it took %d transactions", got)
		}
		stop()
		beating.Wait()
	})
}
