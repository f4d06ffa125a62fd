package integration

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	xfrSecret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	xfrKeys   = "key \"xfr\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + xfrSecret + "\";\n};\n"
)

// secondaryPrograms are other people's name servers, each as a secondary of the
// zone, with the key. {port} is its own, {primary} the server's.
var secondaryPrograms = map[string]struct {
	command string
	file    string
	conf    string
}{
	"nsd": {"-d -c {file}", "nsd.conf", `server:
  ip-address: 127.0.0.1@{port}
  username: ""
  chroot: ""
  zonesdir: "{dir}"
  database: ""
  pidfile: "{dir}/nsd.pid"
  xfrdfile: "{dir}/xfrd.state"
  zonelistfile: "{dir}/zone.list"
  xfrdir: "{dir}"
  server-count: 1
  verbosity: 2
remote-control:
  control-enable: no
key:
  name: "xfr"
  algorithm: hmac-sha256
  secret: "{secret}"
zone:
  name: service.
  zonefile: service.zone
  request-xfr: 127.0.0.1@{primary} xfr
  allow-notify: 127.0.0.1 xfr
  provide-xfr: 127.0.0.1 NOKEY
`},
	"knotd": {"-c {file}", "knot.conf", `server:
  rundir: {dir}
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {dir}
log:
  - target: stderr
    any: info
key:
  - id: xfr
    algorithm: hmac-sha256
    secret: {secret}
remote:
  - id: roster
    address: 127.0.0.1@{primary}
    key: xfr
acl:
  - id: notify
    address: 127.0.0.1
    key: xfr
    action: notify
  - id: transfer
    address: 127.0.0.1
    action: transfer
zone:
  - domain: service.
    storage: {dir}
    master: roster
    acl: [notify, transfer]
    zonefile-sync: -1
    journal-content: none
`},
	"named": {"-g -c {file}", "named.conf", `options {
  directory "{dir}"; listen-on port {port} { 127.0.0.1; }; listen-on-v6 { none; };
  pid-file "{dir}/named.pid"; session-keyfile "{dir}/session.key"; recursion no;
  dnssec-validation no; notify no; allow-transfer { 127.0.0.1; };
};
controls { };
key "xfr" { algorithm hmac-sha256; secret "{secret}"; };
zone "service" { type secondary; primaries { 127.0.0.1 port {primary} key xfr; }; allow-notify { key xfr; }; file "service.db"; };
`},
}

// secondary is another name server with a copy of the zone.
type secondary struct {
	*process
	name, addr string
}

// nextPort is what freePort looks at next.
var nextPort atomic.Int32

// freePort returns a port of the loopback that is free for UDP and TCP, and
// stays so: each only once, and none that the system gives to connections and to
// those who ask for port 0.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		nextPort.CompareAndSwap(0, 20000+int32(os.Getpid())%5000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(nextPort.Add(1)))))
		if err != nil {
			continue
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			pc.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
	}
	t.Fatal("no port is free for both UDP and TCP")
	return ""
}

// startSecondary runs one of secondaryPrograms.
func startSecondary(t *testing.T, name, port, primary, secret string) secondary {
	t.Helper()
	program := secondaryPrograms[name]
	dir := t.TempDir()
	file := filepath.Join(dir, program.file)
	fill := strings.NewReplacer("{dir}", dir, "{port}", port, "{primary}", primary, "{secret}", secret, "{file}", file)
	if err := os.WriteFile(file, []byte(fill.Replace(program.conf)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, name), strings.Fields(fill.Replace(program.command))...)
	cmd.Dir = dir
	return secondary{start(t, cmd), name, "127.0.0.1:" + port}
}

// startWithSecondaries runs a server whose revision begins there, and each of
// the programs as its secondary.
func startWithSecondaries(t *testing.T, begin uint64) (*roster, []secondary) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keys"), []byte(xfrKeys), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--store", fmt.Sprintf("memory:%d", begin), "--log-level", "debug", "--tsig-keys", "keys", "--allow-transfer", "key:xfr"}
	ports := map[string]string{}
	for name := range secondaryPrograms {
		tool(t, name)
		ports[name] = freePort(t)
		flags = append(flags, "--notify", "127.0.0.1:"+ports[name]+"=key:xfr")
	}
	r := startRoster(t, dir, flags...)
	_, primary, _ := net.SplitHostPort(r.dns)
	var list []secondary
	for name, port := range ports {
		list = append(list, startSecondary(t, name, port, primary, xfrSecret))
	}
	for _, s := range list {
		until(t, 20*time.Second, s.name+" has the zone", func() bool { return serial(s.addr) == serial(r.dns) })
	}
	return r, list
}

// serial returns the zone's serial at a server, 0 where that has none.
func serial(addr string) uint32 {
	resp, err := ask(addr, "service.", dns.TypeSOA)
	if err != nil || len(resp.Answer) != 1 {
		return 0
	}
	return resp.Answer[0].(*dns.SOA).Serial
}

// within2s waits until every secondary answers so, and says how long it took.
func within2s(t *testing.T, list []secondary, what string, ok func(addrs []string) bool) {
	t.Helper()
	begin := time.Now()
	for _, s := range list {
		until(t, 2*time.Second-time.Since(begin), s.name+": "+what, func() bool {
			addrs, _, err := addresses(s.addr, "web.service.")
			return err == nil && ok(addrs)
		})
		t.Logf("%s: %s after %v", s.name, what, time.Since(begin).Round(time.Millisecond))
	}
}

// zoneOf returns the records that a server transfers, as sorted lines.
func zoneOf(t *testing.T, addr string, signed bool) []string {
	t.Helper()
	m := new(dns.Msg).SetAxfr("service.")
	tr := new(dns.Transfer)
	if signed {
		tr.TsigSecret = map[string]string{"xfr.": xfrSecret}
		m.SetTsig("xfr.", dns.HmacSHA256, 300, time.Now().Unix())
	}
	envelopes, err := tr.In(m, addr)
	if err != nil {
		t.Fatalf("transfer from %s: %v", addr, err)
	}
	var lines []string
	for e := range envelopes {
		if e.Error != nil {
			t.Fatalf("transfer from %s: %v", addr, e.Error)
		}
		for _, rr := range e.RR {
			lines = append(lines, rr.String())
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines) // the SOA is there twice
}

// BIND, NSD and Knot follow the registry: by AXFR, and then by IXFR after each
// NOTIFY, while serials pass the points where they turn.
func TestSecondaries(t *testing.T) {
	for name, begin := range map[string]uint64{"2^31": 1<<31 - 500, "2^32": 1<<32 - 500} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, list := startWithSecondaries(t, begin)
			r.register(t, "web", "a1", `{"address":"10.0.0.1","port":80,"ttl":60}`)
			within2s(t, list, "a registration is seen", func(a []string) bool { return slices.Equal(a, []string{"10.0.0.1"}) })
			r.register(t, "web", "a2", `{"address":"10.0.0.2","port":80,"ttl":1}`)
			ended := time.NewTimer(time.Second)
			<-ended.C
			within2s(t, list, "an expiry is seen", func(a []string) bool { return slices.Equal(a, []string{"10.0.0.1"}) })
			r.must(t, "DELETE", "/v1/services/web/instances/a1", "")
			within2s(t, list, "a removal is seen", func(a []string) bool { return len(a) == 0 })

			rnd := rand.New(rand.NewPCG(begin, 1))
			for k := range 1000 {
				randomly(t, r, rnd)
				if k%250 == 249 { // so that the turn is passed by increments
					for _, s := range list {
						until(t, 10*time.Second, s.name+" follows", func() bool { return serial(s.addr) == serial(r.dns) })
					}
				}
			}
			want := zoneOf(t, r.dns, true)
			if len(want) < 100 {
				t.Errorf("the zone has only %d records", len(want))
			}
			for _, s := range list {
				until(t, 10*time.Second, s.name+" follows", func() bool { return serial(s.addr) == serial(r.dns) })
				if got := zoneOf(t, s.addr, false); !slices.Equal(got, want) {
					t.Errorf("%s has\n%s\nwe have\n%s", s.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
			log := r.stderr.String()
			if full, changes := strings.Count(log, "kind=AXFR"), strings.Count(log, "kind=IXFR"); full > len(list)+1 || changes < 5*len(list) {
				t.Errorf("there were %d full transfers and %d by increments, want one for each secondary, and many", full, changes)
			} else {
				t.Logf("%d full transfers, %d by increments", full, changes)
			}
		})
	}
}

// randomly changes something. Leases are long, or the end would not hold still.
func randomly(t *testing.T, r *roster, rnd *rand.Rand) {
	t.Helper()
	path := fmt.Sprintf("/v1/services/s%d/instances/i%d", rnd.IntN(4), rnd.IntN(30))
	if rnd.IntN(4) == 0 {
		if _, _, err := r.call("DELETE", path, ""); err != nil {
			t.Fatal(err)
		}
		return
	}
	body := fmt.Sprintf(`{"addresses":["10.0.0.%d","2001:db8::%x"],"port":%d,"priority":%d,"weight":%d,"ttl":%d,"tags":["t%d"],"ports":{"p%d":%d},"meta":{"k":"v%d"}}`,
		rnd.IntN(20)+1, rnd.IntN(20)+1, rnd.IntN(3), rnd.IntN(2), rnd.IntN(3), 600+rnd.IntN(2), rnd.IntN(3), rnd.IntN(2), rnd.IntN(3)+1, rnd.IntN(3))
	if code, b, err := r.call("PUT", path, body); err != nil || code/100 != 2 {
		t.Fatalf("PUT %s: %d %s, %v", path, code, b, err)
	}
}

// With another secret nobody gets the zone.
func TestSecondaryWithAnotherKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keys"), []byte(xfrKeys), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRoster(t, dir, "--store", "memory:", "--tsig-keys", "keys", "--allow-transfer", "key:xfr")
	_, primary, _ := net.SplitHostPort(r.dns)
	for name, refused := range map[string]string{"nsd": "TSIG", "knotd": "BADSIG|bad signature|TSIG", "named": "tsig indicates error|tsig verify failure|BADSIG"} {
		t.Run(name, func(t *testing.T) {
			s := startSecondary(t, name, freePort(t), primary, "d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZ3dyb25nd3I=")
			until(t, 20*time.Second, name+" is refused", func() bool {
				for one := range strings.SplitSeq(refused, "|") {
					if strings.Contains(strings.ToLower(s.stderr.String()), strings.ToLower(one)) {
						return true
					}
				}
				return false
			})
			if serial(s.addr) != 0 {
				t.Errorf("%s has the zone", name)
			}
		})
	}
	dig := tool(t, "dig")
	if out := run(t, r.dig(dig, "+tcp", "-y", "hmac-sha256:xfr:"+xfrSecret, "SOA", "service.")); !strings.Contains(out, "NOERROR") || strings.Contains(out, "Couldn't verify") {
		t.Errorf("a signed query:\n%s", out)
	}
	if out := run(t, r.dig(dig, "AXFR", "service.")); !strings.Contains(out, "Transfer failed") {
		t.Errorf("without a key:\n%s", out)
	}
}
