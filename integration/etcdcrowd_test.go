package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// crowd are the clients of a cluster that is in trouble, and those who observe it.
// Each client has one instance registered after the other, and turns to the next
// server as soon as one does not answer, or not with success.
type crowd struct {
	*history
	t        *testing.T
	h        *hosts
	lease    time.Duration
	every    time.Duration // from one heartbeat to the next
	services int
	next     atomic.Int64 // instances so far

	quiet atomic.Bool // nobody dies or comes any more
	final listing     // what all servers show at the end

	unavailable, silent, serials atomic.Int64
}

// patience is how long a client waits for an answer.
const patience = 500 * time.Millisecond

// run keeps n instances registered until ctx is done: every third dies or is
// deregistered after a while, and another takes its place. It returns when all
// clients have ended; those that live then are not heard from any more.
func (c *crowd) run(ctx context.Context, n int, rnd *rand.Rand) {
	var g sync.WaitGroup
	for k := range n {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		g.Go(func() {
			for ctx.Err() == nil {
				lasts := time.Hour
				if k%3 == 0 {
					lasts = c.lease/2 + time.Duration(own.Int64N(int64(2*c.lease)))
				}
				c.live(ctx, own, lasts)
			}
		})
	}
	g.Wait()
}

// live is the life of one instance. It lasts some time after its registration was
// acknowledged, at least: so a registration that was given up cannot come after
// its end.
func (c *crowd) live(ctx context.Context, rnd *rand.Rand, lasts time.Duration) {
	n := c.next.Add(1)
	l := &life{
		service: fmt.Sprintf("s%d", n%int64(c.services)), id: fmt.Sprintf("i%d", n),
		addr: fmt.Sprintf("10.1.%d.%d", n>>8, n&255), lease: c.lease,
	}
	c.note(func() { c.lives = append(c.lives, l) })
	path := "/v1/services/" + l.service + "/instances/" + l.id
	body := fmt.Sprintf(`{"address":%q,"port":80,"ttl":%d}`, l.addr, l.lease/time.Second)
	at := rnd.IntN(len(c.h.servers))
	if !c.insist(ctx, l, &at, http.MethodPut, path, body) {
		return
	}
	end := time.Now().Add(lasts)
	for {
		pace := c.every*3/4 + time.Duration(rnd.Int64N(int64(c.every/2)))
		if !pause(ctx, pace) {
			return
		}
		if time.Now().After(end) && !c.quiet.Load() {
			break
		}
		if !c.insist(ctx, l, &at, http.MethodPut, path+"/heartbeat", "") {
			return
		}
	}
	if rnd.IntN(2) == 0 { // the others just die
		l.removing = time.Now()
		c.insist(ctx, l, &at, http.MethodDelete, path, "")
	}
}

// insist sends a request to one server after the other until it is answered with
// success. It returns false where the instance is gone, or ctx is done.
func (c *crowd) insist(ctx context.Context, l *life, at *int, method, path, body string) bool {
	for k := 1; ctx.Err() == nil; k++ {
		one := try{server: *at, begin: time.Now()}
		status, reply := c.send(c.h.servers[*at], method, path, body)
		one.end, one.ok = time.Now(), status/100 == 2
		switch {
		case method == http.MethodDelete && (one.ok || status == http.StatusNotFound):
			l.removed = one
			return true
		case method != http.MethodDelete:
			l.tries = append(l.tries, one)
		}
		switch {
		case one.ok:
			l.heard.Store(one.begin.UnixNano())
			return true
		case status == http.StatusNotFound:
			c.lost(l, one)
			return false
		case status == 0:
			c.silent.Add(1)
		case status == http.StatusServiceUnavailable:
			c.unavailable.Add(1)
		default:
			c.t.Errorf("%s %s: %d %s", method, path, status, reply)
		}
		*at = (*at + 1) % len(c.h.servers)
		if k%len(c.h.servers) == 0 {
			pause(ctx, 50*time.Millisecond)
		}
	}
	return false
}

// acknowledged returns of how many clients something was acknowledged that was sent
// after a moment.
func (c *crowd) acknowledged(since time.Time) (n int) {
	c.note(func() {
		for _, l := range c.lives {
			if l.heard.Load() > since.UnixNano() {
				n++
			}
		}
	})
	return n
}

// lost judges a heartbeat's 404: it is right only where no acknowledged heartbeat
// was sent less than a lease before it came.
func (c *crowd) lost(l *life, now try) {
	for _, t := range l.tries {
		if t.ok && now.end.Before(t.begin.Add(l.lease)) {
			c.t.Errorf("%s, server %s: %s is not registered, though acknowledged %v before, for %v",
				now.end.Format("05.000"), c.h.servers[now.server].name, l.id, now.end.Sub(t.end), l.lease)
			return
		}
	}
}

// send sends one request and returns the status, 0 where there is no answer.
func (c *crowd) send(s *server, method, path, body string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	resp, err := c.h.via.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(reply)
}

// pause waits, and returns false where ctx is done.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// observe asks each server about one service after the other until ctx is done,
// and what its lease clock has stood.
func (c *crowd) observe(ctx context.Context) (wait func()) {
	var g sync.WaitGroup
	for k, s := range c.h.servers {
		for j := range 2 { // one may be waiting for an answer that is lost
			stub := c.h.stub(c.t, s, time.Second)
			g.Go(func() {
				for n := j; ctx.Err() == nil; n++ {
					c.look(k, stub, fmt.Sprintf("s%d", n%c.services))
					pause(ctx, 10*time.Millisecond)
				}
			})
		}
		stub := c.h.stub(c.t, s, time.Second)
		g.Go(func() {
			var last uint32
			for pause(ctx, 200*time.Millisecond) {
				last = c.serial(s, stub, last)
				if v := value(c.h.fetch("http://"+s.http+"/metrics"), "roster_stall_extension_seconds_total"); v >= 0 {
					r := pulse{k, time.Now(), time.Duration(v * float64(time.Second))}
					c.note(func() { c.runs = append(c.runs, r) })
				}
			}
		})
	}
	return g.Wait
}

func (c *crowd) look(k int, stub *stub, service string) {
	s := &sight{server: k, service: service, sent: time.Now()}
	var err error
	if s.answer, err = stub.ask(service+".service.", dns.TypeA); err != nil {
		return
	}
	s.got = time.Now()
	c.note(func() { c.sights = append(c.sights, s) })
}

// serial fails the test where a server's serial goes back, be it that the server
// was started again in between.
func (c *crowd) serial(s *server, stub *stub, last uint32) uint32 {
	a, err := stub.ask("service.", dns.TypeSOA)
	if err != nil {
		return last
	}
	c.serials.Add(1)
	if int32(a.serial-last) < 0 && last != 0 {
		c.t.Errorf("%s: the serial went from %d back to %d", s.name, last, a.serial)
	}
	return a.serial
}
