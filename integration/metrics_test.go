package integration

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// startMetrics runs a server with --metrics and returns their address.
func startMetrics(t *testing.T, dir string, flags ...string) (*roster, string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"}, flags...)...)
	cmd.Dir = dir
	r := startReady(t, cmd)
	m := regexp.MustCompile(`, metrics on http://(\S+)\n`).FindStringSubmatch(r.ready)
	if m == nil {
		t.Fatalf("the ready line does not say where the metrics are: %q", r.ready)
	}
	return r, m[1]
}

// get does a GET and returns status, type and body.
func get(t *testing.T, url string) (status int, ctype, body string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
}

// busy has the server do a bit of everything that is counted.
func (r *roster) busy(t *testing.T) {
	t.Helper()
	r.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
	r.heartbeat(t, "web", "a1")
	r.must(t, http.MethodDelete, "/v1/services/web/instances/a1", "")
	if _, err := ask(r.dns, "web.service.", dns.TypeA); err != nil {
		t.Fatal(err)
	}
}

// documented returns the table of metrics in docs/operations.md: name to type
// and labels.
func documented(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(roster_[a-z_]+)` \\| (\\w+) \\| *([^|]*?) *\\|").FindAllStringSubmatch(string(b), -1) {
		table[m[1]] = m[2] + " " + strings.ReplaceAll(m[3], "`", "")
	}
	return table
}

// served returns the same of what a server serves.
func served(body string) map[string]string {
	types, labels := map[string]string{}, map[string]map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (roster_\w+) (\w+)$`).FindAllStringSubmatch(body, -1) {
		types[m[1]], labels[m[1]] = m[2], map[string]bool{}
	}
	series := regexp.MustCompile(`(?m)^(roster_\w+)(?:\{(.*)\})? `)
	label := regexp.MustCompile(`(\w+)="`)
	for _, m := range series.FindAllStringSubmatch(body, -1) {
		name := m[1]
		if types[name] == "" {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" {
				labels[name][l[1]] = true
			}
		}
	}
	table := map[string]string{}
	for name, kind := range types {
		table[name] = kind + " " + strings.Join(slices.Sorted(maps.Keys(labels[name])), ", ")
	}
	return table
}

// Each metric is in the documentation's table with its type and labels, and
// each that is in there is served.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir())
	r.busy(t)
	_, ctype, body := get(t, "http://"+r.http+"/metrics")
	if !strings.HasPrefix(ctype, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %s", ctype)
	}
	want, got := documented(t), served(body)
	for name := range got {
		if want[name] == "" {
			t.Errorf("docs/operations.md does not have %s (%s)", name, got[name])
		} else if want[name] != got[name] {
			t.Errorf("%s is a %s, and docs/operations.md says %s", name, got[name], want[name])
		}
	}
	for name := range want {
		if got[name] == "" && !strings.HasPrefix(name, "roster_etcd_") { // which another store has
			t.Errorf("docs/operations.md has %s, which is not served", name)
		}
	}
	if len(got) < 15 || !strings.Contains(body, "go_goroutines") || !strings.Contains(body, "process_resident_memory_bytes") {
		t.Errorf("there are %d metrics of ours, or none of the process", len(got))
	}
	for _, line := range []string{
		`roster_dns_queries_total{rcode="NXDOMAIN",transport="udp",type="A"} 1`,
		`roster_heartbeats_total 1`,
		`roster_changes_total{kind="register"} 1`,
		`roster_changes_total{kind="deregister"} 1`,
		`roster_instances{status="up"} 0`,
		`roster_services 0`,
		`roster_store_commit_changes_count 2`,
		`roster_http_requests_total{method="PUT",route="/v1/services/{service}/instances/{id}/heartbeat",status="200"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("%s is missing in\n%s", line, body)
		}
	}
}

// Prometheus's own linter finds nothing.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool")
	r := startRoster(t, t.TempDir())
	r.busy(t)
	_, _, body := get(t, "http://"+r.http+"/metrics")
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	if out := run(t, cmd); out != "" {
		t.Errorf("promtool check metrics says\n%s", out)
	}
	cmd = exec.Command(promtool, "check", "metrics") // and it does find what is wrong
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(body, "roster_heartbeats_total", "roster_heartbeats"))
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("promtool takes a counter without _total: %s", out)
	}
}

// --metrics has an address of its own, with profiles, without tokens; then the
// HTTP address has neither.
func TestMetricsAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, entry := newToken(t, "--name", "team")
	write(t, filepath.Join(dir, "tokens.yaml"), "anonymous: [read]\ntokens:\n"+entry)
	r, metrics := startMetrics(t, dir, "--store", "memory:", "--tokens", "tokens.yaml")
	for path, want := range map[string]int{
		"/metrics": 200, "/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 200, "/v1/services": 404, "/": 404,
	} {
		if status, _, _ := get(t, "http://"+metrics+path); status != want {
			t.Errorf("%s%s: %d, want %d", metrics, path, status, want)
		}
	}
	for path, want := range map[string]int{"/metrics": 404, "/debug/pprof/": 404, "/v1/services": 200} {
		if status, _, _ := get(t, "http://"+r.http+path); status != want {
			t.Errorf("%s%s: %d, want %d", r.http, path, status, want)
		}
	}
	if _, _, body := get(t, "http://"+metrics+"/metrics"); strings.Contains(body, "roster_store_") || !strings.Contains(body, "roster_http_requests_total") {
		t.Errorf("with --store memory: it serves\n%s", body)
	}
	if _, _, body := get(t, fmt.Sprintf("http://%s/metrics", r.http)); !strings.Contains(body, "--metrics") {
		t.Errorf("the HTTP address says of its metrics %s", body)
	}
	r.stop(t)
}
