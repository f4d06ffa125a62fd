package etcdtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// bubble runs a test with two clients of a cluster.
func bubble(t *testing.T, test func(t *testing.T, cluster *etcdtest.Cluster, a, b *etcdtest.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cluster := etcdtest.NewCluster()
		a, b := cluster.Client(), cluster.Client()
		defer a.Close()
		defer b.Close()
		test(t, cluster, a, b)
	})
}

func put(t *testing.T, c *etcdtest.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// nothing checks that a watch has nothing to say.
func nothing(t *testing.T, w clientv3.WatchChan) {
	t.Helper()
	synctest.Wait()
	select {
	case r, ok := <-w:
		t.Errorf("the watch brings %+v, %v", r, ok)
	default:
	}
}

// values takes the values off a response.
func values(t *testing.T, w clientv3.WatchChan) string {
	t.Helper()
	synctest.Wait()
	var all string
	select {
	case r := <-w:
		for _, e := range r.Events {
			all += string(e.Kv.Value)
		}
	default:
	}
	return all
}

func TestTimeGoesOnWhileWatchesWait(t *testing.T) {
	bubble(t, func(t *testing.T, _ *etcdtest.Cluster, a, b *etcdtest.Client) {
		w := a.Watch(t.Context(), "k")
		a.Cut(etcdtest.Hangs)
		begin := time.Now()
		storetest.Advance(time.Hour)
		a.Heal()
		put(t, b, "k", "1")
		if got := values(t, w); got != "1" {
			t.Errorf("the watch brings %q", got)
		}
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("it took %v", took)
		}
	})
}

func TestCut(t *testing.T) {
	for _, f := range []etcdtest.Fault{etcdtest.Hangs, etcdtest.Refuses, etcdtest.NoLeader} {
		bubble(t, func(t *testing.T, cluster *etcdtest.Cluster, a, b *etcdtest.Client) {
			w := a.Watch(t.Context(), "k")
			led := a.Watch(clientv3.WithRequireLeader(t.Context()), "k")
			put(t, b, "k", "1")
			if got := values(t, w) + values(t, led); got != "11" {
				t.Fatalf("%d: the watches bring %q", f, got)
			}
			a.Cut(f)
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := a.Put(ctx, "k", "not done")
			want, after := context.DeadlineExceeded, time.Minute
			if f == etcdtest.Refuses {
				want, after = nil, 0
				if status.Code(err) != codes.Unavailable {
					t.Errorf("put while refused: %v", err)
				}
			}
			if want != nil && !errors.Is(err, want) || time.Since(begin) != after {
				t.Errorf("%d: put: %v after %v", f, err, time.Since(begin))
			}
			_, err = a.Get(clientv3.WithRequireLeader(ctx), "k")
			if f == etcdtest.NoLeader && ctx.Err() == nil && !errors.Is(err, rpctypes.ErrNoLeader) || err == nil {
				t.Errorf("%d: get that needs a leader: %v", f, err)
			}
			put(t, b, "k", "2")
			put(t, b, "k", "3")
			nothing(t, w)
			if f == etcdtest.NoLeader {
				if r := <-led; !errors.Is(r.Err(), rpctypes.ErrNoLeader) {
					t.Errorf("watch without a leader: %v", r.Err())
				}
				if _, ok := <-led; ok {
					t.Error("it goes on")
				}
			} else {
				nothing(t, led)
			}
			waiting := make(chan error)
			if f != etcdtest.Refuses {
				go func() { _, err := a.Put(t.Context(), "k", "4"); waiting <- err }()
				synctest.Wait()
			}
			a.Heal()
			if f != etcdtest.Refuses {
				if err := <-waiting; err != nil {
					t.Errorf("%d: a request that waited: %v", f, err)
				}
			}
			if got := values(t, w); got != "23" {
				t.Errorf("%d: healed, the watch brings %q", f, got)
			}
			puts := map[bool]int{true: 4, false: 3}[f != etcdtest.Refuses] // 1, 2, 3, and what waited
			if got := cluster.Counts().Puts; got != puts {
				t.Errorf("%d: %d puts, want %d", f, got, puts)
			}
		})
	}
}

// What was compacted while a client was cut off is lost for its watch.
func TestCompactedWhileCut(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster, a, b *etcdtest.Client) {
		w := a.Watch(t.Context(), "k")
		a.Cut(etcdtest.Hangs)
		for range 3 {
			put(t, b, "k", "1")
		}
		if _, err := b.Compact(t.Context(), cluster.Revision()); err != nil {
			t.Fatal(err)
		}
		nothing(t, w)
		a.Heal()
		if r := <-w; !errors.Is(r.Err(), rpctypes.ErrCompacted) {
			t.Errorf("the watch brings %+v", r)
		}
	})
}

func TestPauseAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T, _ *etcdtest.Cluster, a, b *etcdtest.Client) {
		w, other := a.Watch(t.Context(), "k"), b.Watch(t.Context(), "k")
		a.Pause()
		put(t, a, "k", "1")
		nothing(t, w)
		if got := values(t, other); got != "1" {
			t.Errorf("the other's watch brings %q", got)
		}
		a.Resume()
		if got := values(t, w); got != "1" {
			t.Errorf("resumed, the watch brings %q", got)
		}
		a.EndWatches("etcdserver: no leader")
		if r := <-w; !errors.Is(r.Err(), rpctypes.ErrNoLeader) {
			t.Errorf("ended, the watch brings %+v", r)
		}
		nothing(t, other)
	})
}

func TestLose(t *testing.T) {
	bubble(t, func(t *testing.T, _ *etcdtest.Cluster, a, b *etcdtest.Client) {
		a.Lose("instances/")
		put(t, a, "servers/1", "tick")
		if _, err := a.Get(t.Context(), "instances/1"); err != nil {
			t.Errorf("a read is lost: %v", err)
		}
		if _, err := a.Txn(t.Context()).Then(clientv3.OpPut("instances/1", "x")).Commit(); status.Code(err) != codes.Unavailable {
			t.Errorf("the transaction whose reply is lost: %v", err)
		}
		if r, err := b.Get(t.Context(), "instances/1"); err != nil || r.Count != 1 {
			t.Errorf("it was not done: %v %v", r, err)
		}
		put(t, a, "instances/1", "y")
	})
}

func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T, _ *etcdtest.Cluster, a, b *etcdtest.Client) {
		w := a.Watch(t.Context(), "k")
		a.Delay(100 * time.Millisecond)
		begin := time.Now()
		put(t, a, "k", "1")
		if took := time.Since(begin); took != 100*time.Millisecond {
			t.Errorf("a put took %v", took)
		}
		values(t, w)
		begin = time.Now()
		put(t, b, "k", "2")
		nothing(t, w)
		if r := <-w; string(r.Events[0].Kv.Value) != "2" || time.Since(begin) != 50*time.Millisecond {
			t.Errorf("the watch brings %+v after %v", r, time.Since(begin))
		}
	})
}

func TestCounts(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster, a, _ *etcdtest.Client) {
		put(t, a, "k1", "123")
		put(t, a, "k2", "")
		_, err := a.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("k1"), "=", 7)).
			Then(clientv3.OpPut("k3", "x")).Else(clientv3.OpDelete("k", clientv3.WithPrefix()), clientv3.OpGet("k")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Delete(t.Context(), "k1"); err != nil {
			t.Fatal(err)
		}
		want := etcdtest.Counts{Writes: 4, Changes: 3, Puts: 2, Deletes: 2, Bytes: 7}
		if got := cluster.Counts(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
