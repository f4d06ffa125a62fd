package integration

import (
	"net"
	"slices"
	"strings"
	"testing"
)

// What dig and kdig make of DNS-SD names, reverse zones and class CHAOS.
func TestDigNames(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:", "--nsid", "ns1.example", "--allow-transfer", "127.0.0.0/8",
		"--reverse", "10.0.0.0/15", "--reverse", "2001:db8::/32,192.0.2.128/25")
	r.register(t, "web", "a1", `{"addresses":["10.0.0.1","2001:db8::1"],"port":8080,"tags":["v2"],"meta":{"path":"/x y"}}`)
	r.register(t, "web", "a2", `{"addresses":["10.1.0.2"],"port":8080}`)
	r.register(t, "db", "d1", `{"addresses":["10.1.0.2","192.0.2.129"],"port":53,"protocol":"udp"}`)
	for _, name := range []string{"dig", "kdig"} {
		t.Run(name, func(t *testing.T) {
			path := tool(t, name)
			for question, want := range map[string]string{
				"PTR _services._dns-sd._udp.service.": "_db._udp.service. _web._tcp.service.",
				"PTR _web._tcp.service.":              "a1._web._tcp.service. a2._web._tcp.service.",
				"PTR _v2._sub._web._tcp.service.":     "a1._web._tcp.service.",
				"SRV a1._web._tcp.service.":           "10 10 8080 a1.web.service.",
				"TXT a1._web._tcp.service.":           `"path=/x y"`,
				"PTR b._dns-sd._udp.service.":         "service.",
				"-x 10.0.0.1":                         "a1.web.service.",
				"-x 10.1.0.2":                         "a2.web.service. d1.db.service.",
				"-x 2001:db8::1":                      "a1.web.service.",
				"-x 192.0.2.129":                      "d1.db.service.",
				"-x 10.1.0.3":                         "",
				"+tcp NS 1.10.in-addr.arpa.":          "ns.service.",
				"CH TXT id.server.":                   `"ns1.example"`,
				"CH TXT hostname.bind.":               `"ns1.example"`,
				"CH TXT authors.bind.":                "",
			} {
				args := append([]string{"+short"}, strings.Fields(question)...)
				lines := strings.Split(strings.TrimSpace(run(t, r.dig(path, args...))), "\n")
				slices.Sort(lines)
				if out := strings.Join(lines, " "); out != want {
					t.Errorf("%s %s: %q, want %q", name, question, out, want)
				}
			}
			zone := run(t, r.dig(path, "AXFR", "1.10.in-addr.arpa."))
			if n := strings.Count(zone, "\tPTR\t"); n != 2 || !strings.Contains(zone, "d1.db.service.") {
				t.Errorf("%s: a transfer of a reverse zone has %d PTR records, want 2:\n%s", name, n, zone)
			}
			for question, want := range map[string]string{
				"-x 10.1.0.3":             "NXDOMAIN",
				"-x 10.2.0.1":             "REFUSED",
				"PTR 0.1.10.in-addr.arpa": "NOERROR",
				"CH TXT version.bind":     "roster ",
			} {
				if out := run(t, r.dig(path, strings.Fields(question)...)); !strings.Contains(out, want) {
					t.Errorf("%s %s: %q is missing in\n%s", name, question, want, out)
				}
			}
		})
	}
}

// Go's resolver looks addresses up.
func TestGoLookupAddr(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:", "--reverse", "10.0.0.0/8")
	r.register(t, "web", "a1", `{"address":"10.9.8.7","port":8080}`)
	names, err := r.resolver().LookupAddr(t.Context(), "10.9.8.7")
	if err != nil || !slices.Equal(names, []string{"a1.web.service."}) {
		t.Errorf("LookupAddr: %q, %v", names, err)
	}
	_, err = r.resolver().LookupAddr(t.Context(), "10.9.8.6")
	if e, ok := err.(*net.DNSError); !ok || !e.IsNotFound { //nolint:errorlint // what the resolver returns
		t.Errorf("LookupAddr of an address that nobody has: %v", err)
	}
}
