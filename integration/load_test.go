package integration

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// SIGTERM while queries come as fast as they can: the server is gone within a
// second, and every query that came before the signal has its answer.
func TestStopsUnderLoad(t *testing.T) { // not parallel: its load is not for the others
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
	const clients = 8
	var signalled atomic.Bool
	var answered [clients]int
	var g sync.WaitGroup
	for k := range clients {
		conn, err := net.Dial("udp", r.dns)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		packet, err := new(dns.Msg).SetQuestion("web.service.", dns.TypeSRV).Pack()
		if err != nil {
			t.Fatal(err)
		}
		g.Go(func() {
			buf := make([]byte, 4096)
			for {
				before := !signalled.Load()
				if _, err := conn.Write(packet); err != nil {
					return // nobody listens any more
				}
				if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
					t.Error(err)
					return
				}
				if _, err := conn.Read(buf); err != nil {
					if before && !signalled.Load() {
						t.Errorf("a query had no answer after %d had one: %v", answered[k], err)
					}
					return
				}
				answered[k]++
			}
		})
	}
	until(t, 20*time.Second, "some load", func() bool { return len(r.listed(t)) == 1 })
	load := time.NewTimer(time.Second)
	<-load.C
	signalled.Store(true)
	if err := r.end(t, syscall.SIGTERM, time.Second); err != nil {
		t.Errorf("it ended with %v", err)
	}
	g.Wait()
	total := 0
	for _, n := range answered {
		total += n
	}
	t.Logf("%d queries were answered in a second", total)
	if total < 1000 {
		t.Errorf("only %d queries: that was no load", total)
	}
}
