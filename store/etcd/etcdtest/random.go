package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store/etcd"
)

// Compare does n random transactions with an etcd and with a new [Cluster], and
// holds against each other what they reply, revisions and all, and what watches
// bring. Which transactions depends on the seed alone. All keys are deleted.
func Compare(t *testing.T, real etcd.Client, seed uint64, n int) {
	t.Helper()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cluster := NewCluster()
	pair := [2]*session{{Client: real, ctx: ctx, t: t}, {Client: cluster.Client(), ctx: ctx, t: t}}
	defer pair[1].Close()
	pair[0].put("k", "")
	start := pair[0].empty()
	for cluster.Revision() < start-1 {
		pair[1].put("k", "") // so that both have the same revisions
	}
	if cluster.Revision() < start {
		pair[1].empty()
	}
	if got := cluster.Revision(); got != start {
		t.Fatalf("the revision to start from is %d, want %d", got, start)
	}
	for _, s := range pair { // the real one's past is another
		if _, err := s.Compact(ctx, start); err != nil {
			t.Fatalf("compact: %v", err)
		}
	}
	watches := []both{watchBoth(pair, "k", clientv3.WithPrefix(), clientv3.WithPrevKV()), watchBoth(pair, "k3"), watchBoth(pair, "k1", clientv3.WithRange("k5"))}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), revision: start}
	for i := range n {
		r := g.transaction()
		replies := [2]string{commit(pair[0], r), commit(pair[1], r)}
		if replies[0] != replies[1] {
			t.Fatalf("transaction %d, %v:\n real: %s\n fake: %s", i, r, replies[0], replies[1])
		}
		g.revision = cluster.Revision()
		switch i {
		case n / 2: // what is there already, and what is to come
			watches = append(watches, watchBoth(pair, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(start+int64(n/8))))
		case n * 3 / 4:
			for _, s := range pair {
				if _, err := s.Compact(ctx, start+int64(n/4)); err != nil {
					t.Fatalf("compact: %v", err)
				}
			}
			watches = append(watches, watchBoth(pair, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(start+int64(n/4)+1)))
		}
	}
	for _, s := range pair { // in the ranges of all watches
		s.put("k3", "end")
		s.put("k3", "end")
	}
	for i, w := range watches {
		real, fake := w.events(pair, cluster.Revision())
		if real != fake {
			t.Errorf("watch %d:\n real: %s\n fake: %s", i, real, fake)
		}
	}
	is(t, "all keys", pair[0].get("", clientv3.WithPrefix()).Kvs, pair[1].get("", clientv3.WithPrefix()).Kvs)
	t.Logf("%d transactions, %d revisions, %d of them refused or without effect", n, cluster.Revision()-start, n-int(cluster.Revision()-start)+2)
}

// both are two watches of the same.
type both [2]clientv3.WatchChan

func watchBoth(pair [2]*session, key string, opts ...clientv3.OpOption) both {
	return both{pair[0].watch(key, opts...), pair[1].watch(key, opts...)}
}

// events collects what the watches bring up to a revision, in words.
func (b both) events(pair [2]*session, last int64) (real, fake string) {
	var words [2]string
	for i, w := range b {
		var all []*clientv3.Event
		for len(all) == 0 || all[len(all)-1].Kv.ModRevision < last {
			r, ok := <-w
			if !ok || r.Err() != nil {
				pair[i].t.Fatalf("watch ended: %v, after %s", r.Err(), show(all, 0))
			}
			all = append(all, r.Events...)
		}
		for _, e := range all {
			words[i] += e.String() + "\n"
		}
	}
	return words[0], words[1]
}

// commit does a transaction and puts what it came to into words.
func commit(s *session, t *transaction) string {
	r, err := s.Txn(s.ctx).If(t.conditions...).Then(t.then...).Else(t.els...).Commit()
	if err != nil {
		return err.Error()
	}
	resp := (*pb.TxnResponse)(r)
	resp.Header = &pb.ResponseHeader{Revision: resp.Header.Revision} // the rest says who has answered
	return fmt.Sprint(resp)
}
