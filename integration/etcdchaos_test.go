package integration

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// chaos is how long trouble is made, and how long each lasts.
type chaos struct {
	lasts              time.Duration
	holdsMin, holdsMax time.Duration
	pause              time.Duration // between two
}

// Servers and etcd members are killed, stopped and cut off from each other, in an
// order that ROSTER_SEED repeats, while 60 clients have instances with leases of
// 6 s registered on whichever server answers. No acknowledged registration is
// lost, no live instance is missing from any server that answers, and no dead one
// is answered past its lease, unless the answer is marked stale. Afterwards all
// servers show the same.
func TestEtcdChaos(t *testing.T) {
	t.Parallel()
	c := chaos{lasts: 12 * time.Second, holdsMin: time.Second, holdsMax: 2500 * time.Millisecond, pause: 300 * time.Millisecond}
	if torture() {
		c = chaos{lasts: time.Minute, holdsMin: 2 * time.Second, holdsMax: 6 * time.Second, pause: time.Second}
	}
	rnd := seeded(t)
	h := newHosts(t)
	all := &crowd{history: &history{}, t: t, h: h, lease: 6 * time.Second, every: 1500 * time.Millisecond, services: 8}
	ctx, cancel := context.WithCancel(t.Context())
	watched := all.observe(ctx)
	var g sync.WaitGroup
	g.Go(func() { all.run(ctx, 60, rnd) })
	defer func() { // whatever happens
		cancel()
		g.Wait()
		watched()
		all.judge(t, c.lasts)
	}()
	goroutines := h.goroutines()
	c.run(t, h, all.history, rnd)
	all.quiet.Store(true)
	healed := time.Now()
	h.agree(t)
	until(t, 10*time.Second, "most clients' heartbeats are acknowledged again", func() bool { return all.acknowledged(healed) >= 45 })
	pause(ctx, unconfirmed+100*time.Millisecond) // and all servers must know of them
	all.final = h.agree(t)
	h.healthy(t, goroutines)
}

// seeded returns the order of the test's events, which ROSTER_SEED repeats.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("ROSTER_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("ROSTER_SEED: %v", err)
		}
	}
	t.Logf("ROSTER_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// run makes trouble of one kind after the other, while now and then a server is
// killed beside that. When it returns all is healed, and all programs run.
func (c chaos) run(t *testing.T, h *hosts, hist *history, rnd *rand.Rand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.lasts)
	defer cancel()
	own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
	var g sync.WaitGroup
	g.Go(func() { c.killServers(ctx, t, h, own) })
	var deck []int
	begin := time.Now()
	for ctx.Err() == nil {
		if len(deck) == 0 {
			deck = rnd.Perm(len(h.mishaps(t, rnd)))
		}
		one := h.mishaps(t, rnd)[deck[0]]
		deck = deck[1:]
		holds := c.holdsMin + time.Duration(rnd.Int64N(int64(c.holdsMax-c.holdsMin)))
		since := time.Now()
		t.Logf("%5.1f s (%s): %v, for %v", since.Sub(begin).Seconds(), since.Format("05.000"), one, holds.Round(10*time.Millisecond))
		heal := one.do()
		pause(ctx, holds)
		heal()
		if until := time.Now(); one.stops > 0 {
			if one.kind == unplugged { // what was sent is sent again, after twice as long each time
				until = until.Add(until.Sub(since))
			}
			hist.note(func() { hist.holds = append(hist.holds, hold{one.stops - 1, since, until}) })
		}
		pause(ctx, c.pause)
	}
	g.Wait()
}

// killServers kills one server after the other, and starts it again.
func (c chaos) killServers(ctx context.Context, t *testing.T, h *hosts, rnd *rand.Rand) {
	t.Helper()
	begin := time.Now()
	for pause(ctx, time.Second+time.Duration(rnd.Int64N(int64(2*time.Second)))) {
		s := h.servers[rnd.IntN(len(h.servers))]
		t.Logf("%5.1f s (%s): server killed: %s", time.Since(begin).Seconds(), time.Now().Format("05.000"), s.name)
		if p := s.program.Load(); p.ended() {
			t.Errorf("%s has ended by itself: %v\n%s", s.name, p.err, p.stderr)
		}
		s.program.Load().kill()
		pause(ctx, 100*time.Millisecond+time.Duration(rnd.Int64N(int64(time.Second))))
		h.again(t, s)
	}
}

// again starts a server that was killed, as systemd does: again and again where it
// ends since it does not reach etcd.
func (h *hosts) again(t *testing.T, s *server) {
	t.Helper()
	s.start(t)
	until(t, time.Minute, s.name+" is ready again", func() bool {
		if s.program.Load().ended() {
			<-time.After(200 * time.Millisecond)
			s.start(t)
		}
		return s.isReady()
	})
}

// ended reports whether the program has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// listing is the whole of what a server shows.
type listing struct {
	asked, got time.Time
	revision   uint64
	ids        []string
}

// list asks a server for all that is registered.
func (s *server) list() (l listing, ok bool) {
	l.asked = time.Now()
	status, b, err := s.call(http.MethodGet, "/v1/services", "")
	var services struct {
		Revision uint64                  `json:"revision"`
		Services []struct{ Name string } `json:"services"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(b, &services) != nil {
		return l, false
	}
	l.revision = services.Revision
	for _, one := range services.Services {
		_, b, err := s.call(http.MethodGet, "/v1/services/"+one.Name, "")
		var service struct {
			Instances []instance `json:"instances"`
		}
		if err != nil || json.Unmarshal(b, &service) != nil {
			return l, false
		}
		for _, i := range service.Instances {
			l.ids = append(l.ids, one.Name+"/"+i.ID)
		}
	}
	l.got = time.Now()
	return l, true
}

// agree waits until all servers show the same, at the same revision, which takes
// 10 s at most. It returns what they show.
func (h *hosts) agree(t *testing.T) listing {
	t.Helper()
	begin := time.Now()
	var all []listing
	until(t, 10*time.Second, "all servers show the same", func() bool {
		all = nil
		for _, s := range h.servers {
			l, ok := s.list()
			if !ok {
				return false
			}
			all = append(all, l)
		}
		return !slices.ContainsFunc(all, func(l listing) bool {
			return l.revision != all[0].revision || !slices.Equal(l.ids, all[0].ids)
		})
	})
	t.Logf("all show revision %d and %d instances %v after the last trouble", all[0].revision, len(all[0].ids), time.Since(begin).Round(time.Millisecond))
	return all[0]
}

// goroutines returns how many each server has.
func (h *hosts) goroutines() (n []float64) {
	for _, s := range h.servers {
		n = append(n, value(h.fetch("http://"+s.http+"/metrics"), "go_goroutines"))
	}
	return n
}

// healthy fails the test where a server does not say that it is ready, or has far
// more goroutines than before, and those of its connections.
func (h *hosts) healthy(t *testing.T, before []float64) {
	t.Helper()
	until(t, 10*time.Second, "all servers are ready again", func() bool {
		return !slices.ContainsFunc(h.servers, func(s *server) bool { return !s.isReady() })
	})
	for k, n := range h.goroutines() {
		s := h.servers[k]
		if !s.isReady() || s.program.Load().ended() {
			t.Errorf("%s is not ready at the end", s.name)
		}
		if most := before[k] + 300; !(n <= most) || math.IsNaN(n) {
			t.Errorf("%s has %v goroutines, want %v at most", s.name, n, most)
		}
	}
}

// judge judges what the clients and the observers have seen.
func (c *crowd) judge(t *testing.T, lasted time.Duration) {
	t.Helper()
	j := newJudge(c.history)
	j.all()
	j.last(c.final)
	for _, w := range j.wrong[:min(len(j.wrong), 20)] {
		t.Error(w)
	}
	if n := len(j.wrong); n > 20 {
		t.Errorf("and %d more", n-20)
	}
	told := 0
	for l := range j.told {
		if told++; told <= 3 {
			t.Log(j.story(l))
		}
	}
	stale := 0
	for _, s := range c.sights {
		if s.stale {
			stale++
		}
	}
	longest := time.Duration(0)
	for k := range len(j.acks) - 1 {
		longest = max(longest, j.acks[k+1].Sub(j.acks[k]))
	}
	t.Logf("%d instances; %d requests acknowledged, %d got 503, %d no answer, the longest time without any acknowledged %v",
		len(c.lives), len(j.acks), c.unavailable.Load(), c.silent.Load(), longest.Round(time.Millisecond))
	t.Logf("%d answers, %d of them stale: %d times one had to be there, %d times one was gone; %d times one was there longer because clocks stood, by %v at most",
		len(c.sights), stale, j.live, j.dead, j.excused, j.latest.Round(time.Millisecond))
	// Less than this, and the test does not show what it says.
	seconds := int(lasted / time.Second)
	for what, few := range map[string]bool{
		"acknowledged requests": len(j.acks) < 10*seconds, "answers": len(c.sights) < 50*seconds,
		"live ones looked for": j.live < 200*seconds, "dead ones looked for": j.dead < seconds,
	} {
		if few {
			t.Errorf("hardly any %s", what)
		}
	}
	for k, s := range c.h.servers {
		if len(j.fresh[k]) < 10*seconds {
			t.Errorf("%s gave only %d answers that were not stale", s.name, len(j.fresh[k]))
		}
	}
}
