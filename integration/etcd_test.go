package integration

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// hosts are three hosts, each with an etcd member and a roster server. Where the
// test may make network namespaces, each member and each server is a node of a
// network of its own; otherwise all are on loopback, and nothing can be cut.
type hosts struct {
	net     *lan // nil: on loopback
	members []*member
	servers []*server
	via     *http.Client // from where clients are
}

// member is an etcd member. It can be ended and started again.
type member struct {
	*process
	*node
	client string // address, host:port
	cmd    []string
}

// server is a roster server. It can be ended and started again, on the same
// addresses.
type server struct {
	*roster
	*node
	name    string
	cmd     []string
	program atomic.Pointer[process] // and not that of roster
}

// newHosts starts three members and three servers, which are all ready when it
// returns.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	h := newMembers(t)
	h.addServers(t)
	h.net.wire()
	for _, s := range h.servers {
		s.start(t)
	}
	for _, s := range h.servers {
		until(t, 20*time.Second, s.name+" is ready", s.isReady)
	}
	return h
}

// hostCount is how many hosts there are.
const hostCount = 3

// newMembers starts the members alone.
func newMembers(t *testing.T) *hosts {
	t.Helper()
	etcd := tool(t, "etcd")
	h := &hosts{}
	var err error
	if h.net, err = newLAN(t); err != nil {
		if os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" {
			t.Fatalf("no network namespaces, and ROSTER_REQUIRE_TOOLS=1: %v", err)
		}
		t.Logf("all are on loopback, and nothing is cut off: %v", err)
	}
	h.via = &http.Client{Transport: &http.Transport{DialContext: h.net.dial, MaxIdleConnsPerHost: 200}, Timeout: 10 * time.Second}
	t.Cleanup(h.via.CloseIdleConnections)
	h.addMembers(t, etcd)
	h.net.wire()
	for _, m := range h.members {
		m.start(t)
	}
	for _, m := range h.members {
		until(t, 20*time.Second, "etcd at "+m.client+" is healthy", func() bool {
			return h.fetch("http://"+m.client+"/health") == `{"health":"true"}`
		})
	}
	return h
}

// addMembers makes the members, with their data in memory where that can be: so
// the test's pace is not that of a disk which others use.
func (h *hosts) addMembers(t *testing.T, etcd string) {
	t.Helper()
	dir := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "rosteretcd"); err == nil { //nolint:usetesting // t.TempDir is on disk
		dir = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	var cluster, peers []string
	for k := range hostCount {
		m := &member{}
		peer := ""
		if h.net != nil {
			m.node = h.net.add(1+k, clusterNet)
			m.client, peer = m.addr(clusterNet)+":2379", m.addr(clusterNet)+":2380"
		} else {
			m.client, peer = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
		}
		peers = append(peers, "http://"+peer)
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s", k, peer))
		h.members = append(h.members, m)
	}
	for k, m := range h.members {
		m.cmd = []string{
			etcd, "--name", fmt.Sprintf("m%d", k), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", k)),
			"--listen-client-urls", "http://" + m.client, "--advertise-client-urls", "http://" + m.client,
			"--listen-peer-urls", peers[k], "--initial-advertise-peer-urls", peers[k],
			"--initial-cluster", strings.Join(cluster, ","), "--logger", "zap", "--log-level", "error",
		}
	}
}

// addServers makes the servers, with a directory of their own each.
func (h *hosts) addServers(t *testing.T) {
	t.Helper()
	for k := range hostCount {
		s := &server{name: string(rune('A' + k)), roster: &roster{via: h.via}}
		if h.net != nil {
			s.node = h.net.add(11+k, clusterNet, clientNet)
			s.dns, s.http = s.addr(clientNet)+":53", s.addr(clientNet)+":80"
		} else {
			s.dns, s.http = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
		}
		s.cmd = []string{binary, "serve", "--store", h.store(), "--dns", s.dns, "--http", s.http, "--open", "--stale-for", "30s"}
		h.servers = append(h.servers, s)
	}
}

// store is what --store has for these members.
func (h *hosts) store() string {
	var clients []string
	for _, m := range h.members {
		clients = append(clients, m.client)
	}
	return "etcd://" + strings.Join(clients, ",") + "/roster"
}

// start starts it, in its namespace.
func (m *member) start(t *testing.T) {
	t.Helper()
	m.process = m.run(t, exec.Command(m.cmd[0], m.cmd[1:]...))
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.program.Store(s.run(t, exec.Command(s.cmd[0], s.cmd[1:]...)))
}

// run starts a program on the node.
func (n *node) run(t *testing.T, cmd *exec.Cmd) (p *process) {
	t.Helper()
	var at *namespace
	if n != nil {
		at = n.at
	}
	err := at.do(func() error {
		p = start(t, cmd)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// isReady reports whether it takes requests, and says that it is ready to.
func (s *server) isReady() bool {
	status, _, err := s.call(http.MethodGet, "/readyz", "")
	return err == nil && status == http.StatusOK
}

// fetch returns what there is at a URL; nothing where there is no answer.
func (h *hosts) fetch(url string) string {
	resp, err := h.via.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// leader returns the member that says it leads; nil where none does.
func (h *hosts) leader() *member {
	for _, m := range h.members {
		if value(h.fetch("http://"+m.client+"/metrics"), "etcd_server_is_leader") == 1 {
			return m
		}
	}
	return nil
}

// value returns that of a metric without labels; NaN where it is not there.
func value(metrics, name string) float64 {
	for line := range strings.Lines(metrics) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
				return f
			}
		}
	}
	return math.NaN()
}

// kill ends a process as kill -9 does.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.done
}

// stub is a client of one DNS server, with a socket of its own.
type stub struct {
	conn *dns.Conn
	c    dns.Client
}

// stub returns one that asks from where clients are. Its answers are there within
// timeout, or not at all.
func (h *hosts) stub(t *testing.T, s *server, timeout time.Duration) *stub {
	t.Helper()
	conn, err := h.net.dial(t.Context(), "udp", s.dns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &stub{conn: &dns.Conn{Conn: conn, UDPSize: 1232}, c: dns.Client{Timeout: timeout}}
}

// answer is what a stub makes of one.
type answer struct {
	addrs  []string // of the A records
	ttl    uint32
	stale  bool // as an Extended DNS Error says
	serial uint32
}

// ask asks for a name's records. It returns an error where there is no answer, or
// none to go by.
func (s *stub) ask(name string, rrtype uint16) (a answer, err error) {
	m := new(dns.Msg).SetQuestion(name, rrtype)
	m.SetEdns0(1232, false)
	resp, _, err := s.c.ExchangeWithConn(m, s.conn)
	if err != nil {
		return a, err
	}
	if resp.Rcode != dns.RcodeSuccess && resp.Rcode != dns.RcodeNameError || resp.Truncated {
		return a, fmt.Errorf("%s: %s, truncated: %v", name, dns.RcodeToString[resp.Rcode], resp.Truncated)
	}
	for _, rr := range append(resp.Answer, resp.Ns...) {
		switch rr := rr.(type) {
		case *dns.A:
			a.addrs, a.ttl = append(a.addrs, rr.A.String()), rr.Hdr.Ttl
		case *dns.SOA:
			a.serial = rr.Serial
		}
	}
	if opt := resp.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode == dns.ExtendedErrorCodeStaleAnswer {
				a.stale = true
			}
		}
	}
	return a, nil
}
