package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

// floodEnv makes the test's program a flood, of the kind and to the address that
// it has, as in dns=127.0.0.1:53: a process of its own, as it would be for a real
// server.
const floodEnv = "ROSTER_TEST_FLOOD"

// floodMost is how long a flood lasts at most, whatever becomes of the test.
const floodMost = 2 * time.Minute

// flood floods until SIGTERM and prints how much was sent.
func flood(what string) int {
	kind, address, _ := strings.Cut(what, "=")
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
		fmt.Fprintln(os.Stderr, "flood: not to", address)
		return 1
	}
	var sent atomic.Int64
	var stop atomic.Bool
	var g sync.WaitGroup
	switch kind {
	case "dns":
		floodDNS(address, &g, &stop, &sent)
	case "http":
		floodHTTP(address, &g, &stop, &sent)
	case "watch":
		floodWatch(address, &g, &stop, &sent)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	select {
	case <-end:
	case <-time.After(floodMost):
	}
	stop.Store(true)
	fmt.Fprintln(os.Stdout, sent.Load())
	if kind == "dns" { // the others end with the process
		g.Wait()
	}
	return 0
}

// floodDNS sends queries from 8 sockets as fast as they can, and reads no
// answer.
func floodDNS(address string, g *sync.WaitGroup, stop *atomic.Bool, sent *atomic.Int64) {
	for k := range 8 {
		conn, err := net.Dial("udp", address)
		if err != nil {
			panic(err)
		}
		g.Go(func() {
			batch := floodQueries(uint16(k))
			pc := ipv4.NewPacketConn(conn.(*net.UDPConn))
			for !stop.Load() {
				n, _ := pc.WriteBatch(batch, 0) // where nobody listens, it goes on
				sent.Add(int64(max(n, 0)))
			}
		})
	}
}

// The beginnings of requests that never end, the last with nearly as much body
// as is allowed.
var endless = []string{
	"",
	"PUT /v1/services/x/instances/a HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
	"GET /v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n",
	"PUT /v1/services/x/instances/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65000\r\n\r\n" + strings.Repeat(" ", 64_000),
	"POST /v1/heartbeats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n" + strings.Repeat(" ", 1_000_000),
}

// floodHTTP keeps 4,000 connections open from four addresses, each with the
// beginning of a request, opened again as soon as they are closed; and has 64
// more register as fast as they can.
func floodHTTP(address string, g *sync.WaitGroup, stop *atomic.Bool, sent *atomic.Int64) {
	for k := range 4_000 {
		g.Go(func() {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(k%4+1))}, Timeout: 10 * time.Second}
			buf := make([]byte, 512)
			for !stop.Load() {
				conn, err := d.Dial("tcp", address)
				if err != nil {
					wait(100 * time.Millisecond)
					continue
				}
				_ = conn.SetDeadline(time.Now().Add(floodMost))
				_, err = io.WriteString(conn, endless[k%len(endless)])
				for err == nil {
					_, err = conn.Read(buf)
				}
				conn.Close()
			}
		})
	}
	for k := range 64 {
		g.Go(func() {
			conn := &keptConn{addr: address}
			for n := 0; !stop.Load(); n++ {
				path := fmt.Sprintf("/v1/services/flood%d/instances/i%d", k, n%100)
				body := fmt.Sprintf(`{"address":"10.0.0.1","port":%d,"ttl":60}`, n%1000+1)
				if status, _, err := conn.do(http.MethodPut, path, body); err == nil && status < 300 {
					sent.Add(1)
				}
			}
		})
	}
}

// floodWatch has 3,000 clients watch one service, half of them without reading
// what comes, and changes it as fast as it can.
func floodWatch(address string, g *sync.WaitGroup, stop *atomic.Bool, sent *atomic.Int64) {
	for k := range 3_000 {
		g.Go(func() {
			buf := make([]byte, 4096)
			for !stop.Load() {
				conn, err := net.DialTimeout("tcp", address, 10*time.Second)
				if err != nil {
					wait(100 * time.Millisecond)
					continue
				}
				_, err = io.WriteString(conn, "GET /v1/events?service=hot HTTP/1.1\r\nHost: localhost\r\n\r\n")
				if k%2 == 0 {
					wait(floodMost)
				}
				for err == nil {
					_, err = conn.Read(buf)
				}
				conn.Close()
			}
		})
	}
	for k := range 8 {
		g.Go(func() {
			conn := &keptConn{addr: address}
			for n := 0; !stop.Load(); n++ {
				body := fmt.Sprintf(`{"address":"10.0.0.1","port":%d,"ttl":60}`, n%1000+1)
				if status, _, err := conn.do(http.MethodPut, fmt.Sprintf("/v1/services/hot/instances/i%d", k), body); err == nil && status < 300 {
					sent.Add(1)
				}
			}
		})
	}
}

// floodQueries are one batch: most are for the fast path, some for the
// ordinary one, some are no queries at all.
func floodQueries(seed uint16) []ipv4.Message {
	var batch []ipv4.Message
	for k := range 64 {
		m := new(dns.Msg)
		name := fmt.Sprintf("s%d.service.", (int(seed)*64+k)%100)
		switch k % 16 {
		case 0:
			m.SetQuestion("_services._dns-sd._udp.service.", dns.TypePTR)
		case 1:
			m.SetQuestion(name, dns.TypeANY)
		case 2:
			m.SetQuestion(strings.Repeat("x", k%60+1)+".service.", dns.TypeA)
		case 3, 4, 5, 6, 7:
			m.SetQuestion(name, dns.TypeSRV).SetEdns0(1232, false)
		default:
			m.SetQuestion(name, dns.TypeA)
		}
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		if k == 15 {
			b = b[:len(b)-3]
		}
		batch = append(batch, ipv4.Message{Buffers: [][]byte{b}})
	}
	return batch
}

// startFlood starts one. Its stop returns how much it has sent.
func startFlood(t *testing.T, kind, address string) (stop func() int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^$")
	cmd.Env = append(os.Environ(), floodEnv+"="+kind+"="+address)
	out := &output{}
	cmd.Stdout = out
	p := start(t, cmd)
	return func() int {
		n := 0
		if err := p.end(t, syscall.SIGTERM, 20*time.Second); err != nil {
			t.Errorf("the flood ended with %v\n%s", err, p.stderr)
		}
		if _, err := fmt.Sscan(out.String(), &n); err != nil {
			t.Errorf("the flood printed %q: %v", out, err)
		}
		return n
	}
}
