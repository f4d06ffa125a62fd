// Package integration runs the built binary against the world: the tools and
// resolvers that people use with it. A test whose program is missing skips,
// and fails where ROSTER_REQUIRE_TOOLS=1.
package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// steppedEnv has the test binary run the program that it names, with a wall
// clock that steps by what comes on stdin.
const steppedEnv = "ROSTER_TEST_STEPPED"

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(steppedEnv) != "" {
		os.Exit(m.Run()) // it has been built
	}
	if address := os.Getenv(floodEnv); address != "" {
		os.Exit(flood(address))
	}
	dir, err := os.MkdirTemp("", "roster")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "roster")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/roster").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build roster: %v\n%s", err, out)
		os.Exit(1)
	}
	// Most tests wait, for leases to end and for programs, and take no time.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// tool returns the path of a program that the test needs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
			if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path
			}
		}
		if os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is not installed, and ROSTER_REQUIRE_TOOLS=1", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// process is a program that the test has started.
type process struct {
	*exec.Cmd
	done   chan struct{} // closed when it has ended
	err    error         // how; valid after done
	stderr *output
}

// output collects what a program prints, and may be read meanwhile.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts a program, which is killed at the test's end at the latest. Its
// output is shown where the test fails.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, done: make(chan struct{}), stderr: &output{}}
	if cmd.Stderr == nil {
		cmd.Stderr = p.stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", cmd.Path, p.stderr)
		}
	})
	return p
}

// signal sends a signal and waits for the program's end.
func (p *process) end(t *testing.T, s os.Signal, within time.Duration) error {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatalf("signal %s: %v", p.Path, err)
	}
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%s was not gone %v after %v", p.Path, within, s)
	}
	return p.err
}

// roster is a running server.
type roster struct {
	*process
	dns, http string       // addresses, host:port
	ready     string       // the line that says so
	via       *http.Client // who asks; nil: client
}

var readyLine = regexp.MustCompile(`^roster is ready: zone \S+ on DNS (\S+?),? .*HTTP API on https?://([^,]+),`)

// startRoster runs roster serve with the given flags, on free ports, in dir.
func startRoster(t *testing.T, dir string, flags ...string) *roster {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"}, flags...)...)
	cmd.Dir = dir
	return startReady(t, cmd)
}

// startReady runs a command that is roster serve in the end.
func startReady(t *testing.T, cmd *exec.Cmd) *roster {
	t.Helper()
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd.Stdout = w
	r := &roster{process: start(t, cmd)}
	w.Close()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	m := readyLine.FindStringSubmatch(line)
	if m == nil {
		<-r.done
		t.Fatalf("no ready line: %q, %v\n%s", line, err, r.stderr)
	}
	r.dns, r.http, r.ready = m[1], m[2], line
	return r
}

// stop ends the server as systemd does.
func (r *roster) stop(t *testing.T) {
	t.Helper()
	if err := r.end(t, syscall.SIGTERM, 10*time.Second); err != nil {
		t.Errorf("after SIGTERM it ended with %v\n%s", err, r.stderr)
	}
}

// client keeps its connections, as a busy client does.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 10 * time.Second}

// call does a request and returns the status and the body; the status is 0
// where there was no answer.
func (r *roster) call(method, path, body string) (int, []byte, error) {
	req, err := http.NewRequest(method, "http://"+r.http+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := cmp.Or(r.via, client).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, b, nil
}

// instance is what the tests read of a reply.
type instance struct {
	ID        string    `json:"id"`
	Port      int       `json:"port"`
	Addresses []string  `json:"addresses"`
	Expires   time.Time `json:"expires"`
	Revision  uint64    `json:"revision"`
}

// must does a request that has to succeed.
func (r *roster) must(t *testing.T, method, path, body string) instance {
	t.Helper()
	status, b, err := r.call(method, path, body)
	if err != nil || status >= 300 {
		t.Fatalf("%s %s: %d %s %v", method, path, status, b, err)
	}
	var i instance
	if err := json.Unmarshal(b, &i); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
	return i
}

// register registers an instance of a service.
func (r *roster) register(t *testing.T, service, id, body string) instance {
	t.Helper()
	return r.must(t, http.MethodPut, "/v1/services/"+service+"/instances/"+id, body)
}

// heartbeat renews a lease.
func (r *roster) heartbeat(t *testing.T, service, id string) instance {
	t.Helper()
	return r.must(t, http.MethodPut, "/v1/services/"+service+"/instances/"+id+"/heartbeat", "")
}

// listed returns the instances of web, as the API lists them, by ID.
func (r *roster) listed(t *testing.T) map[string]instance {
	t.Helper()
	status, b, err := r.call(http.MethodGet, "/v1/services/web", "")
	if status == http.StatusNotFound {
		return nil
	}
	var list struct {
		Instances []instance `json:"instances"`
	}
	if err != nil || json.Unmarshal(b, &list) != nil {
		t.Fatalf("list web: %d %s %v", status, b, err)
	}
	ids := map[string]instance{}
	for _, i := range list.Instances {
		ids[i.ID] = i
	}
	return ids
}

// run runs a program to its end, within 20 s, and returns what it printed.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// until asks again and again, every 10 ms, until ok says so.
func until(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}
