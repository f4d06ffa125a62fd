package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dig returns a command that asks the server with dig or kdig.
func (r *roster) dig(path string, args ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(r.dns)
	// From another address than the server's: dig sets SO_REUSEPORT, as the
	// server does, and run by the same user it may be given the server's own
	// port, and then it talks to itself.
	return exec.Command(path, append([]string{"@" + host, "-p", port, "-b", "127.0.0.3"}, args...)...)
}

// ask asks over UDP, and again over TCP where TC says so.
func ask(address, name string, rrtype uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(name, rrtype)
	m.SetEdns0(1232, false)
	c := dns.Client{Timeout: 5 * time.Second, UDPSize: 1232}
	resp, _, err := c.Exchange(m, address)
	if err == nil && resp.Truncated {
		c.Net = "tcp"
		resp, _, err = c.Exchange(m, address)
	}
	return resp, err
}

// addresses returns what a name's A records say, with their TTL.
func addresses(address, name string) (addrs []string, ttl uint32, err error) {
	resp, err := ask(address, name, dns.TypeA)
	if err != nil {
		return nil, 0, err
	}
	for _, rr := range resp.Answer {
		if a, ok := rr.(*dns.A); ok {
			addrs = append(addrs, a.A.String())
			ttl = a.Hdr.Ttl
		}
	}
	if len(addrs) == 0 && resp.Rcode != dns.RcodeSuccess && resp.Rcode != dns.RcodeNameError {
		return nil, 0, fmt.Errorf("%s: %s", name, dns.RcodeToString[resp.Rcode])
	}
	return addrs, ttl, nil
}

// Two instances, and what dig and kdig make of them.
func TestDig(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"addresses":["10.0.0.1","2001:db8::1"],"port":8080,"ttl":20,"meta":{"build":"1234"}}`)
	r.register(t, "web", "a2", `{"addresses":["10.0.0.2"],"port":8081,"ttl":60,"priority":20,"tags":["v2"]}`)
	for _, name := range []string{"dig", "kdig"} {
		t.Run(name, func(t *testing.T) {
			path := tool(t, name)
			out := run(t, r.dig(path, "SRV", "_web._tcp.service."))
			for _, want := range []string{
				"10 10 8080 a1.web.service.", "20 10 8081 a2.web.service.", "10.0.0.1", "2001:db8::1", "10.0.0.2", "NOERROR", "ANSWER: 2",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			// The RRset has one TTL, and it is not above what is left of the
			// shortest lease: 20 s, less one, less what has passed.
			var ttls []string
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) == 8 && f[3] == "SRV" {
					ttls = append(ttls, f[1])
				}
			}
			if len(ttls) != 2 || ttls[0] != ttls[1] || len(ttls[0]) != 2 || ttls[0] > "19" {
				t.Errorf("the TTLs are %q\n%s", ttls, out)
			}
			for question, want := range map[string]string{
				"TXT a1.web.service.":    `"build=1234"`,
				"A v2.web.service.":      "10.0.0.2",
				"A web.service.":         "10.0.0.1", // the better priority
				"NS service.":            "ns.service.",
				"A ns.service.":          "127.0.0.1",
				"+tcp A a2.web.service.": "10.0.0.2",
			} {
				args := append([]string{"+short"}, strings.Fields(question)...)
				if out := strings.TrimSpace(run(t, r.dig(path, args...))); out != want {
					t.Errorf("%s %s: %q, want %q", name, question, out, want)
				}
			}
			if out := run(t, r.dig(path, "A", "nope.service.")); !strings.Contains(out, "NXDOMAIN") || !strings.Contains(out, "SOA") {
				t.Errorf("a name that does not exist:\n%s", out)
			}
		})
	}
}

// P3: what was acknowledged is in the next answer, 200 times in a row.
func TestRegisterThenDig(t *testing.T) {
	t.Parallel()
	dig := tool(t, "dig")
	r := startRoster(t, t.TempDir())
	for k := range 200 {
		id := fmt.Sprintf("i%d", k)
		r.register(t, "web", id, fmt.Sprintf(`{"address":"10.0.1.%d","port":80}`, k+1))
		if out := run(t, r.dig(dig, "+short", "A", id+".web.service.")); strings.TrimSpace(out) != fmt.Sprintf("10.0.1.%d", k+1) {
			t.Fatalf("%s was acknowledged, and dig says %q", id, out)
		}
	}
}

// 500 instances of one service: UDP says that it is cut, TCP has them all.
func TestManyInstances(t *testing.T) {
	t.Parallel()
	dig := tool(t, "dig")
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	for k := range 500 {
		r.register(t, "web", fmt.Sprintf("i%d", k), fmt.Sprintf(`{"address":"10.0.%d.%d","port":80}`, k/250, k%250+1))
	}
	cut := run(t, r.dig(dig, "+ignore", "+bufsize=4096", "SRV", "web.service."))
	if !strings.Contains(cut, " tc") || strings.Contains(cut, "ADDITIONAL SECTION") {
		t.Errorf("over UDP TC is missing, or there are additional records:\n%s", cut)
	}
	if n := messageSize(t, cut); n > 1232 || n < 1180 {
		t.Errorf("the cut message has %d octets", n)
	}
	for _, flags := range [][]string{{"+bufsize=1232"}, {"+tcp"}} {
		whole := run(t, r.dig(dig, append(flags, "SRV", "web.service.")...))
		if n := strings.Count(whole, "\tSRV\t"); n != 500 {
			t.Errorf("%v: %d SRV records, want 500", flags, n)
		}
		if n := strings.Count(whole, "\tA\t"); n != 500 {
			t.Errorf("%v: %d additional addresses, want 500", flags, n)
		}
	}
	if n := len(strings.Fields(run(t, r.dig(dig, "+short", "A", "web.service.")))); n != 500 {
		t.Errorf("%d addresses, want 500", n)
	}
	// 20 instances: the additional records go before an answer does.
	for k := range 20 {
		r.register(t, "db", fmt.Sprintf("database-%d", k), fmt.Sprintf(`{"addresses":["10.1.0.%d","2001:db8::%d"],"port":5432}`, k+1, k+1))
	}
	out := run(t, r.dig(dig, "+ignore", "SRV", "db.service."))
	if strings.Contains(out, " tc") || !strings.Contains(out, "ANSWER: 20,") || messageSize(t, out) > 1232 {
		t.Errorf("20 instances do not fit:\n%s", out)
	}
	if n := strings.Count(out, "\tA\t") + strings.Count(out, "\tAAAA\t"); n == 0 || n == 40 {
		t.Errorf("%d additional records fit, want some", n)
	}
}

func messageSize(t *testing.T, dig string) int {
	t.Helper()
	_, after, _ := strings.Cut(dig, "MSG SIZE  rcvd: ")
	var n int
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatalf("dig says no size:\n%s", dig)
	}
	return n
}

// resolver is Go's own resolver, asking the server.
func (r *roster) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, r.dns)
	}}
}

// Go's own resolver, which many services have inside.
func TestGoResolver(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"addresses":["10.0.0.1","2001:db8::1"],"port":8080,"meta":{"k":"v \"q\" \\"}}`)
	r.register(t, "web", "a2", `{"address":"10.0.0.2","port":8081,"priority":20}`)
	for k := range 100 { // too many for UDP
		r.register(t, "many", fmt.Sprintf("i%d", k), fmt.Sprintf(`{"address":"10.0.2.%d"}`, k+1))
	}
	resolver := r.resolver()
	_, srvs, err := resolver.LookupSRV(t.Context(), "web", "tcp", "service.")
	if err != nil || len(srvs) != 2 || srvs[0].Target != "a1.web.service." || srvs[0].Port != 8080 || srvs[1].Port != 8081 {
		t.Errorf("LookupSRV: %+v, %v", srvs, err)
	}
	hosts, err := resolver.LookupHost(t.Context(), "a1.web.service.")
	slices.Sort(hosts)
	if err != nil || !slices.Equal(hosts, []string{"10.0.0.1", "2001:db8::1"}) {
		t.Errorf("LookupHost: %q, %v", hosts, err)
	}
	if hosts, err := resolver.LookupHost(t.Context(), "many.service."); err != nil || len(hosts) != 100 {
		t.Errorf("LookupHost of many: %d, %v", len(hosts), err)
	}
	if texts, err := resolver.LookupTXT(t.Context(), "a1.web.service."); err != nil || !slices.Equal(texts, []string{`k=v "q" \`}) {
		t.Errorf("LookupTXT: %q, %v", texts, err)
	}
	_, err = resolver.LookupHost(t.Context(), "nope.service.")
	if e, ok := err.(*net.DNSError); !ok || !e.IsNotFound { //nolint:errorlint // what the resolver returns
		t.Errorf("a name that does not exist: %v", err)
	}
}

const unboundConf = `server:
  interface: 127.0.0.1@%[1]s
  port: %[1]s
  username: ""
  chroot: ""
  directory: "%[2]s"
  pidfile: ""
  logfile: ""
  use-syslog: no
  verbosity: 1
  do-not-query-localhost: no
  do-daemonize: no
  module-config: "iterator"
  local-zone: "service." nodefault
  qname-minimisation: yes
  qname-minimisation-strict: yes
  cache-min-ttl: 0
  serve-expired: no
  num-threads: 1
stub-zone:
  name: "service."
  stub-addr: %[3]s
remote-control:
  control-enable: no
`

// startUnbound runs unbound as a caching resolver in front of the server and
// returns its address. It minimises names strictly: an NXDOMAIN where only
// something below exists would cut off everything below.
func startUnbound(t *testing.T, r *roster) string {
	t.Helper()
	path := tool(t, "unbound")
	for range 5 { // another program may take the port in between
		dir := t.TempDir()
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.LocalAddr().String()
		l.Close()
		_, port, _ := net.SplitHostPort(address)
		conf := fmt.Sprintf(unboundConf, port, dir, strings.Replace(r.dns, ":", "@", 1))
		file := filepath.Join(dir, "unbound.conf")
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, exec.Command(path, "-d", "-c", file))
		ended := false
		until(t, 10*time.Second, "unbound answers", func() bool {
			select {
			case <-p.done:
				ended = true
				return true
			default:
			}
			resp, err := ask(address, "service.", dns.TypeSOA)
			return err == nil && len(resp.Answer) == 1
		})
		if !ended {
			return address
		}
	}
	t.Fatal("unbound found no free port in five tries")
	return ""
}

// What unbound asks on the way (minimised names, NS, glue) has answers that
// lead it on.
func TestThroughUnbound(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	resolver := startUnbound(t, r)
	r.register(t, "web", "a1", `{"addresses":["10.0.0.1","2001:db8::1"],"port":8080,"tags":["v2","eu"],"ports":{"metrics":9090},"meta":{"a":"b"}}`)
	for question, want := range map[string]string{
		"web.service. A":                 "10.0.0.1",
		"web.service. AAAA":              "2001:db8::1",
		"_web._tcp.service. SRV":         "10 10 8080 a1.web.service.",
		"_web._v2.service. SRV":          "10 10 8080 a1.web.service.",
		"_metrics._tcp.web.service. SRV": "10 10 9090 a1.web.service.",
		"eu.v2.web.service. A":           "10.0.0.1",
		"a1.web.service. TXT":            `"a=b"`,
		"ns.service. A":                  "127.0.0.1",
	} {
		name, rrtype, _ := strings.Cut(question, " ")
		resp, err := ask(resolver, name, dns.StringToType[rrtype])
		if err != nil || len(resp.Answer) != 1 || !strings.HasSuffix(resp.Answer[0].String(), "\t"+want) {
			t.Errorf("%s: %v, %v; want %s", question, resp, err, want)
		}
	}
	// Nobody there, then somebody: seen when the negative answer has run out.
	if addrs, _, err := addresses(resolver, "late.service."); err != nil || len(addrs) != 0 {
		t.Errorf("late.service.: %q, %v", addrs, err)
	}
	r.register(t, "late", "a1", `{"address":"10.0.0.9"}`)
	until(t, 3*time.Second, "a new service is seen through the cache", func() bool {
		addrs, _, err := addresses(resolver, "late.service.")
		return err == nil && slices.Equal(addrs, []string{"10.0.0.9"})
	})
}
