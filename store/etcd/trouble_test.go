package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// A transaction whose reply is lost has worked: whoever waits for it hears so,
// and it is not done twice.
func TestLostReplies(t *testing.T) {
	ttl := 20 * time.Second
	for name, c := range map[string]struct {
		lost   string
		do     func(ctx context.Context, s *server) error
		events []store.Kind
	}{
		"Create": {"/instances/", func(ctx context.Context, s *server) error {
			reg, err := s.Register(ctx, instance("2", ttl), true)
			if err == nil && !reg.Created {
				return errors.New("it was there already")
			}
			return err
		}, []store.Kind{store.Registered}},
		"Update": {"/instances/", func(ctx context.Context, s *server) error {
			return second(s.Register(ctx, instance("1", ttl), false))
		}, []store.Kind{store.Updated}},
		"Change": {"/changed", func(ctx context.Context, s *server) error {
			return second(s.Heartbeat(ctx, "web", "1", store.Beat{TTL: &ttl}))
		}, []store.Kind{store.Updated}},
		"Drain": {"/changed", func(ctx context.Context, s *server) error {
			return second(s.Drain(ctx, "web", "1"))
		}, []store.Kind{store.StatusChanged}},
		"Deregister": {"/changed", func(ctx context.Context, s *server) error {
			removal, err := s.Deregister(ctx, "web", "1")
			if err == nil && removal.Revision != s.Revision() {
				return fmt.Errorf("at revision %d, but the server is at %d", removal.Revision, s.Revision())
			}
			return err
		}, []store.Kind{store.Deregistered}},
		"Heartbeat": {"/renewals/", func(ctx context.Context, s *server) error { return s.beat(ctx, "1") }, nil},
	} {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			a.client.Delay(10 * time.Millisecond)
			storetest.Register(t, a.Registry, instance("1", 10*time.Second))
			same(t, a, b)
			histories := []func() []store.Event{a.watchEvents(t), b.watchEvents(t)}
			storetest.Advance(time.Second)
			a.client.Lose(c.lost)
			begin := time.Now()
			if err := c.do(t.Context(), a); err != nil {
				t.Errorf("it fails: %v", err)
			}
			if took := time.Since(begin); took > 1500*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			if a.etcd.Counts().Failed == 0 {
				t.Error("no reply was lost: this tests nothing")
			}
			storetest.Advance(500 * time.Millisecond)
			same(t, a, b)
			for k, history := range histories {
				events := history()
				if len(events) != len(c.events) || len(events) == 1 && events[0].Kind != c.events[0] {
					t.Errorf("server %d has published %v", k, brief(events))
				}
			}
			if c.events == nil {
				if d := time.Until(b.ends(t, "1")); d < 8*time.Second {
					t.Errorf("on b the lease lasts for %v", d)
				}
			}
		})
	}
}

// Watches that end are begun again where they ended.
func TestWatchesEnd(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		history := b.watchEvents(t)
		for k := range 30 {
			b.client.EndWatches([]string{"etcdserver: no leader", "the connection was lost"}[k%2])
			storetest.Register(t, a.Registry, instance([]string{"1", "2", "3"}[k%3], time.Duration(10+k)*time.Second))
			b.client.EndWatches("once more")
			storetest.Advance(time.Duration(k) * 10 * time.Millisecond)
			if b.stale() {
				t.Fatal("it is stale")
			}
		}
		storetest.Advance(time.Second)
		same(t, a, b)
		if n := len(history()); n != 30 {
			t.Errorf("b has published %d changes of 30", n)
		}
		if c := b.etcd.Counts(); c.Resyncs != 0 {
			t.Errorf("all was read %d times", c.Resyncs)
		}
	})
}

// damaged are keys whose values are damaged in a test.
var damaged = []string{
	"/roster/instances/web/1", "/roster/changed", "/roster/base", "/roster/floor",
	"/roster/servers/0123456789abcdef", "/roster/renewals/0123456789abcdef/0000000000000001",
}

// A server does not start on damaged values, and names the key.
func TestStartOnDamage(t *testing.T) {
	for _, key := range append(damaged, "/roster/clock", "/roster/instances/web") {
		subbubble(t, key, func(t *testing.T, cluster *etcdtest.Cluster) {
			a := start(t, cluster, "a")
			storetest.Register(t, a.Registry, instance("1", 10*time.Second))
			a.close()
			c := cluster.Client()
			if _, err := c.Put(t.Context(), key, "\x01damaged"); err != nil {
				t.Fatal(err)
			}
			r, err := store.Open(t.Context(), etcd.New(c, etcd.Config{Endpoints: []string{"10.0.0.1:2379"}}), store.Config{})
			if err == nil {
				r.Close()
				t.Fatal("it starts")
			}
			for _, text := range []string{"etcd at 10.0.0.1:2379", key, "damaged", "etcdctl"} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in: %v", text, err)
				}
			}
			c.Close()
		})
	}
}

// A server that meets a damaged value goes on with what it has, but says that it
// is stale, and why, until the value is mended.
func TestMeetsDamage(t *testing.T) {
	for _, key := range damaged {
		subbubble(t, key, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			storetest.Register(t, a.Registry, instance("1", 10*time.Second))
			storetest.Register(t, a.Registry, instance("2", 10*time.Second))
			c := cluster.Client()
			defer c.Close()
			before, err := c.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Put(t.Context(), key, "\x01damaged"); err != nil {
				t.Fatal(err)
			}
			storetest.Advance(2 * time.Second)
			for name, s := range map[string]*server{"a": a, "b": b} {
				if !s.stale() || !s.has("1") || !s.has("2") {
					t.Fatalf("%s is stale: %v, it has %v", name, s.stale(), storetest.Live(s.Registry, "web"))
				}
				if err := s.beat(t.Context(), "1"); !errors.Is(err, store.ErrNotDurable) || !strings.Contains(err.Error(), key) {
					t.Errorf("%s: heartbeat: %v", name, err)
				}
			}
			// Mended as an operator would.
			if len(before.Kvs) > 0 {
				_, err = c.Put(t.Context(), key, string(before.Kvs[0].Value))
			} else {
				_, err = c.Delete(t.Context(), key)
			}
			if err != nil {
				t.Fatal(err)
			}
			storetest.Advance(2 * time.Second)
			for name, s := range map[string]*server{"a": a, "b": b} {
				if s.stale() || !s.has("1") || !s.has("2") {
					t.Errorf("mended: %s is stale: %v, it has %v", name, s.stale(), storetest.Live(s.Registry, "web"))
				}
				s.mustBeat(t, "1")
			}
			same(t, a, b)
			storetest.Register(t, b.Registry, instance("1", 30*time.Second))
			same(t, a, b)
		})
	}
}

// A change that is committed while all is being read again has been made, and
// whoever made it hears so.
func TestChangeDuringResync(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for k := range 40 {
			b.client.Delay(time.Duration(k) * 3 * time.Millisecond)
			id := []string{"1", "2", "3"}[k%3]
			done := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				done <- second(b.Register(ctx, instance(id, time.Duration(10+k)*time.Second), false))
			}()
			storetest.Advance(time.Duration(k%7) * 10 * time.Millisecond)
			if _, err := a.client.Put(t.Context(), "/roster/floor", string(floor(t, a))); err != nil { // all read again
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("%d: %v", k, err)
			}
			storetest.Advance(time.Second)
			same(t, a, b)
		}
		storetest.Register(t, b.Registry, instance("own", time.Minute))
		want := b.ends(t, "own")
		if _, err := a.client.Put(t.Context(), "/roster/floor", string(floor(t, a))); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		if end := b.ends(t, "own"); !end.Equal(want) {
			t.Errorf("to read all again has moved the end of a lease by %v", end.Sub(want))
		}
		if n := b.etcd.Counts().Resyncs; n < 40 {
			t.Errorf("all was read %d times: this tests nothing", n)
		}
	})
}

func floor(t *testing.T, s *server) []byte {
	t.Helper()
	r, err := s.client.Get(t.Context(), "/roster/floor")
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("floor: %v, %v", r, err)
	}
	return r.Kvs[0].Value
}

// An instance's key that an operator deletes is gone on all servers.
func TestDeletedByHand(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		for _, id := range []string{"1", "2"} {
			storetest.Register(t, a.Registry, instance(id, 10*time.Second))
		}
		c := cluster.Client()
		defer c.Close()
		if _, err := c.Delete(t.Context(), "/roster/instances/web/1"); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		same(t, a, b)
		if a.has("1") || !a.has("2") || a.stale() {
			t.Errorf("it has %v, stale: %v", storetest.Live(a.Registry, "web"), a.stale())
		}
		storetest.Register(t, b.Registry, instance("1", 10*time.Second))
		same(t, a, b)
	})
}

// Keys that are not roster's are let alone.
func TestOtherKeys(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		c := cluster.Client()
		defer c.Close()
		others := []string{"/rosters/x", "/roster", "/roster/README", "/else"}
		for _, key := range others {
			if _, err := c.Put(t.Context(), key, "mine"); err != nil {
				t.Fatal(err)
			}
		}
		a, b := two(t, cluster)
		storetest.Register(t, a.Registry, instance("1", 10*time.Second))
		for _, key := range others {
			if _, err := c.Put(t.Context(), key, "mine"); err != nil {
				t.Fatal(err)
			}
		}
		storetest.Advance(5 * time.Second)
		same(t, a, b)
		if a.etcd.Counts().Resyncs+b.etcd.Counts().Resyncs > 0 || a.stale() {
			t.Error("what is not theirs has troubled the servers")
		}
		a.close()
		b.close()
		for _, key := range others {
			if r, err := c.Get(t.Context(), key); err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "mine" {
				t.Errorf("%s: %v, %v", key, r, err)
			}
		}
	})
}
