package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// prometheus is a running one.
type prometheus struct {
	*process
	address string
}

// startPrometheus runs Prometheus with the configuration, and with the name
// server at the address, port 53, as the system's only one: it finds that in
// /etc/resolv.conf, which in a mount namespace of its own is another file.
func startPrometheus(t *testing.T, config, nameServer string) *prometheus {
	t.Helper()
	path, unshare := tool(t, "prometheus"), tool(t, "unshare")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "prometheus.yml"), config)
	write(t, filepath.Join(dir, "resolv.conf"), "nameserver "+nameServer+"\n")
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind resolv.conf /etc/resolv.conf && exec "$0" "$@"`, path,
		"--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0")
	cmd.Dir = dir
	p := &prometheus{process: start(t, cmd)}
	listening := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
	until(t, 30*time.Second, "Prometheus listens", func() bool {
		select {
		case <-p.done:
			t.Fatalf("Prometheus ended: %v", p.err)
		default:
		}
		m := listening.FindStringSubmatch(p.stderr.String())
		if m != nil {
			p.address = m[1]
		}
		return m != nil
	})
	return p
}

// api asks Prometheus's API for data, which v is filled with; it reports
// whether there was an answer.
func (p *prometheus) api(path string, v any) bool {
	resp, err := client.Get("http://" + p.address + "/api/v1/" + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return err == nil && json.Unmarshal(b, &struct{ Data any }{v}) == nil
}

// healthy returns what a job scrapes with success, sorted: the URL's host and
// port, and the labels named.
func (p *prometheus) healthy(job string, labels ...string) []string {
	var data struct {
		ActiveTargets []struct {
			Labels    map[string]string
			ScrapeURL string
			Health    string
		}
	}
	p.api("targets?state=active", &data)
	list := []string{}
	for _, at := range data.ActiveTargets {
		u, err := url.Parse(at.ScrapeURL)
		if err != nil || at.Labels["job"] != job || at.Health != "up" {
			continue
		}
		line := u.Host
		for _, l := range labels {
			line += " " + at.Labels[l]
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// value returns what a query's one series has, "" for none.
func (p *prometheus) value(query string) string {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if !p.api("query?query="+url.QueryEscape(query), &data) || len(data.Result) != 1 {
		return ""
	}
	return fmt.Sprint(data.Result[0].Value[1])
}

// scrapeConfig is the documentation's.
func scrapeConfig(t *testing.T) string {
	t.Helper()
	for _, b := range blocks(t, "../docs/operations.md") {
		if len(b.text) > 0 && b.text[0] == "scrape_configs:" {
			return strings.Join(b.text, "\n") + "\n"
		}
	}
	t.Fatal("docs/operations.md has no scrape_configs")
	return ""
}

// scraped is a program that Prometheus can scrape.
func scraped(t *testing.T) (port string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "demo 1\n")
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// A real Prometheus with the documentation's configuration scrapes the server,
// finds services by HTTP and by DNS, and follows what changes.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	tool(t, "prometheus")
	if os.Geteuid() != 0 {
		if os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" {
			t.Fatal("this test must be root, for port 53 and a resolv.conf of its own, and ROSTER_REQUIRE_TOOLS=1")
		}
		t.Skip("this test must be root, for port 53 and a resolv.conf of its own")
	}
	dir := t.TempDir()
	token, entry := newToken(t, "--name", "team")
	write(t, filepath.Join(dir, "tokens.yaml"), "anonymous: [register]\ntokens:\n"+entry)
	nameServer := fmt.Sprintf("127.53.%d.%d", rand.IntN(256), 1+rand.IntN(254))
	r := startRoster(t, dir, "--dns", nameServer+":53", "--tokens", "tokens.yaml")

	config := strings.NewReplacer(
		"127.0.0.1:8054", r.http,
		"refresh_interval: 10s", "refresh_interval: 1s",
		"PASTE-A-TOKEN-HERE", token,
	).Replace(scrapeConfig(t))
	p := startPrometheus(t, "global: {scrape_interval: 1s}\n"+config, nameServer)
	until(t, 30*time.Second, "Prometheus scrapes the server", func() bool { return slices.Equal(p.healthy("roster"), []string{r.http}) })

	one, two := scraped(t), scraped(t)
	register := func(id, port string) {
		t.Helper()
		r.register(t, "web", id, fmt.Sprintf(`{"address":"127.0.0.1","port":%s,"permanent":true}`, port))
	}
	finds := func(byHTTP, byDNS []string) {
		t.Helper()
		slices.Sort(byHTTP)
		slices.Sort(byDNS)
		until(t, 30*time.Second, fmt.Sprintf("Prometheus finds %q by HTTP", byHTTP), func() bool {
			return slices.Equal(p.healthy("services", "service", "instance"), byHTTP)
		})
		until(t, 30*time.Second, fmt.Sprintf("Prometheus finds %q by DNS", byDNS), func() bool {
			return slices.Equal(p.healthy("web"), byDNS)
		})
		until(t, 30*time.Second, "Prometheus knows how many are up", func() bool {
			return p.value(`roster_instances{status="up"}`) == fmt.Sprint(len(byHTTP))
		})
	}
	register("a1", one)
	finds([]string{"127.0.0.1:" + one + " web a1"}, []string{"a1.web.service:" + one})
	register("a2", two)
	finds([]string{"127.0.0.1:" + one + " web a1", "127.0.0.1:" + two + " web a2"},
		[]string{"a1.web.service:" + one, "a2.web.service:" + two})
	r.must(t, http.MethodDelete, "/v1/services/web/instances/a1", "")
	finds([]string{"127.0.0.1:" + two + " web a2"}, []string{"a2.web.service:" + two})
	if got := p.value(`sum(roster_changes_total)`); got != "3" {
		t.Errorf("Prometheus counts %s changes, want 3", got)
	}
}
