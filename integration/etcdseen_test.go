package integration

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// What is registered on one server is in the next answer of that server (P3), and
// soon in those of the others; so is what is deregistered. Once it is quiet all
// have the same revision: as SOA serial, ETag and position of a watcher, too.
func TestEtcdRegisterHereDigThere(t *testing.T) {
	t.Parallel()
	const rounds = 200
	h := newHosts(t)
	var stubs []*stub
	for _, s := range h.servers {
		stubs = append(stubs, h.stub(t, s, 2*time.Second))
	}
	var mu sync.Mutex
	delays := map[string][]time.Duration{} // guarded by mu
	// change makes a change on one server, and waits until the others have it.
	change := func(what, method, path, body, name string, addrs []string) {
		begin := time.Now()
		acked := make(chan time.Time, len(stubs))
		var g sync.WaitGroup
		for _, stub := range stubs[1:] {
			g.Go(func() {
				seen := stub.when(t, name, addrs)
				done := <-acked
				mu.Lock()
				defer mu.Unlock()
				delays[what+", from the 2xx"] = append(delays[what+", from the 2xx"], max(seen.Sub(done), 0))
				delays[what+", from the request"] = append(delays[what+", from the request"], seen.Sub(begin))
			})
		}
		if status, b, err := h.servers[0].call(method, path, body); err != nil || status > http.StatusCreated {
			t.Fatalf("%s %s: %d %s %v", method, path, status, b, err)
		}
		for range stubs {
			acked <- time.Now()
		}
		if a, err := stubs[0].ask(name, dns.TypeA); err != nil || !slices.Equal(a.addrs, addrs) {
			t.Errorf("right after the 2xx to the %s: %v, %v, want %v", what, a, err, addrs)
		}
		g.Wait()
	}
	for k := range rounds {
		name, path := fmt.Sprintf("w%d.service.", k), fmt.Sprintf("/v1/services/w%d/instances/a1", k)
		addr := fmt.Sprintf("10.0.0.%d", k+1)
		change("registration", http.MethodPut, path, fmt.Sprintf(`{"address":%q,"port":80,"ttl":600}`, addr), name, []string{addr})
		if k%2 == 0 {
			change("deregistration", http.MethodDelete, path, "", name, nil)
		}
	}
	for _, what := range []string{"registration", "deregistration"} {
		for _, since := range []string{", from the 2xx", ", from the request"} {
			all := delays[what+since]
			slices.Sort(all)
			t.Logf("%s%s: median %v, p99 %v, the longest %v, of %d", what, since, at(all, 0.5), at(all, 0.99), at(all, 1), len(all))
			if m := at(all, 0.5); m > 50*time.Millisecond {
				t.Errorf("%s%s: the median is %v, want 50 ms at most", what, since, m)
			}
		}
	}
	h.sameRevision(t)
	h.healthy(t, h.goroutines())
}

// at returns a quantile of what is sorted.
func at(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

// when asks until the answer has just these addresses, and returns when that came.
func (s *stub) when(t *testing.T, name string, addrs []string) time.Time {
	t.Helper()
	for begin := time.Now(); ; {
		a, err := s.ask(name, dns.TypeA)
		if now := time.Now(); err == nil && slices.Equal(a.addrs, addrs) {
			return now
		} else if now.Sub(begin) > 10*time.Second {
			t.Errorf("%s: %v, %v after 10 s, want %v", name, a.addrs, err, addrs)
			return now
		}
	}
}

// sameRevision fails the test where the servers do not show the same revision
// within a second, at each of its places.
func (h *hosts) sameRevision(t *testing.T) {
	t.Helper()
	var places []string
	until(t, time.Second, "all servers have one revision", func() bool {
		places = nil
		for _, s := range h.servers {
			places = append(places, h.revisions(t, s))
		}
		return len(slices.Compact(slices.Clone(places))) == 1
	})
	t.Logf("each server: %s", places[0])
	// The ETag is that of the service's last change.
	if n := strings.Fields(places[0]); n[0] != n[2] || n[0] != n[3] {
		t.Errorf("the revision is not the same everywhere: list, ETag, event, SOA serial: %v", n)
	}
}

// revisions returns the revision as the list, its ETag, a watcher's first event
// and the SOA's serial have it.
func (h *hosts) revisions(t *testing.T, s *server) string {
	t.Helper()
	l, _ := s.list()
	resp, err := h.via.Get("http://" + s.http + "/v1/services/w1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	etag := regexp.MustCompile(`\d+`).FindString(resp.Header.Get("ETag"))
	a, err := h.stub(t, s, 2*time.Second).ask("service.", dns.TypeSOA)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(l.revision, " ", etag, " ", h.firstEvent(t, s), " ", a.serial)
}

// firstEvent returns the revision that a watcher is told first.
func (h *hosts) firstEvent(t *testing.T, s *server) uint64 {
	t.Helper()
	resp, err := h.via.Get("http://" + s.http + "/v1/events?service=w1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 4096)
	read, id := "", regexp.MustCompile(`(?m)^id: *(\d+)\n`)
	for !id.MatchString(read) {
		n, err := resp.Body.Read(buf)
		if read += string(buf[:n]); err != nil {
			t.Fatalf("events: %q, %v", read, err)
		}
	}
	revision, _ := strconv.ParseUint(id.FindStringSubmatch(read)[1], 10, 64)
	return revision
}
