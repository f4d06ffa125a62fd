package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// extended returns by how much the server says that it has extended leases
// because of stalls, its own or those of a busy machine.
func (r *roster) extended(t *testing.T) time.Duration {
	t.Helper()
	status, b, err := r.call(http.MethodGet, "/metrics", "")
	if err != nil || status != http.StatusOK {
		t.Fatalf("metrics: %d, %v", status, err)
	}
	m := regexp.MustCompile(`(?m)^roster_stall_extension_seconds_total (\S+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatal("there is no roster_stall_extension_seconds_total")
	}
	seconds, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// beater heartbeats on schedule, whether or not there is an answer: over one
// kept connection, or over a new one each time.
type beater struct {
	id   string
	kept bool
	conn *net.TCPConn
}

func (b *beater) beat(r *roster) error {
	if b.conn == nil || !b.kept {
		c, err := net.Dial("tcp", r.http)
		if err != nil {
			return err
		}
		conn := c.(*net.TCPConn)
		old := b.conn
		b.conn = conn
		go func() { // answers are read, and come to nothing
			_, _ = io.Copy(io.Discard, bufio.NewReader(conn))
			conn.Close()
		}()
		if old != nil {
			_ = old.CloseWrite() // what it was to have it has
		}
	}
	_, err := fmt.Fprintf(b.conn, "PUT /v1/services/web/instances/%s/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n", b.id)
	return err
}

func (b *beater) close() {
	if b.conn != nil {
		b.conn.Close()
	}
}

// The server is stopped for three lease lengths. Clients keep their schedule:
// their heartbeats wait in its sockets. None of them is missing in any answer
// after that, and those without heartbeats are gone one lease after it.
func TestStoppedForThreeLeases(t *testing.T) {
	t.Parallel()
	const ttl, live, dead = 2 * time.Second, 100, 20
	rounds := 1
	if os.Getenv("ROSTER_TORTURE") == "1" {
		rounds = 20
	}
	r := startRoster(t, t.TempDir())
	name := func(k int) string { return fmt.Sprintf("10.0.0.%d", k+1) }
	put := func(k int) {
		r.register(t, "web", fmt.Sprintf("i%d", k), fmt.Sprintf(`{"address":%q,"port":80,"ttl":%d}`, name(k), ttl/time.Second))
	}
	for k := range live {
		put(k)
	}
	var stop atomic.Bool
	var g sync.WaitGroup
	defer g.Wait()
	defer stop.Store(true)
	for k := range live {
		g.Go(func() {
			b := beater{id: fmt.Sprintf("i%d", k), kept: k%2 == 0}
			// Some leave themselves little of the lease, so that it would end in
			// the middle of the stall or right after it.
			pace := ttl/3 + ttl/2*time.Duration(k)/live
			defer b.close()
			for end := time.Now().Add(time.Duration(rounds) * time.Minute); !stop.Load() && time.Now().Before(end); {
				if err := b.beat(r); err != nil {
					t.Errorf("%s: heartbeat: %v", b.id, err)
					return
				}
				<-time.After(pace)
			}
		})
	}
	for range rounds {
		for k := range dead {
			put(live + k)
		}
		r.stopFor(t, 3*ttl)
		began, before := time.Now(), r.extended(t)
		w := watcher{roster: r, live: live, name: name}
		w.watch(t, began.Add(ttl+ttl/2+time.Second))
		t.Logf("%d answers of DNS and %d of the API after the stall; the last dead one was seen in them after %v", w.asked, w.listings, w.lastDead.Sub(began))
		// One lease after the stall, and the grace of a second; what the server
		// says of stalls that came since, on a busy machine, as well.
		if late := w.lastDead.Sub(began) - ttl - time.Second - (r.extended(t) - before); late > 0 {
			t.Errorf("dead ones were in an answer %v later than a lease and a second after the stall", late)
		}
		if w.lastDead.Sub(began) < ttl/2 {
			t.Errorf("the dead were gone %v after the stall: their leases were not extended", w.lastDead.Sub(began))
		}
		if w.asked < 200 || w.listings < 20 {
			t.Error("hardly anything was asked: the test does not show what it says")
		}
	}
	if !strings.Contains(r.stderr.String(), "the server did not run for") {
		t.Error("the log says nothing of the stall")
	}
}

// stopFor stops the server and has it go on after that time.
func (r *roster) stopFor(t *testing.T, d time.Duration) {
	t.Helper()
	if err := r.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(d)
	if err := r.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// watcher asks a server again and again, and sees to it that those who live
// are in every answer.
type watcher struct {
	*roster
	live     int // the first of so many live
	name     func(int) string
	asked    int
	listings int
	lastDead time.Time // when the last question was sent whose answer had a dead one
}

func (w *watcher) watch(t *testing.T, until time.Time) {
	t.Helper()
	for time.Now().Before(until) {
		sent := time.Now()
		addrs, _, err := addresses(w.dns, "web.service.")
		if err != nil {
			t.Fatalf("DNS: %v", err)
		}
		w.asked++
		w.look(t, "DNS", addrs, sent)
		if w.asked%8 != 0 {
			continue
		}
		sent = time.Now()
		addrs = nil
		for _, i := range w.listed(t) {
			addrs = append(addrs, i.Addresses...)
		}
		w.listings++
		w.look(t, "the API", addrs, sent)
	}
}

func (w *watcher) look(t *testing.T, where string, addrs []string, sent time.Time) {
	t.Helper()
	slices.Sort(addrs)
	for k := range w.live {
		if _, there := slices.BinarySearch(addrs, w.name(k)); !there {
			t.Errorf("%s: %s lives and is not in an answer with %d addresses", where, w.name(k), len(addrs))
		}
	}
	if len(addrs) > w.live {
		w.lastDead = sent
	}
}
