package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runCluster runs the commands of docs/cluster.md in one shell, as a reader
// does, on a loopback interface of the test's own: the ports are those of the
// page.
func runCluster(t *testing.T, path string) {
	t.Helper()
	for _, name := range []string{"etcd", "etcdctl", "openssl", "ip", "bash"} {
		tool(t, name)
	}
	n, err := newNamespace(t)
	if err != nil {
		if os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" {
			t.Fatalf("no network namespace, and ROSTER_REQUIRE_TOOLS=1: %v", err)
		}
		t.Skipf("the ports of the page are for a network of the test's own: %v", err)
	}
	s := startShell(t, n)
	defer func() {
		if t.Failed() {
			s.showLogs(t)
		}
	}()
	s.run(t, "ip link set lo up")
	for _, b := range blocks(t, path) {
		if b.lang != "console" {
			continue
		}
		for k := 0; k < len(b.text) && !t.Failed(); k++ {
			line := b.line + k + 1
			command, ok := strings.CutPrefix(b.text[k], "$ ")
			if !ok {
				t.Fatalf("line %d: %q is no command", line, b.text[k])
			}
			var want []string
			for k+1 < len(b.text) && !strings.HasPrefix(b.text[k+1], "$ ") {
				k++
				want = append(want, b.text[k])
			}
			if got := comparable(s.run(t, command)); !slices.Equal(got, comparable(want)) {
				t.Errorf("line %d: %s\n got %q\nwant %q", line, command, got, comparable(want))
			}
		}
	}
}

// shell is a bash that takes one command after the other.
type shell struct {
	*process
	in  *os.File
	out *bufio.Scanner
}

func startShell(t *testing.T, n *namespace) *shell {
	t.Helper()
	stdin, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	t.Cleanup(func() { in.Close(); out.Close() })
	cmd := exec.Command("bash")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Stdin, cmd.Stdout = stdin, stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := &shell{in: in, out: bufio.NewScanner(out)}
	err = n.do(func() error {
		s.process = start(t, cmd)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-s.Process.Pid, syscall.SIGKILL) }) // with all that it has started
	return s
}

// run runs a command to its end, and returns what it has printed.
func (s *shell) run(t *testing.T, command string) (lines []string) {
	t.Helper()
	const end = "that was the command, status"
	late := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-s.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	if _, err := fmt.Fprintf(s.in, "%s\nprintf '\\n%s %%d\\n' $?\n", command, end); err != nil {
		t.Fatal(err)
	}
	for s.out.Scan() {
		if status, ok := strings.CutPrefix(s.out.Text(), end+" "); ok {
			if status != "0" {
				t.Errorf("%s: status %s, having printed %q", command, status, lines)
			}
			return slices.DeleteFunc(lines, func(l string) bool { return l == "" })
		}
		lines = append(lines, s.out.Text())
	}
	t.Fatalf("%s: the shell ended, or it took a minute; it has printed %q", command, lines)
	return nil
}

// showLogs shows the last of what the programs have logged.
func (s *shell) showLogs(t *testing.T) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "*.log"))
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-1500):])
		}
	}
}
