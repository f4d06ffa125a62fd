package integration

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What dig and kdig print for an option of EDNS is what their manuals say.
func TestEDNSOptions(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:", "--nsid", "node 7")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","port":8080,"ttl":3600}`)
	for k := range 60 {
		r.register(t, "many", fmt.Sprintf("i%d", k), fmt.Sprintf(`{"address":"10.3.0.%d","port":80,"ttl":3600}`, k))
	}
	const answered = `(?s)status: NOERROR.*\b10\.0\.0\.1\b`
	for _, c := range []struct {
		tool, args string
		want       []string // patterns
		never      string
	}{
		{"dig", "+cookie A web.service.", []string{answered, `COOKIE: [0-9a-f]{48} \(good\)`}, ""},
		{"dig", "+cookie=0123456789abcdef A web.service.", []string{answered, `COOKIE: 0123456789abcdef01000000[0-9a-f]{24} \(good\)`}, ""},
		{"dig", "+cookie=0123456789 A web.service.", []string{"status: FORMERR", "EDNS: version: 0"}, "COOKIE"},
		{"dig", "+nsid A web.service.", []string{answered, `NSID: 6e 6f 64 65 20 37 \("node 7"\)`}, ""},
		{"dig", "+nsid A nope.service.", []string{"status: NXDOMAIN", `NSID: .*\("node 7"\)`, "EDE: 0 .*nothing is registered at this name"}, ""},
		{"dig", "A web.service.", []string{answered}, "NSID|KEEPALIVE|OPT=|PAD"},
		{"dig", "+ednsopt=4711:abcd A web.service.", []string{answered, "EDNS: version: 0"}, "OPT=4711"},
		{"dig", "+ednsopt=19 A web.service.", []string{answered, `OPT=19: 01 00 [0-9a-f]{2} `}, ""},
		{"dig", "+edns=1 +noednsneg A web.service.", []string{"status: BADVERS", "EDNS: version: 0", "ANSWER: 0"}, "COOKIE"},
		{"dig", "+edns=1 A web.service.", []string{"BADVERS, retrying with EDNS version 0", answered}, ""},
		{"dig", "+ednsflags=0x40 A web.service.", []string{answered, "EDNS: version: 0, flags:;"}, "MBZ"},
		{"dig", "+dnssec A web.service.", []string{answered, "EDNS: version: 0, flags: do;"}, ""},
		{"dig", "+noedns A web.service.", []string{answered, "ADDITIONAL: 0"}, "OPT PSEUDO"},
		{"dig", "+subnet=192.0.2.0/24 A web.service.", []string{answered}, "CLIENT-SUBNET"},
		{"dig", "+expire SOA service.", []string{"status: NOERROR", "EXPIRE: 300"}, ""},
		{"dig", "+tcp +keepalive A web.service.", []string{answered, "TCP KEEPALIVE: 20.0 secs"}, ""},
		{"dig", "+keepalive A web.service.", []string{answered}, "TCP KEEPALIVE"},
		{"dig", "+tcp +keepopen A web.service. A many.service.", []string{answered, "ANSWER: 60", `\(TCP\)`}, ""},
		{"dig", "+norec A web.service.", []string{answered, "flags: qr aa;"}, "WARNING"},
		{"dig", "+bufsize=512 +ignore A many.service.", []string{"flags: qr aa tc rd;", `\(UDP\)`}, "ANSWER: 60"},
		{"dig", "+bufsize=512 A many.service.", []string{"Truncated, retrying in TCP mode", "ANSWER: 60", `\(TCP\)`}, ""},
		{"dig", "+bufsize=4096 A many.service.", []string{"ANSWER: 60", `\(UDP\)`, "udp: 1232"}, "Truncated"},
		{"dig", "+opcode=STATUS A web.service.", []string{"status: NOTIMP", "EDNS: version: 0"}, ""},
		{"dig", "+padding=128 A web.service.", []string{answered}, "PAD"},
		{"kdig", "+nsid A web.service.", []string{answered, `NSID: 6E6F64652037 "node 7"`}, ""},
		{"kdig", "+cookie A web.service.", []string{answered, `COOKIE: [0-9A-F]{48}`}, ""},
		{"kdig", "+edns +padding=128 A web.service.", []string{answered, "UDP size: 1232 B"}, "PADDING"},
		{"kdig", "+edns=1 A web.service.", []string{"ext-rcode: BADVERS"}, ""},
		{"kdig", "+tcp +keepopen A web.service. AAAA web.service.", []string{answered, "ANSWER: 0; AUTHORITY: 1", `\(TCP\)`}, "WARNING"},
	} {
		t.Run(c.tool+" "+c.args, func(t *testing.T) {
			t.Parallel()
			out := run(t, r.dig(tool(t, c.tool), strings.Fields(c.args)...))
			for _, want := range c.want {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			if c.never != "" && regexp.MustCompile(c.never).MatchString(out) {
				t.Errorf("%q is in\n%s", c.never, out)
			}
		})
	}
}

// A cookie of one server is good at another that has the same secret, and only
// there; nothing shows the secret.
func TestSharedCookieSecret(t *testing.T) {
	t.Parallel()
	dig := tool(t, "dig")
	const secret = "00112233445566778899aabbccddeeff"
	ask := func(r *roster, cookie string) string {
		out := run(t, r.dig(dig, "+cookie="+cookie, "SOA", "service."))
		m := regexp.MustCompile(`COOKIE: ([0-9a-f]{48})`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no cookie:\n%s", out)
		}
		return m[1]
	}
	one := startRoster(t, t.TempDir(), "--store", "memory:", "--cookie-secret", secret, "--log-level", "debug")
	cmd := exec.Command(binary, "serve", "--store", "memory:", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "debug")
	cmd.Env = append(os.Environ(), "ROSTER_COOKIE_SECRET="+secret)
	two := startReady(t, cmd)
	other := startRoster(t, t.TempDir(), "--store", "memory:")
	cookie := ask(one, "0123456789abcdef")
	if got := ask(two, cookie); got != cookie {
		t.Errorf("the other server with the secret gives %s for %s", got, cookie)
	}
	if got := ask(other, cookie); got == cookie {
		t.Error("a server with another secret takes the cookie")
	}
	one.stop(t)
	two.stop(t)
	if log := one.stderr.String() + two.stderr.String(); strings.Contains(log, secret) {
		t.Errorf("the secret is in the log:\n%s", log)
	}
}

// The rate limit, from addresses that are not loopback: in a network of the
// test's own, where each address is one of the loopback device.
func TestRateLimitOnTheNetwork(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	dig, unshare, nsenter, ip, curl := tool(t, "dig"), tool(t, "unshare"), tool(t, "nsenter"), tool(t, "ip"), tool(t, "curl")
	script := fmt.Sprintf(`set -e
%[1]s link set lo up
for a in 192.0.2.1 192.0.2.2 198.51.100.7; do %[1]s address add $a/32 dev lo; done
exec %[2]s serve --store memory: --dns 192.0.2.1:0 --http 127.0.0.1:0 --rrl 5`, ip, binary)
	if out, err := exec.Command(unshare, "-n", "true").CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made here: %v: %s", err, out)
	}
	r := startReady(t, exec.Command(unshare, "-n", "sh", "-c", script))
	inside := func(name string, args ...string) string {
		return run(t, exec.Command(nsenter, append([]string{"-t", strconv.Itoa(r.Process.Pid), "-n", name}, args...)...))
	}
	inside(curl, "-sSf", "-X", "PUT", "--json", `{"address":"10.0.0.1","port":80,"ttl":3600}`, "http://"+r.http+"/v1/services/web/instances/a1")
	_, port, _ := strings.Cut(r.dns, ":")
	ask := func(from string, options ...string) string {
		args := append([]string{"@192.0.2.1", "-p", port, "-b", from, "+ignore", "+tries=1"}, options...)
		for range 20 { // of one process, so that they are in a second or two
			args = append(args, "A", "web.service.")
		}
		return inside(dig, args...)
	}
	for _, from := range []string{"192.0.2.2", "198.51.100.7"} {
		out := ask(from, "+nocookie")
		whole, slipped := strings.Count(out, "ANSWER: 1"), strings.Count(out, " tc ")
		if whole < 5 || whole > 15 || whole+slipped != 20 {
			t.Errorf("of 20 queries from %s %d are answered and %d slipped, want 5 a second to be answered\n%s", from, whole, slipped, out)
		}
	}
	// dig comes again with the cookie that BADCOOKIE has brought.
	if out := ask("198.51.100.7", "+cookie"); strings.Count(out, "ANSWER: 1") != 20 || !strings.Contains(out, "BADCOOKIE, retrying") {
		t.Errorf("with cookies all are answered, want BADCOOKIE on the way:\n%s", out)
	}
	if out := ask("192.0.2.2", "+nocookie", "+tcp"); strings.Count(out, "ANSWER: 1") != 20 {
		t.Errorf("over TCP:\n%s", out)
	}
	if out := inside(dig, "@192.0.2.1", "-p", port, "-b", "192.0.2.2", "+nocookie", "+short", "A", "web.service."); strings.TrimSpace(out) != "10.0.0.1" {
		t.Errorf("a client that turns to TCP where TC says so: %q", out)
	}
}
