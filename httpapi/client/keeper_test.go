package client_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

var bubble = synctest.Test

// noListener is for servers whose handler alone is used.
type noListener struct{ net.Listener }

// Addr implements [net.Listener].
func (noListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8054} }

// keeping is a Keeper that runs, and what it has reported.
type keeping struct {
	*client.Keeper
	stop func() error // ends Run and returns what it did

	mu      sync.Mutex
	reports []string
}

func (k *keeping) report(i client.Instance, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.reports = append(k.reports, "error: "+err.Error())
		return
	}
	k.reports = append(k.reports, i.ID)
}

// said returns what was reported since it was asked last.
func (k *keeping) said() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	said := k.reports
	k.reports = nil
	return said
}

func (k *keeping) wantSaid(t *testing.T, want ...string) {
	t.Helper()
	got := k.said()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("reported %q, want %q", got, want)
	}
}

// keep runs a Keeper of web/a1 with a lease of 3 s.
func keep(t *testing.T, c *client.Client) *keeping {
	t.Helper()
	k := &keeping{Keeper: &client.Keeper{Client: c, Registration: client.Registration{
		Service: "web", ID: "a1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Port: 80, TTL: 3,
	}}}
	k.Report = k.report
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	k.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = k.stop() })
	synctest.Wait()
	return k
}

func live(r *store.Registry) int { return len(storetest.Live(r, "web")) }

// For an hour no lease ends, and a heartbeat comes every third of one or a
// little sooner. When it stops, the instance stays for its lease.
func TestKeeperKeeps(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		k := keep(t, c)
		storetest.Advance(time.Hour)
		if n := a.requests.Load(); n < 3600 || n > 4500 {
			t.Errorf("%d requests in an hour, want 3600 to 4500", n)
		}
		if n := r.Counts().Changes; n[store.Registered] != 1 || n[store.Expired] != 0 {
			t.Errorf("changes: %v, want one registration", n)
		}
		if b.requests.Load() != 0 {
			t.Error("the second server was asked while the first one answers")
		}
		k.wantSaid(t, "a1")
		if err := k.stop(); err != nil {
			t.Errorf("Run ended with %v", err)
		}
		if live(r) != 1 {
			t.Error("it was removed when Run ended")
		}
		storetest.Advance(3100 * time.Millisecond)
		if live(r) != 0 {
			t.Error("it is there after its lease's end")
		}
	})
}

// With all servers away for longer than the lease it is registered again as
// soon as one is back, under its ID; one report each way.
func TestKeeperAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		k := keep(t, c)
		k.wantSaid(t, "a1")
		a.away.Store(true)
		b.away.Store(true)
		storetest.Advance(time.Minute)
		if live(r) != 0 {
			t.Fatal("it is there without heartbeats")
		}
		if n := b.requests.Load(); n < 30 || n > 80 {
			t.Errorf("%d attempts in a minute, want one every 1 to 2 s", n)
		}
		k.wantSaid(t, "no server answers: http://10.0.0.1:8054 (connection refused), http://10.0.0.2:8054 (connection refused)")
		b.away.Store(false)
		storetest.Advance(2100 * time.Millisecond)
		if live(r) != 1 {
			t.Fatal("it is not registered again")
		}
		storetest.Advance(time.Minute)
		k.wantSaid(t, "a1", "a1")
		if n := r.Counts().Changes; n[store.Registered] != 2 || n[store.Expired] != 1 {
			t.Errorf("changes: %v", n)
		}
	})
}

// It is registered once a server is there, and not before.
func TestKeeperBeforeTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		a.away.Store(true)
		b.says.Store(http.StatusServiceUnavailable)
		k := keep(t, c)
		storetest.Advance(time.Minute)
		k.wantSaid(t, "register web/a1: http://10.0.0.2:8054: PUT http://10.0.0.2:8054/v1/services/web/instances/a1 gave no reason (503 Service Unavailable)")
		a.away.Store(false)
		storetest.Advance(2100 * time.Millisecond)
		if live(r) != 1 {
			t.Error("it is not registered")
		}
	})
}

// A server that hangs costs no lease, whenever it begins to: the other one is
// asked in time.
func TestKeeperHanging(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		keep(t, c)
		for k := range 100 {
			from, to := a, b
			if k%2 == 1 {
				from, to = b, a
			}
			to.hangs.Store(false)
			from.hangs.Store(true)
			storetest.Advance(3*time.Second + time.Duration(k)*17*time.Millisecond)
		}
		if n := r.Counts().Changes; n[store.Registered] != 1 || n[store.Expired] != 0 {
			t.Errorf("changes: %v, want one registration", n)
		}
	})
}

// What is removed by somebody else is registered again.
func TestKeeperForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, _ *host) {
		k := keep(t, c)
		before := a.changes.Load()
		if _, err := c.Deregister(t.Context(), "web", "a1"); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		if live(r) != 1 || a.changes.Load() != before+1 {
			t.Errorf("%d live after %d registrations", live(r), a.changes.Load()-before)
		}
		if k.Found() {
			t.Error("it found what it has made itself")
		}
	})
}

// It knows whether the instance was there before it, for as long as that one
// lasts.
func TestKeeperFound(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, _, _ *host) {
		first, second := keep(t, c), keep(t, c)
		if first.Found() || !second.Found() {
			t.Errorf("found by the first: %v, by the second: %v", first.Found(), second.Found())
		}
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		if err := first.Deregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		if live(r) != 1 || second.Found() {
			t.Errorf("%d live, found by the second: %v, which has registered it again", live(r), second.Found())
		}
	})
}

// A first registration that is refused ends Run; a later one does not.
func TestKeeperRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		k := &client.Keeper{Client: c, Registration: client.Registration{Service: "web", ID: "a1", TTL: 90000}}
		err := k.Run(t.Context())
		var e *client.Error
		if !errors.As(err, &e) || e.Status != 400 || e.Field != "ttl" || !strings.Contains(err.Error(), "register web/a1: http://10.0.0.1:8054: ttl: 90000") {
			t.Errorf("Run ended with %v (%+v)", err, e)
		}

		kept := keep(t, c)
		a.says.Store(http.StatusForbidden)
		storetest.Advance(10 * time.Second)
		if n := a.requests.Load(); n > 15 {
			t.Errorf("%d requests while it was refused", n)
		}
		a.says.Store(0)
		storetest.Advance(2 * time.Second)
		if live(r) != 1 {
			t.Error("it is not registered again")
		}
		kept.wantSaid(t, "a1", "403 Forbidden", "a1", "a1")
		if n := b.requests.Load(); n != 0 {
			t.Errorf("the other server was asked %d times about what the first had refused", n)
		}
	})
}

// Weight and status are said at once, and again when it has to be registered
// again.
func TestKeeperSays(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		k := keep(t, c)
		want := func(weight uint16, s client.Status) {
			t.Helper()
			synctest.Wait()
			i, err := c.Instance(t.Context(), "web", "a1")
			if err != nil || i.Weight != weight || i.Status != s {
				t.Errorf("it is %+v, %v; want weight %d and status %s", i, err, weight, s)
			}
		}
		k.SetWeight(77)
		want(77, client.Up)
		k.SetStatus(client.Down)
		want(77, client.Down)
		if _, err := c.Deregister(t.Context(), "web", "a1"); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(time.Second)
		want(77, client.Down)
		k.SetStatus(client.Up)
		want(77, client.Up)

		// What could not be said is said later.
		a.away.Store(true)
		b.away.Store(true)
		k.SetStatus(client.Down)
		storetest.Advance(500 * time.Millisecond)
		a.away.Store(false)
		storetest.Advance(2 * time.Second)
		want(77, client.Down)
	})
}

// answer is what DNS does when it answers with the service.
func answer(r *store.Registry, ttl time.Duration) {
	r.Service("web").HandOut(r.Now().Add(ttl))
}

// Drain returns when caches have forgotten the instance, and not before.
func TestKeeperDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, b *host) {
		k := keep(t, c)
		if err := k.stop(); err != nil {
			t.Fatal(err)
		}
		answer(r, 2*time.Second)
		begin := time.Now()
		if err := k.Drain(t.Context()); err != nil || time.Since(begin) != 2*time.Second {
			t.Errorf("drained after %v with %v, want the 2s of the answer", time.Since(begin), err)
		}
		storetest.Advance(10 * time.Millisecond)
		if live(r) != 0 {
			t.Error("it is still there")
		}

		// With nobody to tell, at the lease's end.
		k = keep(t, c)
		begin = time.Now()
		if err := k.stop(); err != nil {
			t.Fatal(err)
		}
		a.away.Store(true)
		b.away.Store(true)
		if err := k.Drain(t.Context()); err != nil || time.Since(begin) != 3*time.Second {
			t.Errorf("drained after %v with %v, want the lease of 3s", time.Since(begin), err)
		}

		// With a limit, no longer than that.
		begin = time.Now()
		k.Registration.Permanent, k.Registration.TTL = true, 0
		a.away.Store(false)
		permanent := &client.Keeper{Client: c, Registration: k.Registration}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := permanent.Run(ctx); err != nil {
			t.Fatal(err)
		}
		answer(r, 30*time.Second)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := permanent.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 2*time.Second {
			t.Errorf("drained after %v with %v, want a second", time.Since(begin), err)
		}
	})
}

// A registration that is under way when ctx ends is not left behind unknown.
func TestKeeperStoppedWhileRegistering(t *testing.T) {
	inBubble(t, func(t *testing.T, r *store.Registry, c *client.Client, a, _ *host) {
		c.HTTP = &http.Client{Transport: slow{c.HTTP.Transport}}
		k := keep(t, c)
		if err := k.stop(); err != nil {
			t.Fatal(err)
		}
		if k.Instance().ID == "" {
			t.Error("it does not know what was registered")
		}
		if err := k.Deregister(t.Context()); err != nil || live(r) != 0 {
			t.Errorf("%d are left, %v", live(r), err)
		}
		if err := k.Deregister(t.Context()); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
}

// slow lets replies take a while.
type slow struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (s slow) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(req)
	select {
	case <-time.After(300 * time.Millisecond):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	return resp, err
}
