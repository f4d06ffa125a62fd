package httpapi_test

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"strings"
	"testing"

	"github.com/rosterdns/roster/httpapi"
)

func grant(name, token string, a httpapi.Action, services []string, addrs ...string) httpapi.Grant {
	g := httpapi.Grant{Name: name, Services: services, Actions: a}
	if token != "" {
		h := sha256.Sum256([]byte(token))
		g.SHA256 = &h
	}
	for _, p := range addrs {
		g.Addresses = append(g.Addresses, netip.MustParsePrefix(p))
	}
	return g
}

const both = httpapi.Read | httpapi.Register

// team are the rights that the tests of this package are about.
func team(t *testing.T, anonymous httpapi.Action) *httpapi.Rights {
	t.Helper()
	r, err := httpapi.NewRights(httpapi.RightsConfig{Anonymous: anonymous, Certificates: true, Grants: []httpapi.Grant{
		grant("all", "all-token", both, nil),
		grant("reader", "reader-token", httpapi.Read, nil),
		grant("writer", "writer-token", httpapi.Register, nil),
		grant("web", "web-token", both, []string{"web", "api-*"}, "10.1.0.0/16", "2001:db8::/32"),
		grant("cert.example.org", "", both, []string{"web"}, "10.2.0.0/16"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// caller is who sends a request: a token, a certificate, both or neither.
type caller struct {
	token string
	cert  *x509.Certificate
}

func certFor(commonName string, names ...string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: commonName}, DNSNames: names}
}

// callers are one of each kind, and what they may do, by the letters of the
// cells: r and w for reading and registering web, R and W for another service,
// d and D for registering web at an address of 10.1.0.0/16, and elsewhere.
var callers = map[string]struct {
	caller
	anonymous httpapi.Action
	name, may string
	unknown   bool
}{
	"nobody":                          {may: ""},
	"nobody, reading is free":         {anonymous: httpapi.Read, may: "rR"},
	"nobody, all is free":             {anonymous: both, may: "rwRWdD"},
	"all":                             {caller: caller{token: "all-token"}, name: "all", may: "rwRWdD"},
	"reader":                          {caller: caller{token: "reader-token"}, name: "reader", may: "rR"},
	"writer":                          {caller: caller{token: "writer-token"}, name: "writer", may: "wWdD"},
	"writer, reading is free":         {caller: caller{token: "writer-token"}, anonymous: httpapi.Read, name: "writer", may: "wWdD"},
	"of a service and a network":      {caller: caller{token: "web-token"}, name: "web", may: "rwd"},
	"unknown":                         {caller: caller{token: "no-token"}, unknown: true},
	"unknown, reading is free":        {caller: caller{token: "no-token"}, anonymous: httpapi.Read, unknown: true},
	"the hash itself":                 {caller: caller{token: string(make([]byte, sha256.Size))}, unknown: true},
	"certificate by SAN":              {caller: caller{cert: certFor("all", "cert.example.org", "all")}, name: "cert.example.org", may: "rwD"},
	"certificate by CN":               {caller: caller{cert: certFor("cert.example.org")}, name: "cert.example.org", may: "rwD"},
	"certificate, named as a token":   {caller: caller{cert: certFor("reader")}, name: "reader", may: "rR"},
	"certificate, CN beside a SAN":    {caller: caller{cert: certFor("cert.example.org", "other")}, name: "certificate other", may: ""},
	"certificate that nobody knows":   {caller: caller{cert: certFor("stranger")}, name: "certificate stranger", may: ""},
	"stranger, reading is free":       {caller: caller{cert: certFor("stranger")}, anonymous: httpapi.Read, name: "certificate stranger", may: "rR"},
	"token before certificate":        {caller: caller{token: "reader-token", cert: certFor("all")}, name: "reader", may: "rR"},
	"unknown token with certificate":  {caller: caller{token: "no-token", cert: certFor("all")}, unknown: true},
	"certificate, without any of all": {caller: caller{cert: certFor("")}, name: "certificate ", may: ""},
}

func TestRights(t *testing.T) {
	t.Parallel()
	for name, c := range callers {
		r := team(t, c.anonymous)
		g, ok := r.For(c.token, c.cert)
		if ok == c.unknown {
			t.Errorf("%s: known %v, want %v", name, ok, !c.unknown)
		}
		if !ok {
			if g != nil {
				t.Errorf("%s: a grant for an unknown token", name)
			}
			continue
		}
		if c.name != "" && g.Name != c.name {
			t.Errorf("%s: it is %q, want %q", name, g.Name, c.name)
		}
		for letter, may := range map[string]bool{
			"r": g.May(httpapi.Read, "web"), "w": g.May(httpapi.Register, "web"),
			"R": g.May(httpapi.Read, "db"), "W": g.May(httpapi.Register, "db"),
			"d": g.May(httpapi.Register, "web") && g.Owns(netip.MustParseAddr("10.1.2.3")),
			"D": g.May(httpapi.Register, "web") && g.Owns(netip.MustParseAddr("10.2.2.3")),
		} {
			if want := strings.Contains(c.may, letter); may != want {
				t.Errorf("%s: cell %s is %v, want %v", name, letter, may, want)
			}
		}
		if any := g.May(httpapi.Read, ""); any != strings.Contains(c.may, "r") {
			t.Errorf("%s: reading anything at all is %v", name, any)
		}
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for pattern, names := range map[string]string{
		"web":   "web -webx -xweb -we -",
		"*":     "web a",
		"api-*": "api-x api- -api -xapi-x",
		"*-api": "x-api -api-x",
		"a*a":   "aa axa -a -ab",
		"WEB":   "web",
	} {
		p, err := httpapi.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		g := httpapi.Grant{Actions: httpapi.Read, Services: []string{"other", p}}
		for name := range strings.FieldsSeq(names) {
			name, not := strings.CutPrefix(name, "-")
			if name != "" && g.May(httpapi.Read, name) == not {
				t.Errorf("%s and %s: %v", pattern, name, !not)
			}
		}
	}
	for _, bad := range []string{"", "a b", "*a*", "wéb", "a\n"} {
		if _, err := httpapi.ParsePattern(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	g := grant("g", "t", both, nil, "10.1.0.0/16", "2001:db8::/32", "10.9.9.9/32")
	for addr, want := range map[string]bool{
		"10.1.0.0": true, "10.1.255.255": true, "10.2.0.0": false, "10.9.9.9": true, "10.9.9.8": false,
		"2001:db8::1": true, "2001:db9::1": false, "::": false, "::ffff:10.1.0.1": true,
	} {
		if got := g.Owns(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

func TestRightsAreUnambiguous(t *testing.T) {
	t.Parallel()
	for want, grants := range map[string][]httpapi.Grant{
		"the name a ":               {grant("a", "1", both, nil), grant("a", "2", both, nil)},
		"a and b have the same tok": {grant("a", "1", both, nil), grant("b", "1", both, nil)},
	} {
		if _, err := httpapi.NewRights(httpapi.RightsConfig{Grants: grants}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
