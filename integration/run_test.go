package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// running is roster run, and the program that it runs.
type running struct {
	*process
	program *os.Process
}

// runs runs a program under roster run, in a process group of its own. Both are
// killed at the test's end at the latest.
func (r *roster) runs(t *testing.T, flags []string, program ...string) running {
	t.Helper()
	cmd := exec.Command(binary, append(append(append([]string{"run", "web"}, flags...), "--"), program...)...)
	cmd.Env = append(os.Environ(), "ROSTER_SERVER="+r.http)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // the program may outlive it, and has its stderr
	p := start(t, cmd)
	return running{p, child(t, p)}
}

// child returns the process that p has started, and has it killed at the end.
func child(t *testing.T, p *process) *os.Process {
	t.Helper()
	pid := 0
	until(t, 10*time.Second, "the program's start", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
		for _, thread := range threads {
			b, _ := os.ReadFile(thread) // it may have ended
			if _, err := fmt.Sscan(string(b), &pid); err == nil {
				return true
			}
		}
		return false
	})
	c, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Kill() })
	return c
}

// found returns how many addresses web has.
func (r *roster) found(t *testing.T) int {
	t.Helper()
	addrs, _, err := addresses(r.dns, "web.service.")
	if err != nil {
		t.Fatalf("ask for web: %v", err)
	}
	return len(addrs)
}

// readmeFlags returns the flags that the README has for roster run, with another
// port and a shorter lease. The program is the one of these tests.
func readmeFlags(t *testing.T, port string) []string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const before, after = "\nroster run web ", " -- python3 -m http.server 8080\n"
	_, rest, ok := strings.Cut(string(b), before)
	flags, _, also := strings.Cut(rest, after)
	if !ok || !also || strings.Contains(flags, "\n") {
		t.Fatalf("the README has no line %q...%q", before, after)
	}
	return append(strings.Fields(strings.ReplaceAll(flags, "8080", port)), "--ttl", "2")
}

// A program is in DNS within a second of its start, and gone at once when it is
// killed; where roster run itself is killed, at the end of the lease.
func TestRunAndKill(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	port := freePort(t)
	begin := time.Now()
	p := r.runs(t, readmeFlags(t, port), python, "-m", "http.server", port)
	var listens time.Time // how long the program takes to start is not ours
	until(t, 20*time.Second, "the program in DNS", func() bool {
		if listens.IsZero() {
			if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
				c.Close()
				listens = time.Now()
			}
		}
		return r.found(t) == 1
	})
	t.Logf("in DNS %v after the start, %v after it listened", time.Since(begin), time.Since(listens))
	if took := time.Since(listens); took > time.Second {
		t.Errorf("in DNS %v after it listened, want a second at most", took)
	}
	killed := time.Now()
	if err := p.program.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if n := r.found(t); n != 0 {
		t.Error("it is in DNS after it was killed and roster run has ended")
	}
	t.Logf("gone %v after it was killed", time.Since(killed))
	if got := p.ProcessState.ExitCode(); got != 128+9 {
		t.Errorf("roster run ended with %d, want 137", got)
	}

	port = freePort(t)
	p = r.runs(t, []string{"--port", port, "--ttl", "2"}, python, "-m", "http.server", port)
	until(t, 20*time.Second, "the program in DNS", func() bool { return r.found(t) == 1 })
	_ = p.end(t, syscall.SIGKILL, 10*time.Second)
	killed = time.Now()
	until(t, 20*time.Second, "its end", func() bool { return r.found(t) == 0 })
	if took := time.Since(killed); took > 3*time.Second || took < 500*time.Millisecond {
		t.Errorf("gone %v after roster run was killed, want the rest of a lease of 2 s", took)
	}
	if err := p.program.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the program is gone as well: %v", err)
	}
}

// The server goes away and comes back without its registrations: the program
// runs on, and is registered again.
func TestRunWithoutServer(t *testing.T) {
	t.Parallel()
	python := tool(t, "python3")
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	port := freePort(t)
	p := r.runs(t, []string{"--port", port, "--ttl", "2"}, python, "-m", "http.server", port)
	until(t, 20*time.Second, "the program in DNS", func() bool { return r.found(t) == 1 })
	r.stop(t)
	until(t, 20*time.Second, "word of it", func() bool { return strings.Contains(p.stderr.String(), "trying again") })
	again := startRoster(t, t.TempDir(), "--store", "memory:", "--http", r.http)
	until(t, 20*time.Second, "the program in DNS again", func() bool { return again.found(t) == 1 })
	if err := p.end(t, syscall.SIGTERM, 20*time.Second); err == nil || p.ProcessState.ExitCode() != 128+15 {
		t.Errorf("it ended with %v", err) // Python has no handler for SIGTERM
	}
	if n := again.found(t); n != 0 {
		t.Error("it is in DNS after its end")
	}
}

// cache is a resolver as clients have one: it keeps what it is told for the
// TTL, in whole seconds.
type cache struct {
	server string
	mu     sync.Mutex
	known  map[dns.Question]kept
}

type kept struct {
	records []dns.RR
	until   int64 // unix seconds
}

func (c *cache) ask(name string, t uint16) ([]dns.RR, error) {
	q := dns.Question{Name: name, Qtype: t, Qclass: dns.ClassINET}
	c.mu.Lock()
	k, ok := c.known[q]
	c.mu.Unlock()
	if ok && time.Now().Unix() <= k.until {
		return k.records, nil
	}
	resp, err := ask(c.server, name, t)
	if err != nil {
		return nil, err
	}
	if len(resp.Answer) > 0 {
		c.mu.Lock()
		c.known[q] = kept{resp.Answer, time.Now().Unix() + int64(resp.Answer[0].Header().Ttl)}
		c.mu.Unlock()
	}
	return resp.Answer, nil
}

// fetch does a request to one of the instances that the cache has.
func (c *cache) fetch(h *http.Client) error {
	list, err := c.ask("_web._tcp.service.", dns.TypeSRV)
	if err != nil || len(list) == 0 {
		return fmt.Errorf("no SRV records: %w", errors.Join(err, errors.New("empty")))
	}
	srv, ok := list[rand.IntN(len(list))].(*dns.SRV)
	if !ok {
		return fmt.Errorf("no SRV record: %v", list)
	}
	addrs, err := c.ask(srv.Target, dns.TypeA)
	if err != nil || len(addrs) == 0 {
		return fmt.Errorf("%s has no address: %w", srv.Target, errors.Join(err, errors.New("empty")))
	}
	a, ok := addrs[0].(*dns.A)
	if !ok {
		return fmt.Errorf("no A record: %v", addrs)
	}
	resp, err := h.Get("http://" + net.JoinHostPort(a.A.String(), strconv.Itoa(int(srv.Port))) + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// One of two programs gets the Ctrl-C of a terminal, under the traffic of
// clients whose caches respect TTLs: no request fails. With no time to drain
// some do, which shows that the caches matter.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	for name, drainFor := range map[string]string{"drained": "30s", "stopped at once": "1ns"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			python := tool(t, "python3")
			dir := t.TempDir()
			r := startRoster(t, dir, "--store", "memory:", "--max-ttl", "3")
			var programs []running
			for k := range 2 {
				port := freePort(t)
				p := r.runs(t, []string{"--port", port, "--drain-for", drainFor}, python, "-m", "http.server", "-d", dir, port)
				programs = append(programs, p)
				until(t, 20*time.Second, "the program in DNS", func() bool { return len(r.listed(t)) == k+1 })
			}
			c := &cache{server: r.dns, known: map[dns.Question]kept{}}
			h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			var asked, failed atomic.Int64
			var last atomic.Value
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var clients sync.WaitGroup
			for range 3 {
				clients.Go(func() {
					for ctx.Err() == nil {
						asked.Add(1)
						if err := c.fetch(h); err != nil {
							failed.Add(1)
							last.Store(err.Error())
						}
						<-time.After(time.Millisecond)
					}
				})
			}
			until(t, 20*time.Second, "traffic", func() bool { return asked.Load() > 100 })
			begin := time.Now()
			if err := syscall.Kill(-programs[0].Process.Pid, syscall.SIGINT); err != nil { // as a terminal does
				t.Fatal(err)
			}
			<-programs[0].done
			took := time.Since(begin)
			before := asked.Load()
			until(t, 30*time.Second, "traffic after it", func() bool { return asked.Load() > before+200 })
			stop()
			clients.Wait()
			t.Logf("ended %v after Ctrl-C with %v; %d requests, %d failed, the last: %v", took, programs[0].err, asked.Load(), failed.Load(), last.Load())
			if drainFor == "30s" && (failed.Load() > 0 || programs[0].err != nil) {
				t.Errorf("%d of %d requests failed, the last: %v", failed.Load(), asked.Load(), last.Load())
			}
			if drainFor != "30s" && failed.Load() == 0 {
				t.Error("no request failed: the test shows nothing")
			}
			if n := len(r.listed(t)); n != 1 {
				t.Errorf("%d are listed, want the other one", n)
			}
		})
	}
}

// As the first process of a container it waits for the children that others
// leave to it, and passes SIGTERM on.
func TestRunAsFirstProcess(t *testing.T) {
	t.Parallel()
	tool(t, "unshare")
	sh := tool(t, "sh")
	if err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").Run(); err != nil {
		if os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" {
			t.Fatalf("no PID namespace: %v", err)
		}
		t.Skipf("no PID namespace: %v", err)
	}
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	// Each ( ... & ) leaves a child to the first process.
	script := `n=0; while [ $n -lt 50 ]; do ( true & ); n=$((n+1)); done
		trap 'echo "got TERM"; exit 5' TERM
		while :; do
			z=0; for s in /proc/[0-9]*/stat; do read -r _ _ state _ 2>/dev/null <$s && [ "$state" = Z ] && z=$((z+1)); done
			p=0; for s in /proc/[0-9]*; do p=$((p+1)); done
			echo "zombies $z of $p"; sleep 0.05
		done`
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", binary, "run", "web", "--id", "a1", "--", sh, "-c", script)
	cmd.Env = append(os.Environ(), "ROSTER_SERVER="+r.http)
	cmd.WaitDelay = time.Second
	out := &output{}
	cmd.Stdout = out
	p := start(t, cmd)
	until(t, 20*time.Second, "the program in DNS", func() bool { return len(r.listed(t)) == 1 })
	until(t, 20*time.Second, "a look at the processes without a zombie", func() bool { return strings.Contains(out.String(), "zombies 0 of ") })
	if err := child(t, p).Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("it was not gone 30 s after SIGTERM; %s", out)
	}
	if got := p.ProcessState.ExitCode(); got != 5 || !strings.Contains(out.String(), "got TERM") {
		t.Errorf("it ended with %d, want the program's 5\n%s", got, out)
	}
	if n := len(r.listed(t)); n != 0 {
		t.Errorf("%d are listed after its end", n)
	}
}
