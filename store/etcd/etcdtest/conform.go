package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store/etcd"
)

// Opener runs a test with a client, perhaps in a bubble of its own. The client
// is closed afterwards.
type Opener func(t *testing.T, test func(t *testing.T, c etcd.Client))

// Conform tests what roster relies on in etcd. All keys of the etcd are
// deleted. The tests are not parallel.
func Conform(t *testing.T, open Opener) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *session)
	}{
		{"Keys", testKeys}, {"Ranges", testRanges}, {"Compare", testCompare}, {"Transaction", testTransaction},
		{"Refused", testRefused}, {"Watch", testWatch}, {"WatchFilters", testWatchFilters}, {"WatchPast", testWatchPast},
		{"WatchFuture", testWatchFuture}, {"WatchEnds", testWatchEnds}, {"Compaction", testCompaction},
	} {
		t.Run(test.name, func(t *testing.T) {
			open(t, func(t *testing.T, c etcd.Client) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := &session{Client: c, ctx: ctx, t: t}
				s.empty()
				test.run(t, s)
			})
		})
	}
}

// session is a client of which nothing is to fail.
type session struct {
	etcd.Client
	ctx context.Context
	t   *testing.T
}

// empty deletes all keys and notes the revision.
func (s *session) empty() int64 {
	s.t.Helper()
	r, err := s.Delete(s.ctx, "", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatalf("delete all: %v", err)
	}
	return r.Header.Revision
}

func (s *session) put(key, value string) int64 {
	s.t.Helper()
	r, err := s.Put(s.ctx, key, value)
	if err != nil {
		s.t.Fatalf("put %s: %v", key, err)
	}
	return r.Header.Revision
}

func (s *session) get(key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	s.t.Helper()
	r, err := s.Get(s.ctx, key, opts...)
	if err != nil {
		s.t.Fatalf("get %s: %v", key, err)
	}
	return r
}

func (s *session) delete(key string, opts ...clientv3.OpOption) *clientv3.DeleteResponse {
	s.t.Helper()
	r, err := s.Delete(s.ctx, key, opts...)
	if err != nil {
		s.t.Fatalf("delete %s: %v", key, err)
	}
	return r
}

// watch returns a watch that is there already.
func (s *session) watch(key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return s.Watch(clientv3.WithRequireLeader(s.ctx), key, opts...)
}

// until collects what a watch brings, up to a put of that key. No revision may
// be in two responses.
func (s *session) until(w clientv3.WatchChan, key string) []*clientv3.Event {
	s.t.Helper()
	var all []*clientv3.Event
	for r := range w {
		if err := r.Err(); err != nil {
			s.t.Fatalf("watch: %v", err)
		}
		if len(all) > 0 && len(r.Events) > 0 && all[len(all)-1].Kv.ModRevision >= r.Events[0].Kv.ModRevision {
			s.t.Errorf("a response begins with revision %d, after one that ended with %d", r.Events[0].Kv.ModRevision, all[len(all)-1].Kv.ModRevision)
		}
		all = append(all, r.Events...)
		if n := len(all); n > 0 && all[n-1].Kv.ModRevision > r.Header.Revision {
			s.t.Errorf("a response of revision %d has an event of %d", r.Header.Revision, all[n-1].Kv.ModRevision)
		}
		if n := len(all); n > 0 && string(all[n-1].Kv.Key) == key {
			return all
		}
	}
	s.t.Fatalf("watch ended before %s, after %s", key, show(all, 0))
	return nil
}

// show puts events into words, with revisions counted from a base.
func show(all []*clientv3.Event, base int64) string {
	var words []string
	for _, e := range all {
		w := fmt.Sprintf("%d %s %s=%s", e.Kv.ModRevision-base, strings.ToLower(e.Type.String()), e.Kv.Key, e.Kv.Value)
		if e.Kv.Version > 0 {
			w += fmt.Sprintf(" v%d since %d", e.Kv.Version, e.Kv.CreateRevision-base)
		}
		if e.PrevKv != nil {
			w += fmt.Sprintf(" was %s", e.PrevKv.Value)
		}
		words = append(words, w)
	}
	return strings.Join(words, "; ")
}

// is compares what was found, in words.
func is(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func testKeys(t *testing.T, s *session) {
	base := s.empty()
	is(t, "revision of a delete of nothing", s.empty(), base)
	for i, step := range []struct {
		put     string
		version int64
	}{{"one", 1}, {"two", 2}, {"", 3}} {
		is(t, "revision of a put", s.put("a", step.put), base+int64(i)+1)
		r := s.get("a")
		is(t, "count", r.Count, 1)
		kv := r.Kvs[0]
		is(t, "value", string(kv.Value), step.put)
		is(t, "create, mod, version", []int64{kv.CreateRevision - base, kv.ModRevision - base, kv.Version}, []int64{1, int64(i) + 1, step.version})
		is(t, "header", r.Header.Revision, base+int64(i)+1)
	}
	p, err := s.Put(s.ctx, "a", "four", clientv3.WithPrevKV())
	if err != nil || p.PrevKv.GetVersion() != 3 {
		t.Errorf("put with the previous value: %v %v", p, err)
	}
	s.put("a/1", "x")
	s.put("b", "y")
	d := s.delete("a", clientv3.WithPrefix(), clientv3.WithPrevKV())
	is(t, "deleted, previous, revision", []any{d.Deleted, len(d.PrevKvs), string(d.PrevKvs[1].Value), d.Header.Revision - base}, []any{2, 2, "x", 7})
	is(t, "left", s.get("", clientv3.WithPrefix()).Count, 1)
	s.put("a", "again")
	kv := s.get("a").Kvs[0]
	is(t, "after a deletion, create and version", []int64{kv.CreateRevision - base, kv.Version}, []int64{8, 1})
}

func testRanges(t *testing.T, s *session) {
	base := s.empty()
	for _, k := range []string{"p/3", "p/1", "p/2", "q", "p", "p/1"} {
		s.put(k, "v"+k)
	}
	s.delete("q")
	for _, g := range []struct {
		what, key string
		opts      []clientv3.OpOption
		want      string
	}{
		{"one", "p", nil, "p 1 false"},
		{"absent", "x", nil, "0 false"},
		{"prefix", "p/", []clientv3.OpOption{clientv3.WithPrefix()}, "p/1 p/2 p/3 3 false"},
		{"range", "p", []clientv3.OpOption{clientv3.WithRange("p/2")}, "p p/1 2 false"},
		{"range that ends before it begins", "p/2", []clientv3.OpOption{clientv3.WithRange("p")}, "0 false"},
		{"all from a key on", "p/2", []clientv3.OpOption{clientv3.WithFromKey()}, "p/2 p/3 2 false"},
		{"all", "", []clientv3.OpOption{clientv3.WithPrefix()}, "p p/1 p/2 p/3 4 false"},
		{"limit", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(2)}, "p p/1 4 true"},
		{"limit that is met", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(4)}, "p p/1 p/2 p/3 4 false"},
		{"descending", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(3)}, "p/3 p/2 p/1 4 true"},
		{"by age", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}, "p/3 p/2 p p/1 4 false"},
		{"by creation, newest", "p", clientv3.WithLastCreate(), "p 4 true"},
		{"by version", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByVersion, clientv3.SortDescend), clientv3.WithLimit(1)}, "p/1 4 true"},
		{"by value", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend)}, "p/3 p/2 p/1 p 4 false"},
		{"count", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}, "4 false"},
		{"newer than", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithMinModRev(base + 5)}, "p p/1 4 false"},
		{"not newer than", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithMaxModRev(base + 5)}, "p p/2 p/3 4 false"},
		{"created before", "p", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithMaxCreateRev(base + 2)}, "p/1 p/3 4 false"},
		{"before the deletion", "", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(base + 4)}, "p/1 p/2 p/3 q 4 false"},
	} {
		r := s.get(g.key, g.opts...)
		var got []string
		for _, kv := range r.Kvs {
			got = append(got, string(kv.Key))
			is(t, g.what+": value", string(kv.Value), "v"+string(kv.Key))
		}
		is(t, g.what, strings.Join(append(got, fmt.Sprint(r.Count), fmt.Sprint(r.More)), " "), g.want)
		is(t, g.what+": header", r.Header.Revision-base, 7)
	}
	is(t, "keys only", len(s.get("p", clientv3.WithKeysOnly()).Kvs[0].Value), 0)
	is(t, "the value is still there", string(s.get("p").Kvs[0].Value), "vp")
	if _, err := s.Get(s.ctx, "p", clientv3.WithRev(base+8)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("get of a revision to come: %v", err)
	}
}

func testCompare(t *testing.T, s *session) {
	base := s.empty()
	s.put("k/1", "b") // base+1
	s.put("k/2", "b")
	s.put("k/2", "c") // base+3, version 2
	all := func(c clientv3.Cmp) clientv3.Cmp { return c.WithPrefix() }
	for _, c := range []struct {
		what string
		cmp  clientv3.Cmp
		want bool
	}{
		{"version =", clientv3.Compare(clientv3.Version("k/2"), "=", 2), true},
		{"version = another", clientv3.Compare(clientv3.Version("k/2"), "=", 1), false},
		{"version !=", clientv3.Compare(clientv3.Version("k/2"), "!=", 1), true},
		{"version >", clientv3.Compare(clientv3.Version("k/2"), ">", 2), false},
		{"version <", clientv3.Compare(clientv3.Version("k/2"), "<", 3), true},
		{"version of none", clientv3.Compare(clientv3.Version("x"), "=", 0), true},
		{"create =", clientv3.Compare(clientv3.CreateRevision("k/2"), "=", base+2), true},
		{"create of none", clientv3.Compare(clientv3.CreateRevision("x"), "=", 0), true},
		{"create of none, >", clientv3.Compare(clientv3.CreateRevision("x"), ">", 0), false},
		{"mod =", clientv3.Compare(clientv3.ModRevision("k/2"), "=", base+3), true},
		{"mod <", clientv3.Compare(clientv3.ModRevision("k/2"), "<", base+3), false},
		{"mod of none, <", clientv3.Compare(clientv3.ModRevision("x"), "<", 1), true},
		{"value =", clientv3.Compare(clientv3.Value("k/2"), "=", "c"), true},
		{"value <", clientv3.Compare(clientv3.Value("k/2"), "<", "d"), true},
		{"value of none, =", clientv3.Compare(clientv3.Value("x"), "=", ""), false},
		{"value of none, !=", clientv3.Compare(clientv3.Value("x"), "!=", "c"), false},
		{"all versions >", all(clientv3.Compare(clientv3.Version("k/"), ">", 0)), true},
		{"all versions, but one", all(clientv3.Compare(clientv3.Version("k/"), "=", 1)), false},
		{"all mods <", all(clientv3.Compare(clientv3.ModRevision("k/"), "<", base+4)), true},
		{"all mods, but the last", all(clientv3.Compare(clientv3.ModRevision("k/"), "<", base+3)), false},
		{"all values >", all(clientv3.Compare(clientv3.Value("k/"), ">", "a")), true},
		{"range of one", clientv3.Compare(clientv3.Value("k/1"), "=", "b").WithRange("k/2"), true},
		{"mods of an empty range, <", all(clientv3.Compare(clientv3.ModRevision("x/"), "<", base)), true},
		{"mods of an empty range, >", all(clientv3.Compare(clientv3.ModRevision("x/"), ">", base)), false},
		{"mods of an empty range, = 0", all(clientv3.Compare(clientv3.ModRevision("x/"), "=", 0)), true},
		{"versions of an empty range, > 0", all(clientv3.Compare(clientv3.Version("x/"), ">", 0)), false},
		{"values of an empty range", all(clientv3.Compare(clientv3.Value("x/"), "!=", "a")), false},
	} {
		r, err := s.Txn(s.ctx).If(clientv3.Compare(clientv3.Version("k/1"), "=", 1), c.cmp).Commit()
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		is(t, c.what, r.Succeeded, c.want)
		is(t, c.what+": revision", r.Header.Revision-base, 3)
	}
}

func testTransaction(t *testing.T, s *session) {
	base := s.empty()
	s.put("gone/1", "x")
	s.put("gone/2", "y")
	r, err := s.Txn(s.ctx).
		If(clientv3.Compare(clientv3.Version("a"), "=", 0)).
		Then(clientv3.OpGet("a"), clientv3.OpPut("a", "1"), clientv3.OpGet("a"), clientv3.OpPut("b", "2", clientv3.WithPrevKV()),
			clientv3.OpDelete("gone/", clientv3.WithPrefix(), clientv3.WithPrevKV()), clientv3.OpDelete("none"),
			clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithCountOnly()), clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithRev(base+2))).
		Else(clientv3.OpPut("c", "3")).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("%v %v", r, err)
	}
	is(t, "revision", r.Header.Revision-base, 3)
	is(t, "before the put", r.Responses[0].GetResponseRange().Count, 0)
	is(t, "header of a read before the put", r.Responses[0].GetResponseRange().Header.Revision-base, 2)
	is(t, "header of a put", r.Responses[1].GetResponsePut().Header.Revision-base, 3)
	is(t, "after the put", string(r.Responses[2].GetResponseRange().Kvs[0].Value), "1")
	is(t, "header of a read after the put", r.Responses[2].GetResponseRange().Header.Revision-base, 3)
	is(t, "previous of none", r.Responses[3].GetResponsePut().PrevKv == nil, true)
	is(t, "deleted", len(r.Responses[4].GetResponseDeleteRange().PrevKvs), 2)
	is(t, "deleted of none", r.Responses[5].GetResponseDeleteRange().Deleted, 0)
	is(t, "count after", r.Responses[6].GetResponseRange().Count, 2)
	is(t, "count at the revision before", r.Responses[7].GetResponseRange().Count, 2)
	for _, k := range []string{"a", "b"} {
		is(t, "mod of "+k, s.get(k).Kvs[0].ModRevision-base, 3)
	}
	r, err = s.Txn(s.ctx).If(clientv3.Compare(clientv3.Version("a"), "=", 0)).
		Then(clientv3.OpPut("a", "2")).Else(clientv3.OpDelete("none"), clientv3.OpGet("a")).Commit()
	if err != nil || r.Succeeded || len(r.Responses) != 2 {
		t.Fatalf("%v %v", r, err)
	}
	is(t, "a transaction that changes nothing", r.Header.Revision-base, 3)
	is(t, "c", s.get("c").Count, 0)
}

func testRefused(t *testing.T, s *session) {
	base := s.empty()
	ops := func(n int) []clientv3.Op {
		var all []clientv3.Op
		for i := range n {
			all = append(all, clientv3.OpPut(fmt.Sprintf("k%03d", i), ""))
		}
		return all
	}
	for _, c := range []struct {
		what string
		ops  []clientv3.Op
		want error
	}{
		{"129 operations", ops(129), rpctypes.ErrTooManyOps},
		{"a key twice", append(ops(2), clientv3.OpPut("k000", "x")), rpctypes.ErrDuplicateKey},
		{"a put of what is deleted", append(ops(2), clientv3.OpDelete("k", clientv3.WithPrefix())), rpctypes.ErrDuplicateKey},
		{"no key", []clientv3.Op{clientv3.OpPut("", "x")}, rpctypes.ErrEmptyKey},
		{"1.5 MiB", []clientv3.Op{clientv3.OpPut("k", strings.Repeat("x", 1536<<10))}, rpctypes.ErrRequestTooLarge},
		{"a revision to come", append(ops(1), clientv3.OpGet("k", clientv3.WithRev(base+100))), rpctypes.ErrFutureRev},
	} {
		for _, where := range []string{"then", "else"} {
			txn := s.Txn(s.ctx)
			if where == "then" {
				txn = txn.Then(c.ops...)
			} else {
				txn = txn.If(clientv3.Compare(clientv3.Version("k"), "=", 1)).Else(c.ops...)
			}
			if _, err := txn.Commit(); !errors.Is(err, c.want) {
				t.Errorf("%s in %s: %v, want %v", c.what, where, err, c.want)
			}
		}
	}
	if _, err := s.Get(s.ctx, ""); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("get of no key: %v", err)
	}
	is(t, "revision after all of these", s.get("k").Header.Revision, base)
	if _, err := s.Txn(s.ctx).Then(ops(128)...).Commit(); err != nil {
		t.Errorf("128 operations: %v", err)
	}
	if _, err := s.Put(s.ctx, "big", strings.Repeat("x", 1535<<10)); err != nil {
		t.Errorf("put of a little less than 1.5 MiB: %v", err)
	}
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.Get(ended, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("get with a context that has ended: %v", err)
	}
}
