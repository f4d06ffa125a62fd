package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// block is one fenced block of a document.
type block struct {
	line int
	lang string
	text []string
}

func blocks(t *testing.T, path string) []block {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	open := false
	for k, line := range strings.Split(string(b), "\n") {
		lang, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			all = append(all, block{line: k + 1, lang: lang})
			open = true
		case fence:
			open = false
		case open:
			last := &all[len(all)-1]
			last.text = append(last.text, line)
		}
	}
	return all
}

// Every command in a document works, and prints what the document says: the
// lines after "$ ", in the order of the page, against one fresh server. It has
// the flags that a page says it has.
func TestDocuments(t *testing.T) {
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, path := range append(docs, "../README.md") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			tool(t, "curl")
			tool(t, "dig")
			if filepath.Base(path) == "cluster.md" {
				runCluster(t, path)
				return
			}
			r := startRoster(t, t.TempDir(), "--reverse", "10.0.0.0/8", "--nsid", "ns1")
			for _, b := range blocks(t, path) {
				switch b.lang {
				case "console":
					r.runBlock(t, b)
				case "yaml":
					runConfig(t, b)
				}
			}
		})
		for _, b := range blocks(t, path) {
			if b.lang == "console" {
				ran++
			}
			if !slices.Contains([]string{"console", "sh", "yaml", ""}, b.lang) {
				t.Errorf("%s:%d: a block of %q, which nobody runs", path, b.line, b.lang)
			}
			if b.lang == "sh" && filepath.Base(path) != "README.md" {
				t.Errorf("%s:%d: write commands as console blocks, so that they are run", path, b.line)
			}
		}
	}
	if ran < 8 {
		t.Errorf("only %d blocks: the documents have lost their commands, or this test", ran)
	}
}

func (r *roster) runBlock(t *testing.T, b block) {
	t.Helper()
	for k := 0; k < len(b.text); k++ {
		command, ok := strings.CutPrefix(b.text[k], "$ ")
		if !ok {
			t.Errorf("line %d: %q is no command", b.line+k+1, b.text[k])
			return
		}
		var want []string
		for k+1 < len(b.text) && !strings.HasPrefix(b.text[k+1], "$ ") {
			k++
			want = append(want, b.text[k])
		}
		host, port, _ := strings.Cut(r.dns, ":")
		command = strings.NewReplacer("127.0.0.1:8054", r.http, "127.0.0.1:8053", r.dns, "@127.0.0.1 -p 8053", "@"+host+" -p "+port).Replace(command)
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
		cmd.Dir = r.Dir
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("line %d: %s: %v", b.line+k+1, command, err)
		}
		if got := comparable(strings.Split(strings.TrimRight(string(out), "\n"), "\n")); !slices.Equal(got, comparable(want)) {
			t.Errorf("line %d: %s\n got %q\nwant %q", b.line+k+1, command, got, comparable(want))
		}
	}
}

// runConfig starts a server with a configuration, or a tokens file, as it
// stands there, but for what it listens on and where it stores.
func runConfig(t *testing.T, b block) {
	t.Helper()
	dir := t.TempDir()
	flag, file := "--config", filepath.Join(dir, "roster.yaml")
	if slices.Contains(b.text, "tokens:") {
		flag = "--tokens"
	}
	if err := os.WriteFile(file, []byte(strings.Join(b.text, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	startRoster(t, dir, flag, file, "--store", "memory:").stop(t)
}

var (
	moment   = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)
	secret   = regexp.MustCompile(`\broster_[A-Za-z0-9_-]{43}$|\b[0-9a-f]{64}$`)
	revision = regexp.MustCompile(`("revision":|hostmaster.service. |^id: |at revision )\d{10}`)
	lease    = regexp.MustCompile(`\b\d+\.\ds\b`)
	ttl      = regexp.MustCompile(`^(\S+\s+)\d+(\s+IN\s)`)
)

// comparable takes out of a program's output what differs from run to run:
// times, revisions, TTLs, tokens, and the order of records.
func comparable(lines []string) []string {
	var out []string
	for _, l := range lines {
		l = moment.ReplaceAllString(l, "TIME")
		l = secret.ReplaceAllString(l, "SECRET")
		l = revision.ReplaceAllString(l, "${1}N")
		l = lease.ReplaceAllString(l, "LEASE")
		l = ttl.ReplaceAllString(l, "${1}TTL${2}")
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// The README's two commands: the first starts a server as it stands there,
// the second is what the Makefile has.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	var commands []string
	for _, b := range blocks(t, "../README.md") {
		if b.lang == "sh" {
			commands = append(commands, b.text...)
		}
	}
	if !slices.Equal(commands, []string{"go run ./cmd/roster serve", "make test"}) {
		t.Fatalf("the README's commands are %q", commands)
	}
	out, err := exec.Command("sed", "-n", "/^test:/,/^$/p", "../Makefile").Output()
	if err != nil || !strings.Contains(string(out), "go test ./...") {
		t.Errorf("make test is %q, %v", out, err)
	}

	cmd := exec.Command("sh", "-c", commands[0])
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "ROSTER_DNS=127.0.0.1:0", "ROSTER_HTTP=127.0.0.1:0",
		"ROSTER_STORE=bolt:"+filepath.Join(t.TempDir(), "roster.db"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run has a child
	stdout := &output{}
	cmd.Stdout = stdout
	p := start(t, cmd)
	t.Cleanup(func() { _ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL) })
	var m []string
	until(t, time.Minute, "the ready line", func() bool {
		m = readyLine.FindStringSubmatch(stdout.String())
		return m != nil
	})
	resp, err := http.Get(fmt.Sprintf("http://%s/readyz", m[2]))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %v, %v", resp, err)
	}
}
