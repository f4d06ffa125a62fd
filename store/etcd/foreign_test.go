package etcd_test

import (
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// What somebody does to instances' keys by hand shows on all servers, at a later
// revision, and the instances can be registered, renewed and removed as ever:
// nothing is tried for ever.
func TestKeysWrittenByHand(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for _, id := range []string{"deleted", "stays"} {
			storetest.Register(t, a.Registry, instance(id, 20*time.Second))
		}
		b.keep(t, "stays", time.Second)
		storetest.Advance(100 * time.Millisecond)
		before := a.Revision()
		hand := cluster.Client()
		value, err := hand.Get(t.Context(), "/roster/instances/web/deleted")
		if err != nil || len(value.Kvs) != 1 {
			t.Fatalf("%v, %v", value, err)
		}
		if _, err := hand.Delete(t.Context(), "/roster/instances/web/deleted"); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		same(t, a, b)
		if a.has("deleted") || !a.has("stays") || a.Revision() <= before {
			t.Errorf("a has the deleted one: %v, the other: %v, revision %d, before %d", a.has("deleted"), a.has("stays"), a.Revision(), before)
		}
		storetest.Register(t, b.Registry, instance("deleted", 20*time.Second))
		storetest.Advance(time.Second)
		same(t, a, b)
		if _, err := a.Deregister(t.Context(), "web", "deleted"); err != nil {
			t.Errorf("deregister: %v", err)
		}

		// And what is put back comes back.
		before = a.Revision()
		if _, err := hand.Put(t.Context(), "/roster/instances/web/deleted", string(value.Kvs[0].Value)); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		same(t, a, b)
		if a.Revision() <= before {
			t.Errorf("revision %d, before %d", a.Revision(), before)
		}
		storetest.Advance(time.Minute) // it ends, if it was there
		if a.has("deleted") || !a.has("stays") {
			t.Errorf("a has the deleted one: %v, the other: %v", a.has("deleted"), a.has("stays"))
		}

		// What is no instance of ours is none of our business until a start.
		resyncs := a.etcd.Counts().Resyncs
		for _, op := range []clientv3.Op{clientv3.OpPut("/roster/instances/web/x", "junk"), clientv3.OpDelete("/roster/instances/web/x")} {
			if _, err := hand.Do(t.Context(), op); err != nil {
				t.Fatal(err)
			}
			storetest.Advance(time.Second)
			if n := a.etcd.Counts().Resyncs; n != resyncs || a.stale() {
				t.Errorf("%d resyncs, before %d, stale: %v", n, resyncs, a.stale())
			}
		}
		counts := cluster.Counts()
		storetest.Advance(10 * time.Second)
		t.Logf("%+v, then %+v", counts, cluster.Counts())
		same(t, a, b)
	})
}

// A server says that it has read everything again, why, and what that has made of
// its registry.
func TestRereadIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for _, id := range []string{"1", "2", "3"} {
			storetest.Register(t, a.Registry, instance(id, time.Minute))
		}
		hand := cluster.Client()
		stored, err := hand.Get(t.Context(), "/roster/instances/web/1")
		if err != nil {
			t.Fatal(err)
		}
		storetest.Register(t, a.Registry, instance("1", 2*time.Minute))
		for k, c := range []struct {
			op  clientv3.Op
			key string
			by  store.Difference
		}{
			{clientv3.OpDelete("/roster/instances/web/3"), "/roster/instances/web/3", store.Difference{Gone: 1}},
			{clientv3.OpPut("/roster/instances/web/1", string(stored.Kvs[0].Value)), "/roster/instances/web/1", store.Difference{Changed: 1}},
			{clientv3.OpDelete("/roster/", clientv3.WithPrefix()), "/roster/base", store.Difference{Gone: 2}},
			{clientv3.OpPut("/roster/instances/web/1", string(stored.Kvs[0].Value)), "/roster/instances/web/1", store.Difference{Registered: 1}},
		} {
			if _, err := hand.Do(t.Context(), c.op); err != nil {
				t.Fatal(err)
			}
			storetest.Advance(time.Second)
			for _, s := range []*server{a, b} {
				if why, by := s.reread(t); by != c.by || !strings.Contains(why, c.key) {
					t.Errorf("%d: it was %+v because of %q, want %+v because of %s", k, by, why, c.by, c.key)
				}
			}
		}
		same(t, a, b)
	})
}

// Somebody else's keys: a start is refused, and writes nothing among them.
func TestForeignPrefix(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		hand := cluster.Client()
		if _, err := hand.Put(t.Context(), "/roster/servers/1", "theirs"); err != nil {
			t.Fatal(err)
		}
		s := etcd.New(cluster.Client(), etcd.Config{Endpoints: []string{"fake"}})
		_, err := store.Open(t.Context(), s, store.Config{})
		if err == nil || !strings.Contains(err.Error(), `"/roster/servers/1"`) || !strings.Contains(err.Error(), "choose another prefix") {
			t.Errorf("got %v", err)
		}
		if n := cluster.Counts().Puts; n != 1 {
			t.Errorf("%d keys were written", n-1)
		}
	})
}
