package integration

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An instance that stops its heartbeats is gone from DNS and the API within
// 100 ms of its lease's end, and not before.
func TestGoneAtTheLeasesEnd(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir())
	r.register(t, "web", "stays", `{"address":"10.0.0.1","permanent":true}`)
	dying := r.register(t, "web", "dies", `{"address":"10.0.0.2","ttl":2}`)

	type sight struct{ last, gone time.Time }
	watch := func(look func() bool) (s sight) {
		for s.gone.IsZero() && time.Since(dying.Expires) < 5*time.Second {
			before := time.Now()
			if look() {
				s.last = before // it was there at some moment after this
			} else {
				s.gone = time.Now() // it was gone at some moment before this
			}
		}
		return s
	}
	var byDNS, byAPI sight
	var g sync.WaitGroup
	g.Go(func() {
		byDNS = watch(func() bool {
			addrs, _, err := addresses(r.dns, "web.service.")
			if err != nil || !slices.Contains(addrs, "10.0.0.1") {
				t.Errorf("DNS: %q, %v", addrs, err)
			}
			return slices.Contains(addrs, "10.0.0.2")
		})
	})
	g.Go(func() {
		byAPI = watch(func() bool {
			_, there := r.listed(t)["dies"]
			return there
		})
	})
	g.Wait()
	stalled := r.extended(t) // on a busy machine: that is no part of this
	for name, s := range map[string]sight{"DNS": byDNS, "the API": byAPI} {
		t.Logf("gone from %s %v after the lease's end", name, s.gone.Sub(dying.Expires))
		if s.gone.IsZero() || s.gone.Before(dying.Expires) {
			t.Errorf("gone from %s %v before the lease's end", name, dying.Expires.Sub(s.gone))
		}
		// Stricter than 100 ms: nothing that was asked after the end has it.
		if s.last.After(dying.Expires.Add(stalled)) {
			t.Errorf("in %s %v after the lease's end", name, s.last.Sub(dying.Expires))
		}
	}
	if status, _, err := r.call(http.MethodPut, "/v1/services/web/instances/dies/heartbeat", ""); status != http.StatusNotFound {
		t.Errorf("a heartbeat after the end: %d, %v", status, err)
	}
}

// An instance that heartbeats for 20 lease lengths is in every answer, asked
// 50 times a second.
func TestNeverMissing(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir())
	const lengths = 20
	r.register(t, "web", "a1", `{"address":"10.0.0.1","ttl":1}`)
	end := time.Now().Add(lengths * time.Second)
	var g sync.WaitGroup
	g.Go(func() {
		every(time.Second/3, end, func() {
			if status, b, err := r.call(http.MethodPut, "/v1/services/web/instances/a1/heartbeat", ""); status != http.StatusOK {
				t.Errorf("heartbeat: %d %s %v", status, b, err)
			}
		})
	})
	asked := 0
	every(time.Second/50, end, func() {
		asked++
		addrs, ttl, err := addresses(r.dns, "web.service.")
		if err != nil || !slices.Equal(addrs, []string{"10.0.0.1"}) || ttl != 0 {
			t.Errorf("answer %d: %q with TTL %d, %v", asked, addrs, ttl, err)
		}
	})
	g.Wait()
	if asked < lengths*40 {
		t.Errorf("only asked %d times", asked)
	}
}

// every calls f at once and then at each tick until end.
func every(d time.Duration, end time.Time, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for time.Now().Before(end) {
		f()
		<-tick.C
	}
}

// P1 through an honest cache: 20 instances with leases of 5 s, ten die. No
// answer has a dead one after its lease's end, none lacks a live one.
func TestNoDeadAddressThroughUnbound(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir())
	resolver := startUnbound(t, r)

	const n, dead = 20, 10
	var killed atomic.Bool
	var mu sync.Mutex
	ends := map[string]time.Time{} // the dead ones' leases, by address; guarded by mu
	address := func(k int) string { return fmt.Sprintf("10.0.0.%d", k+1) }
	for k := range n {
		r.register(t, "web", fmt.Sprintf("i%d", k), fmt.Sprintf(`{"address":%q,"port":80,"ttl":5}`, address(k)))
	}
	begin := time.Now()
	end := begin.Add(16 * time.Second)
	var g sync.WaitGroup
	for k := range n {
		g.Go(func() {
			// Each at its own pace, so that the RRset's TTL is never the same.
			every(1200*time.Millisecond+time.Duration(k)*30*time.Millisecond, end, func() {
				if k < dead && killed.Load() {
					return
				}
				i := r.heartbeat(t, "web", fmt.Sprintf("i%d", k))
				mu.Lock()
				ends[address(k)] = i.Expires
				mu.Unlock()
			})
		})
	}
	asked, cached := 0, 0
	var lastTTL uint32
	var late time.Duration // a dead one in an answer
	every(10*time.Millisecond, end, func() {
		if !killed.Load() && time.Since(begin) > 6*time.Second {
			killed.Store(true)
		}
		sent := time.Now()
		addrs, ttl, err := addresses(resolver, "web.service.")
		if err != nil {
			t.Errorf("ask unbound: %v", err)
			return
		}
		asked++
		if ttl > 0 && ttl == lastTTL {
			cached++
		}
		lastTTL = ttl
		mu.Lock()
		defer mu.Unlock()
		for _, a := range addrs {
			if e, known := ends[a]; known && sent.After(e) {
				late = max(late, sent.Sub(e))
			}
		}
		for k := range n {
			if alive := k >= dead || !killed.Load(); alive && !slices.Contains(addrs, address(k)) {
				t.Errorf("%s lives, and is not in the answer with %d addresses", address(k), len(addrs))
			}
		}
	})
	g.Wait()
	if late > r.extended(t) {
		t.Errorf("a dead one was in an answer %v after its lease's end", late)
	}
	t.Logf("asked %d times, %d in the same second as the one before", asked, cached)
	if asked < 500 || cached < asked/10 {
		t.Error("the cache was hardly used: the test does not show what it says")
	}
	if addrs, _, err := addresses(resolver, "web.service."); err != nil || len(addrs) != n-dead {
		t.Errorf("at the end: %d addresses, want %d, %v", len(addrs), n-dead, err)
	}
	if got := len(slices.Collect(maps.Keys(r.listed(t)))); got != n-dead {
		t.Errorf("at the end %d are listed, want %d", got, n-dead)
	}
}
