package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func testWatch(t *testing.T, s *session) {
	base := s.empty()
	s.put("p/old", "x")
	w := s.watch("p/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	plain := s.watch("p/b")
	if r := <-w; !r.Created || len(r.Events) != 0 || r.Header.Revision != base+1 {
		t.Fatalf("first response: %+v", r)
	}
	s.put("p/a", "1")
	s.put("other", "1")
	if _, err := s.Txn(s.ctx).Then(clientv3.OpPut("p/b", "1"), clientv3.OpPut("other", "2"), clientv3.OpDelete("p/a"), clientv3.OpPut("p/c", "1")).Commit(); err != nil {
		t.Fatal(err)
	}
	s.put("p/b", "2")
	s.delete("p/", clientv3.WithPrefix())
	s.delete("p/", clientv3.WithPrefix())
	s.put("p/b", "3")
	s.put("p/end", "")
	got := s.until(w, "p/end")
	is(t, "events", show(got, base), "2 put p/a=1 v1 since 2; "+
		"4 put p/b=1 v1 since 4; 4 delete p/a= was 1; 4 put p/c=1 v1 since 4; 5 put p/b=2 v2 since 4 was 1; "+
		"6 delete p/b= was 2; 6 delete p/c= was 1; 6 delete p/old= was x; 7 put p/b=3 v1 since 7; 8 put p/end= v1 since 8")
	var one []*clientv3.Event
	for len(one) < 4 {
		one = append(one, (<-plain).Events...)
	}
	is(t, "events of one key", show(one, base), "4 put p/b=1 v1 since 4; 5 put p/b=2 v2 since 4; 6 delete p/b=; 7 put p/b=3 v1 since 7")
}

func testWatchFilters(t *testing.T, s *session) {
	base := s.empty()
	puts := s.watch("k", clientv3.WithPrefix(), clientv3.WithFilterDelete())
	deletes := s.watch("k", clientv3.WithPrefix(), clientv3.WithFilterPut())
	s.put("k", "1")
	s.delete("k")
	s.put("k/end", "")
	is(t, "puts", show(s.until(puts, "k/end"), base), "1 put k=1 v1 since 1; 3 put k/end= v1 since 3")
	is(t, "deletions", show((<-deletes).Events, base), "2 delete k=")
}

// More has happened than fits into one response, and goes on meanwhile.
func testWatchPast(t *testing.T, s *session) {
	base := s.empty()
	const n = 2300
	for i := range n {
		s.put("k/a", fmt.Sprint(i))
	}
	w := s.watch("k/", clientv3.WithPrefix(), clientv3.WithRev(base+11), clientv3.WithPrevKV())
	s.put("k/b", "")
	s.put("k/end", "")
	got := s.until(w, "k/end")
	is(t, "events", len(got), n-10+2)
	for i, e := range got {
		if e.Kv.ModRevision != base+11+int64(i) {
			t.Fatalf("event %d is of revision %d", i, e.Kv.ModRevision-base)
		}
	}
	is(t, "the first", show(got[:1], base), "11 put k/a=10 v11 since 1 was 9")
}

func testWatchFuture(t *testing.T, s *session) {
	base := s.empty()
	w := s.watch("k", clientv3.WithPrefix(), clientv3.WithRev(base+3))
	for _, k := range []string{"k1", "k2", "k3", "k4"} {
		s.put(k, "")
	}
	is(t, "events", show(s.until(w, "k4"), base), "3 put k3= v1 since 3; 4 put k4= v1 since 4")
}

func testWatchEnds(t *testing.T, s *session) {
	ctx, cancel := context.WithCancel(s.ctx)
	w := s.Watch(ctx, "k")
	cancel()
	for r := range w {
		t.Errorf("a watch whose context has ended brings %+v", r)
	}
	if r, ok := <-s.Watch(ctx, "k"); ok {
		t.Errorf("a watch whose context had ended brings %+v", r)
	}
	w = s.watch("k")
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for r := range w {
		if !r.Canceled {
			t.Errorf("a closed watch brings %+v", r)
		}
	}
}

func testCompaction(t *testing.T, s *session) {
	base := s.empty()
	s.put("k", "1")
	s.put("gone", "1")
	s.put("k", "2")
	s.delete("gone")
	live := s.watch("k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	s.put("k", "3") // base+5
	if _, err := s.Compact(s.ctx, base+5); err != nil {
		t.Fatal(err)
	}
	for revision, want := range map[int64]error{base + 5: rpctypes.ErrCompacted, base + 2: rpctypes.ErrCompacted, base + 6: rpctypes.ErrFutureRev} {
		if _, err := s.Compact(s.ctx, revision); !errors.Is(err, want) {
			t.Errorf("compact %d: %v, want %v", revision-base, err, want)
		}
	}
	if _, err := s.Get(s.ctx, "k", clientv3.WithRev(base+4)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("get of a compacted revision: %v", err)
	}
	if _, err := s.Txn(s.ctx).Then(clientv3.OpPut("x", ""), clientv3.OpGet("k", clientv3.WithRev(base+4))).Commit(); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("get of a compacted revision in a transaction: %v", err)
	}
	is(t, "value at the compacted revision", string(s.get("k", clientv3.WithRev(base+5)).Kvs[0].Value), "3")
	is(t, "create and version", []int64{s.get("k").Kvs[0].CreateRevision - base, s.get("k").Kvs[0].Version}, []int64{1, 3})
	late := s.watch("k", clientv3.WithRev(base+4))
	r, ok := <-late
	if !ok || !r.Canceled || r.CompactRevision != base+5 || !errors.Is(r.Err(), rpctypes.ErrCompacted) {
		t.Errorf("watch from a compacted revision: %+v, %v", r, r.Err())
	}
	if r, ok := <-late; ok {
		t.Errorf("and then: %+v", r)
	}
	s.put("k", "4")
	s.put("k/end", "")
	past := s.watch("k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(base+6))
	const want = "6 put k=4 v4 since 1 was 3; 7 put k/end= v1 since 7"
	is(t, "watch from after the compaction", show(s.until(past, "k/end"), base), want)
	got := s.until(live, "k/end")
	is(t, "watch that was there before", show(got[1:], base), want)
}
