package dnsserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store/storetest"
)

// pipes is a listener whose connections live in a bubble of fake time.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns the client's side of a new connection.
func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- pipeEnd{server}
	return client
}

// pipeEnd is the server's side of a connection; the client has an address.
type pipeEnd struct{ net.Conn }

func (pipeEnd) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(dnsserver.Client, 12345))
}

// inBubble runs a test against connections in fake time.
func inBubble(t *testing.T, cfg func(*dnsserver.Config), f func(t *testing.T, p *pipes, s dnsserver.Offline)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, compiledConfig)
		defer done()
		town(t, r)
		c := townConfig(r)
		if cfg != nil {
			cfg(&c)
		}
		s, p := dnsserver.NewOffline(c), newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() {
			if err := s.ServeStream(ctx, p); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		f(t, p, s)
		cancel()
		g.Wait()
	})
}

func framed(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
}

func readMessage(t *testing.T, conn net.Conn) *dns.Msg {
	t.Helper()
	m, err := (&dns.Conn{Conn: conn}).ReadMsg()
	if err != nil {
		t.Fatalf("read a response: %v", err)
	}
	return m
}

// However the octets come: one by one, several messages at once, a large one.
func TestStreamFraming(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *pipes, _ dnsserver.Offline) {
		conn := p.dial()
		defer conn.Close()
		plain, odd, large := query("web.service. A", 0), query("web.service. MX", 0), query("web.service. A", 1232)
		opt(large, 65001, string(make([]byte, 60000)))
		var all []byte
		for k, m := range []*dns.Msg{plain, odd, large, plain, odd} {
			m.Id = uint16(k)
			all = append(all, framed(t, m)...)
		}
		for _, piece := range []int{1, 7, 100, 4096, 4097, len(all)} {
			go func() {
				for at := 0; at < len(all); at += piece {
					_, _ = conn.Write(all[at:min(at+piece, len(all))])
				}
			}()
			seen := map[uint16]int{}
			for range 5 {
				m := readMessage(t, conn)
				seen[m.Id] = len(m.Answer)
			}
			if want := "map[0:3 1:0 2:3 3:3 4:0]"; fmt.Sprint(seen) != want {
				t.Errorf("in pieces of %d: answers per ID are %v, want %v", piece, seen, want)
			}
		}
	})
}

// What a connection may take: nothing for 20 s, 5 s for a message, and what is
// too short to be one not at all.
func TestStreamLimits(t *testing.T) {
	for name, c := range map[string]struct {
		sent []byte
		want time.Duration
	}{
		"idle from the start": {nil, 20 * time.Second},
		"half a length":       {[]byte{0}, 5 * time.Second},
		"half a message":      {[]byte{0, 40, 1, 2, 3}, 5 * time.Second},
		"too short":           {[]byte{0, 11, 1, 2, 3}, 0},
		"empty":               {[]byte{0, 0}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, p *pipes, _ dnsserver.Offline) {
				conn := p.dial()
				begin := time.Now()
				if len(c.sent) > 0 {
					if _, err := conn.Write(c.sent); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("got %v, want the end", err)
				}
				if took := time.Since(begin); took < c.want || took > c.want+time.Second {
					t.Errorf("ended after %v, want %v", took, c.want)
				}
			})
		})
	}
}

// A query in time begins the wait afresh; one octet now and then does not.
func TestStreamKept(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *pipes, _ dnsserver.Offline) {
		conn := p.dial()
		for range 10 {
			storetest.Advance(15 * time.Second)
			if _, err := conn.Write(framed(t, query("web.service. A", 0))); err != nil {
				t.Fatal(err)
			}
			readMessage(t, conn)
		}
		b := framed(t, query("web.service. A", 0))
		begin := time.Now()
		for k := range b {
			storetest.Advance(time.Second)
			if _, err := conn.Write(b[k : k+1]); err != nil {
				break
			}
		}
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("an octet a second keeps the connection for %v", took)
		}
	})
}

// A client that takes no answers holds up nobody but itself, and not for long.
func TestStreamNotRead(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, p *pipes, _ dnsserver.Offline) {
		conn := p.dial()
		begin := time.Now()
		var err error
		for n := 0; err == nil && n < 1000; n++ {
			_, err = conn.Write(framed(t, query("web.service. MX", 0))) // for the ordinary path
		}
		if took := time.Since(begin); err == nil || took > 8*time.Second {
			t.Errorf("after %v: %v, want the end", took, err)
		}
		other := p.dial()
		defer other.Close()
		if _, err := other.Write(framed(t, query("web.service. MX", 0))); err != nil {
			t.Fatal(err)
		}
		readMessage(t, other)
	})
}

// What is answered after a client has kept us waiting is of then: not of the
// moment at which the query came.
func TestStreamAnswersAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, compiledConfig)
		defer done()
		crowdOf(t, r, "crowd", 100)
		storetest.Register(t, r, instance("brief", "b1", "10.0.8.1", lease(3*time.Second)))
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = dnsserver.NewOffline(townConfig(r)).ServeStream(ctx, p) })
		conn := p.dial()
		var all []byte
		for range 30 { // more than is written at once
			all = append(all, framed(t, query("crowd.service. SRV", 0))...)
		}
		go func() { _, _ = conn.Write(append(all, framed(t, query("brief.service. A", 0))...)) }()
		storetest.Advance(4 * time.Second) // the lease is over, the first answers still wait
		for range 30 {
			readMessage(t, conn)
		}
		if m := readMessage(t, conn); m.Rcode != dns.RcodeNameError {
			t.Errorf("a second after the lease's end: %v", m)
		}
		conn.Close()
		cancel()
		g.Wait()
	})
}

// More connections than allowed are closed as they come, and counted.
func TestStreamTooMany(t *testing.T) {
	for name, change := range map[string]func(*dnsserver.Config){
		"in all":      func(c *dnsserver.Config) { c.MaxConns, c.MaxConnsPerClient = 2, 9 },
		"of a client": func(c *dnsserver.Config) { c.MaxConnsPerClient = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, change, func(t *testing.T, p *pipes, s dnsserver.Offline) {
				first, second, third := p.dial(), p.dial(), p.dial()
				if _, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the third got %v, want the end", err)
				}
				if n := s.Totals().Refused; n != 1 {
					t.Errorf("%d are counted as refused, want 1", n)
				}
				first.Close()
				synctest.Wait()
				fourth := p.dial()
				for _, conn := range []net.Conn{second, fourth} {
					if _, err := conn.Write(framed(t, query("web.service. A", 0))); err != nil {
						t.Fatal(err)
					}
					readMessage(t, conn)
					conn.Close()
				}
			})
		})
	}
}

// What has come when the server is to end is answered.
func TestStreamStop(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	s, err := dnsserver.New(townConfig(r))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const n = 500
	for k := range n {
		m := query([]string{"web.service. SRV", "web.service. MX"}[k%2], 1232)
		m.Id = uint16(k)
		if _, err := conn.Write(framed(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	for k := range n {
		if _, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil {
			t.Fatalf("after %d of %d answers: %v", k, n, err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What was answered is counted by transport, type and response code, whichever
// path it took.
func TestCounts(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	crowdOf(t, r, "city", 300)
	s := serve(t, townConfig(r))
	for _, q := range []string{"web.service. A", "web.service. A", "web.service. TXT", "nope.service. SRV", "example.com. A", "city.service. A"} {
		run(t, func(t *testing.T, network string) { exchange(t, s, network, query(q, 1232)) })
	}
	got := fmt.Sprint(s.Counts())
	want := "[{udp A NOERROR 3} {udp A REFUSED 1} {udp SRV NXDOMAIN 1} {udp TXT NOERROR 1} " +
		"{tcp A NOERROR 3} {tcp A REFUSED 1} {tcp SRV NXDOMAIN 1} {tcp TXT NOERROR 1}]"
	if got != want {
		t.Errorf("counted\n%s, want\n%s", got, want)
	}
	total := s.Totals()
	if total.Truncated != 1 || total.Cut != 0 || total.Ordinary != 3 || total.Dropped != 0 {
		t.Errorf("the totals are %+v", total)
	}
}
