package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upgradable is a server whose process may be followed by others.
type upgradable struct {
	*roster
	log string // the file of all its processes' logs
}

// startUpgradable runs a server on free ports.
func startUpgradable(t *testing.T, cmd *exec.Cmd) *upgradable {
	t.Helper()
	u := &upgradable{log: filepath.Join(t.TempDir(), "log")}
	f, err := os.Create(u.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stderr = f
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log:\n%s", u.logged(t))
		}
	})
	u.roster = startReady(t, cmd)
	t.Cleanup(func() { _ = syscall.Kill(u.pid(t), syscall.SIGKILL) })
	return u
}

func (u *upgradable) logged(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(u.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var handedOver = regexp.MustCompile(`handed over to process (\d+)" (.*)`)

// pid is the process that serves now.
func (u *upgradable) pid(t *testing.T) int {
	t.Helper()
	all := handedOver.FindAllStringSubmatch(u.logged(t), -1)
	if len(all) == 0 {
		return u.Process.Pid
	}
	pid, _ := strconv.Atoi(all[len(all)-1][1])
	return pid
}

// upgrade has the server hand over, and returns how long its steps
// took.
func (u *upgradable) upgrade(t *testing.T) string {
	t.Helper()
	done := len(handedOver.FindAllString(u.logged(t), -1))
	if err := syscall.Kill(u.pid(t), syscall.SIGUSR2); err != nil {
		t.Fatalf("SIGUSR2: %v", err)
	}
	var all [][]string
	until(t, 30*time.Second, "a new process has taken over", func() bool {
		all = handedOver.FindAllStringSubmatch(u.logged(t), -1)
		return len(all) > done
	})
	return all[len(all)-1][2]
}

// stop ends the process that serves now.
func (u *upgradable) stop(t *testing.T) {
	t.Helper()
	pid := u.pid(t)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "the last process is gone", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(b, []byte(") Z "))
	})
}

// Upgrades one after the other, under 20,000 queries a second, heartbeats of
// 1,000 instances, and registrations each of which is looked up in DNS at once:
// every query is answered, nobody is lost, and what was acknowledged is there.
func TestUpgrade(t *testing.T) { // not parallel: its load is not for the others
	upgrades := 3
	if torture() {
		upgrades = 20
	}
	cmd := exec.Command(binary, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Dir = t.TempDir()
	u := startUpgradable(t, cmd)
	f := &fleet{r: u.roster, n: 1_000, services: 10, conns: 20, ttl: 5, every: 5 * time.Second / 3}
	f.register(t)
	beating := f.beat()
	var stop atomic.Bool
	var others sync.WaitGroup
	w := &newcomers{u: u}
	for c := range 4 {
		others.Go(func() { w.register(t, c, &stop) })
	}
	var longest time.Duration
	others.Go(func() {
		for !stop.Load() {
			begin := time.Now()
			c := &keptConn{addr: u.http}
			if status, b, err := c.do(http.MethodGet, "/healthz", ""); status != http.StatusOK {
				t.Errorf("a new connection: %d %s %v", status, b, err)
			}
			c.close()
			longest = max(longest, time.Since(begin))
			wait(5 * time.Millisecond)
		}
	})
	load := startQueries(t, u.dns, 20_000)
	wait(time.Second)
	for range upgrades {
		t.Logf("upgraded: %s", u.upgrade(t))
		wait(500 * time.Millisecond)
	}
	sent, answered, took := load.stop()
	stop.Store(true)
	others.Wait()
	beating()
	t.Logf("%d upgrades: %d queries in %v, %d answered; the longest wait for HTTP %v; %d registered and looked up meanwhile, %d sent again on a new connection",
		upgrades, sent, took.Round(time.Millisecond), answered, longest.Round(time.Millisecond), w.done.Load(), w.again.Load())
	if answered != sent {
		t.Errorf("%d of %d queries were not answered", sent-answered, sent)
	}
	if rate := float64(sent) / took.Seconds(); rate < 15_000 {
		t.Errorf("only %.0f queries a second", rate)
	}
	f.judge(t, 3*time.Second) // they wait while HTTP is handed over
	if got := int64(u.count(t, "new")); got != w.done.Load() {
		t.Errorf("%d were registered, %d are listed", w.done.Load(), got)
	}
	if w.done.Load() < 100 {
		t.Errorf("only %d were registered: the test shows little", w.done.Load())
	}
	<-u.done
	if u.err != nil {
		t.Errorf("the first process ended with %v", u.err)
	}
	u.stop(t)
}

// newcomers register one after the other, and are looked up.
type newcomers struct {
	u           *upgradable
	done, again atomic.Int64
}

func (w *newcomers) register(t *testing.T, c int, stop *atomic.Bool) {
	t.Helper()
	conn := &keptConn{addr: w.u.http}
	defer conn.close()
	for k := 0; !stop.Load(); k++ {
		id := fmt.Sprintf("c%d-%d", c, k)
		path := "/v1/services/new/instances/" + id
		const body = `{"address":"10.0.0.1","port":80,"ttl":600}`
		status, b, err := conn.do(http.MethodPut, path, body)
		if errors.Is(err, errClosed) {
			w.again.Add(1)
			status, b, err = conn.do(http.MethodPut, path, body)
		}
		if status != http.StatusCreated && status != http.StatusOK {
			t.Errorf("register %s: %d %s %v", id, status, b, err)
			continue
		}
		w.done.Add(1)
		if addrs, _, err := addresses(w.u.dns, id+".new.service."); err != nil || len(addrs) != 1 {
			t.Errorf("%s was acknowledged, and DNS has %q, %v", id, addrs, err)
		}
		wait(10 * time.Millisecond)
	}
}

// queries is a load of so many a second, from 8 sockets, of which each has 32
// without an answer at most: more might not fit into the kernel's buffers, and
// a query is lost only if the server has lost it.
type queries struct {
	begin          time.Time
	halt           atomic.Bool
	g              sync.WaitGroup
	sent, answered atomic.Int64
}

func startQueries(t *testing.T, address string, rate int) *queries {
	t.Helper()
	const sockets = 8
	q := &queries{begin: time.Now()}
	for k := range sockets {
		conn, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("s%d.service.", k), dns.TypeSRV)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		free := make(chan struct{}, 32)
		q.g.Go(func() { q.send(conn, packet, free, rate/sockets) })
		q.g.Go(func() { q.receive(t, conn, free) })
	}
	return q
}

func (q *queries) send(conn net.Conn, packet []byte, free chan struct{}, rate int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	id := uint16(0)
	for n := 0; !q.halt.Load(); <-tick.C {
		for due := int(time.Since(q.begin).Seconds() * float64(rate)); n < due; n++ {
			select {
			case free <- struct{}{}:
			case <-time.After(2 * time.Second): // they are lost
				return
			}
			id++
			packet[0], packet[1] = byte(id>>8), byte(id)
			if _, err := conn.Write(packet); err != nil {
				return // counted as sent, and not answered
			}
			q.sent.Add(1)
		}
	}
}

func (q *queries) receive(t *testing.T, conn net.Conn, free chan struct{}) {
	t.Helper()
	buf := make([]byte, 4096)
	seen := [1 << 16]bool{}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return
		}
		n, err := conn.Read(buf)
		if err != nil {
			return // at the end, or they are lost
		}
		id := uint16(buf[0])<<8 | uint16(buf[1])
		if n < 12 || buf[3]&15 != dns.RcodeSuccess || buf[6]|buf[7] == 0 || seen[id] {
			t.Errorf("a wrong answer: % x", buf[:min(n, 12)])
			return
		}
		seen[id] = true
		seen[id+1<<15] = false
		q.answered.Add(1)
		<-free
	}
}

// stop ends the load and waits for the last answers.
func (q *queries) stop() (sent, answered int64, took time.Duration) {
	q.halt.Store(true)
	took = time.Since(q.begin)
	q.g.Wait()
	return q.sent.Load(), q.answered.Load(), took
}

// An upgrade that cannot be leaves the old process as it was: a program that
// does not start, flags that are wrong, a store that another one takes.
func TestUpgradeFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ program, says string }{
		"no program":                 {"", "no such file or directory"},
		"ends at once":               {"#!/bin/sh\nexit 3\n", "exit status 3"},
		"another store":              {"#!/bin/sh\nexec ROSTER \"$@\" --store bolt:other.db\n", "can hand over no other"},
		"bad flags":                  {"#!/bin/sh\nexec ROSTER \"$@\" --edns-size 1\n", "--edns-size 1"},
		"ends when it has the store": {"#!/bin/sh\necho prepared >&$((2+LISTEN_FDS))\nread line <&$((1+LISTEN_FDS))\nread line <&$((1+LISTEN_FDS))\nexit 4\n", "exit status 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			program := filepath.Join(dir, "roster")
			if err := os.Symlink(binary, program); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0")
			cmd.Dir = dir
			u := startUpgradable(t, cmd)
			u.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
			if err := os.Remove(program); err != nil {
				t.Fatal(err)
			}
			if c.program != "" {
				if err := os.WriteFile(program, []byte(strings.ReplaceAll(c.program, "ROSTER", binary)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := u.Process.Signal(syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			until(t, 10*time.Second, "the log says that it failed", func() bool {
				return strings.Contains(u.logged(t), "the upgrade failed; this process goes on")
			})
			if !strings.Contains(u.logged(t), c.says) {
				t.Errorf("the log does not say %q", c.says)
			}
			u.register(t, "web", "a2", `{"address":"10.0.0.2","port":80}`)
			if addrs, _, err := addresses(u.dns, "web.service."); err != nil || len(addrs) != 2 {
				t.Errorf("DNS has %q, %v", addrs, err)
			}
			if err := u.end(t, syscall.SIGTERM, 10*time.Second); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// Connections that come while the new program takes its time to start do not
// keep the old process from letting go.
func TestUpgradeSlowStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "roster")
	if err := os.Symlink(binary, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Dir = dir
	u := startUpgradable(t, cmd)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\nsleep 1\nexec "+binary+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Some, and then none: the next one would free who waits for it.
	var connecting sync.WaitGroup
	for _, address := range []string{u.http, u.dns} {
		connecting.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range 20 {
				if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
					_ = c.Close()
				}
				<-tick.C
			}
		})
	}
	u.upgrade(t)
	connecting.Wait()
	u.stop(t)
}

// systemd is told which process to watch, in the order that it needs.
func TestUpgradeUnderSystemd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next := func() string {
		b := make([]byte, 256)
		if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	cmd := exec.Command(binary, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	u := startUpgradable(t, cmd)
	if got := next(); got != "READY=1" {
		t.Errorf("at the start: %q", got)
	}
	u.upgrade(t)
	if got, want := next(), fmt.Sprintf("MAINPID=%d", u.pid(t)); got != want {
		t.Errorf("after the upgrade: %q, want %q", got, want)
	}
	if got := next(); got != "READY=1" {
		t.Errorf("from the new process: %q", got)
	}
	u.stop(t)
	if got := next(); got != "STOPPING=1" {
		t.Errorf("at the end: %q", got)
	}
}

// A second server on a port in use is told which, as ever.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir())
	for flag, args := range map[string][]string{
		"--dns":  {"--dns", r.dns, "--http", "127.0.0.1:0"},
		"--http": {"--dns", "127.0.0.1:0", "--http", r.http},
	} {
		cmd := exec.Command(binary, append([]string{"serve", "--store", "memory:"}, args...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), flag) || !strings.Contains(string(out), "address already in use") {
			t.Errorf("%s in use: %v\n%s", flag, err, out)
		}
	}
}

// A stream of events that an upgrade ends goes on where it was.
func TestWatchThroughUpgrade(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0")
	cmd.Dir = t.TempDir()
	u := startUpgradable(t, cmd)
	last := u.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`).Revision
	stream := func(from uint64) (*bufio.Reader, func()) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+u.http+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if from > 0 {
			req.Header.Set("Last-Event-ID", strconv.FormatUint(from, 10))
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("watch: %v %v", resp, err)
		}
		return bufio.NewReader(resp.Body), func() { resp.Body.Close() }
	}
	old, end := stream(0)
	defer end()
	u.upgrade(t)
	until(t, 10*time.Second, "the stream has ended", func() bool {
		_, err := old.ReadString('\n')
		return err != nil
	})
	again, end := stream(last)
	defer end()
	want := u.register(t, "web", "a2", `{"address":"10.0.0.2","port":80}`).Revision
	for {
		line, err := again.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "event: ") && line != "event: register\n" {
			t.Fatalf("%q, want the registration and no reset", line)
		}
		if line == fmt.Sprintf("id: %d\n", want) {
			return
		}
	}
}
