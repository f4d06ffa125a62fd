package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// leaseholder is an instance whose lease a server has told to its client.
type leaseholder struct {
	name string // in DNS
	path string
	ttl  time.Duration

	mu   sync.Mutex
	sent []renewal // guarded by mu
}

// renewal is one registration or heartbeat.
type renewal struct {
	begin, end time.Time
	expires    time.Time // as the reply has it; where there was none, the latest that it can be
	lost       *server   // it has not answered
}

// until returns the end that the lease can have had at the most at a moment: as
// the last that was sent before it says.
func (l *leaseholder) until(moment time.Time) (end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.sent {
		if r.begin.Before(moment) && r.expires.After(end) {
			end = r.expires
		}
	}
	return end
}

// stop is when a server did not run.
type stop struct {
	server     *server
	begin, end time.Time
}

// late puts off the ends of leases whose heartbeat was in the sockets of a server
// that was stopped: it took that in when it ran again.
func (l *leaseholder) late(stops []stop) {
	for k := range l.sent {
		r := &l.sent[k]
		for _, s := range stops {
			if r.lost == s.server && s.begin.Before(r.end) && s.end.After(r.begin) {
				r.expires = s.end.Add(takenIn + l.ttl)
			}
		}
	}
}

// renew registers the instance, or sends a heartbeat.
func (l *leaseholder) renew(s *server, path, body string) {
	r := renewal{begin: time.Now()}
	r.expires = r.begin.Add(time.Hour) // nobody knows yet
	l.mu.Lock()
	l.sent = append(l.sent, r)
	k := len(l.sent) - 1
	l.mu.Unlock()
	status, b, err := s.call(http.MethodPut, path, body)
	var reply instance
	r.end = time.Now()
	r.expires = r.end.Add(l.ttl)
	switch {
	case err != nil:
		r.lost = s
	case status == http.StatusNotFound:
		r.expires = r.begin // it is gone, and stays so
	case status < 300 && json.Unmarshal(b, &reply) == nil:
		// As the server's clock follows others, its word may come to less than the
		// ttl that the heartbeat was promised.
		r.expires = reply.Expires
		if least := r.begin.Add(l.ttl); least.After(r.expires) {
			r.expires = least
		}
	}
	l.mu.Lock()
	l.sent[k] = r
	l.mu.Unlock()
}

// sample is what one answer said of an instance.
type sample struct {
	l         *leaseholder
	sent, got time.Time
	answer
}

// TTLs on a server that gets no heartbeat: 10,000 of them, none above what is left
// of the lease, by the word of the server that took the last heartbeat. Meanwhile
// both servers are stopped and cut off now and then.
func TestEtcdTTLs(t *testing.T) {
	t.Parallel()
	lasts := 8 * time.Second
	if torture() {
		lasts = time.Minute
	}
	rnd := seeded(t)
	h := newHosts(t)
	a, b := h.servers[0], h.servers[1]
	ctx, cancel := context.WithTimeout(t.Context(), lasts+4*time.Minute)
	defer cancel()
	holders := h.leaseholders(50)
	before := h.extensions(t)
	var g sync.WaitGroup
	for _, l := range holders {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		g.Go(func() { l.live(ctx, own, a, h.servers[2]) })
	}
	stub := h.stub(t, b, 6*time.Second) // a stopped server answers late
	var samples []sample
	g.Go(func() {
		defer cancel()
		begin, fresh := time.Now(), 0
		for n := 0; ctx.Err() == nil && (time.Since(begin) < lasts || fresh < 10_000); n++ {
			s := sample{l: holders[n%len(holders)], sent: time.Now()}
			var err error
			if s.answer, err = stub.ask(s.l.name, dns.TypeA); err == nil && len(s.addrs) == 1 {
				s.got = time.Now()
				samples = append(samples, s)
				if !s.stale {
					fresh++
				}
			}
			if n%8 == 0 { // the answers are to be spread over the time
				pause(ctx, time.Millisecond)
			}
		}
	})
	stops := h.disturb(ctx, rnd, a, b)
	g.Wait()
	for _, l := range holders {
		l.late(stops)
	}
	judgeTTLs(t, samples, h.extensions(t)-before)
	h.healthy(t, h.goroutines())
}

// leaseholders are n instances with leases of 2 to 60 s, each a service of its
// own.
func (h *hosts) leaseholders(n int) (all []*leaseholder) {
	for k := range n {
		ttl := []int{2, 3, 4, 5, 7, 10, 15, 20, 30, 60}[k%10]
		service := fmt.Sprintf("t%d", k)
		all = append(all, &leaseholder{
			name: service + ".service.", path: "/v1/services/" + service + "/instances/a1", ttl: time.Duration(ttl) * time.Second,
		})
	}
	return all
}

// live sends heartbeats, most of them to a, early and late in the lease, and lets
// the lease end now and then.
func (l *leaseholder) live(ctx context.Context, rnd *rand.Rand, a, c *server) {
	body := fmt.Sprintf(`{"address":"10.0.0.1","port":80,"ttl":%d}`, l.ttl/time.Second)
	l.renew(a, l.path, body)
	for {
		share := 0.2 + 0.75*rnd.Float64()
		if rnd.IntN(8) == 0 {
			share = 1.1
		}
		if !pause(ctx, min(time.Duration(share*float64(l.ttl)), 5*time.Second)) {
			return
		}
		s := a
		if rnd.IntN(5) == 0 {
			s = c
		}
		if share > 1 {
			l.renew(s, l.path, body)
		} else {
			l.renew(s, l.path+"/heartbeat", "")
		}
	}
}

// disturb has either server stopped or cut off, or neither, until ctx is done.
func (h *hosts) disturb(ctx context.Context, rnd *rand.Rand, servers ...*server) (stops []stop) {
	for n := 0; pause(ctx, 500*time.Millisecond); n++ {
		s := servers[rnd.IntN(len(servers))]
		heal, begin := func() {}, time.Now()
		switch {
		case n%2 == 0:
			heal = s.program.Load().hold()
		case h.net != nil:
			heal = h.net.lose(between([]*node{s.node}, h.memberNodes())...)
		}
		most := 1500 * time.Millisecond
		if torture() {
			most = 5 * time.Second
		}
		pause(ctx, 500*time.Millisecond+time.Duration(rnd.Int64N(int64(most))))
		heal()
		if n%2 == 0 {
			stops = append(stops, stop{s, begin, time.Now()})
		}
	}
	return stops
}

// extensions returns by how much stalls have extended all leases: on each server,
// so it is the least that any says.
func (h *hosts) extensions(t *testing.T) time.Duration {
	t.Helper()
	least := time.Hour
	for _, s := range h.servers {
		least = min(least, s.extended(t))
	}
	return least
}

// judgeTTLs fails the test where a TTL was above the rest of the lease at the
// moment when the question was sent, less the second that caches may add; or,
// where the answer is marked stale, above 1. If all clocks stood, on a machine
// that was too busy, leases last longer by that.
func judgeTTLs(t *testing.T, samples []sample, stood time.Duration) {
	t.Helper()
	var spare []time.Duration
	stale, wrong := 0, 0
	for _, s := range samples {
		if s.stale {
			if stale++; s.ttl > 1 {
				t.Errorf("%s: a stale answer has TTL %d", s.l.name, s.ttl)
			}
			continue
		}
		left := s.l.until(s.got).Sub(s.sent) + stood
		kept := time.Duration(s.ttl) * time.Second
		if s.ttl > 0 {
			kept += time.Second
		}
		spare = append(spare, left-kept)
		if kept > left {
			if wrong++; wrong <= 10 {
				t.Errorf("%s: TTL %d, and %v were left of a lease of %v", s.l.name, s.ttl, left, s.l.ttl)
			}
		}
	}
	slices.Sort(spare)
	t.Logf("%d TTLs, %d of stale answers; of the lease was left, beyond what a cache keeps: %v at least, p1 %v, median %v, p99 %v, at most %v; clocks stood %v; %d wrong",
		len(samples), stale, at(spare, 0), at(spare, 0.01), at(spare, 0.5), at(spare, 0.99), at(spare, 1), stood, wrong)
	if len(spare) < 10_000 {
		t.Errorf("only %d answers were not stale", len(spare))
	}
}
