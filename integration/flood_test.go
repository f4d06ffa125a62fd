package integration

import (
	"fmt"
	"net"
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

// floodEnv makes the test's program a flood of DNS queries to the address that
// it has: a process of its own, as it would be for a real server.
const floodEnv = "ROSTER_TEST_FLOOD"

// floodMost is how long a flood lasts at most, whatever becomes of the test.
const floodMost = 2 * time.Minute

// flood sends queries from 8 sockets as fast as they can, and reads no answer,
// until SIGTERM.
func flood(address string) int {
	var sent atomic.Uint64
	var stop atomic.Bool
	var g sync.WaitGroup
	for k := range 8 {
		conn, err := net.Dial("udp", address)
		if err != nil || !conn.RemoteAddr().(*net.UDPAddr).IP.IsLoopback() {
			fmt.Fprintln(os.Stderr, "flood:", conn, err)
			return 1
		}
		g.Go(func() {
			batch := floodQueries(uint16(k))
			pc := ipv4.NewPacketConn(conn.(*net.UDPConn))
			for !stop.Load() {
				n, _ := pc.WriteBatch(batch, 0) // where nobody listens, it goes on
				sent.Add(uint64(max(n, 0)))
			}
		})
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	select {
	case <-end:
	case <-time.After(floodMost):
	}
	stop.Store(true)
	g.Wait()
	fmt.Println(sent.Load())
	return 0
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

// startFlood starts one. Its stop returns how many queries it has sent.
func startFlood(t *testing.T, address string) (stop func() int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^$")
	cmd.Env = append(os.Environ(), floodEnv+"="+address)
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
