package dnsserver_test

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store/storetest"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The examples of RFC 9018, appendix A.
func TestCookieVectors(t *testing.T) {
	for _, c := range []struct {
		secret, addr, cookie string
		unix                 uint32
		want                 string
		known                bool
	}{
		// A.1: learning a new server cookie.
		{"e5e973e5a6b2a43f48e7dc849e37bfcf", "198.51.100.100", "2464c4abcf10c957", 1559731985, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", false},
		// A.2: the same client, 40 minutes later: it is renewed.
		{"e5e973e5a6b2a43f48e7dc849e37bfcf", "198.51.100.100", "2464c4abcf10c957010000005cf79f111f8130c3eee29480", 1559734385, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77", true},
		// A.4: IPv6, the cookie was made with an older secret.
		{"445536bcd2513298075a5d379663c962", "2001:db8:220:1:59de:d0f4:8769:82b8", "22681ab97d52c298010000005cf7c57926556bd0934c72f8", 1559741961, "22681ab97d52c298010000005cf7c609a6bb79d16625507a", false},
		// Fresh: given back as it is.
		{"e5e973e5a6b2a43f48e7dc849e37bfcf", "198.51.100.100", "2464c4abcf10c957010000005cf79f111f8130c3eee29480", 1559731985 + 1800, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", true},
	} {
		secret := dnsserver.CookieSecret(unhex(t, c.secret))
		got, known := dnsserver.CookieAnswer(secret, unhex(t, c.cookie), netip.MustParseAddr(c.addr), c.unix)
		if hex.EncodeToString(got) != c.want || known != c.known {
			t.Errorf("%s from %s at %d: %x, known %v; want %s, %v", c.cookie, c.addr, c.unix, got, known, c.want, c.known)
		}
	}
}

// A cookie that is too old, from the future, of another address, of another
// version or damaged makes nobody known.
func TestCookieUnknown(t *testing.T) {
	secret := dnsserver.CookieSecret{1}
	addr := netip.MustParseAddr("192.0.2.1")
	const now = 1 << 31 // where the sign changes
	made, _ := dnsserver.CookieAnswer(secret, []byte("clientck"), addr, now)
	for name, c := range map[string]struct {
		cookie []byte
		addr   netip.Addr
		unix   uint32
		known  bool
	}{
		"good":            {made, addr, now + 3600, true},
		"too old":         {made, addr, now + 3601, false},
		"ahead":           {made, addr, now - 300, true},
		"too far ahead":   {made, addr, now - 301, false},
		"other address":   {made, netip.MustParseAddr("192.0.2.2"), now, false},
		"other client":    {append([]byte("otherone"), made[8:]...), addr, now, false},
		"other version":   {append(append([]byte("clientck"), 2), made[9:]...), addr, now, false},
		"cut short":       {made[:20], addr, now, false},
		"longer":          {append(append([]byte(nil), made...), 0), addr, now, false},
		"only a client's": {made[:8], addr, now, false},
	} {
		got, known := dnsserver.CookieAnswer(secret, c.cookie, c.addr, c.unix)
		if known != c.known || len(got) != 24 || string(got[:8]) != string(c.cookie[:8]) {
			t.Errorf("%s: known %v, want %v; answered %x", name, known, c.known, got)
		}
	}
}

// Over both transports and paths: a cookie gets one, a malformed one FORMERR.
func TestCookies(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	s := serve(t, townConfig(r))
	run(t, func(t *testing.T, network string) {
		for _, q := range []string{"web.service. A", "web.service. MX", "nope.service. A"} {
			ask := func(cookie string) (string, int) {
				m := query(q, 1232)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
				resp := exchange(t, s, network, m)
				for _, o := range resp.IsEdns0().Option {
					if c, ok := o.(*dns.EDNS0_COOKIE); ok {
						return c.Cookie, resp.Rcode
					}
				}
				return "", resp.Rcode
			}
			first, _ := ask("0123456789abcdef")
			if len(first) != 48 || !strings.HasPrefix(first, "0123456789abcdef") {
				t.Errorf("%s: the first cookie is %q", q, first)
			}
			if again, _ := ask(first); again != first {
				t.Errorf("%s: %q gets %q, want it back", q, first, again)
			}
			for _, bad := range []string{"", "01", "0123456789abcdef01", strings.Repeat("0", 82)} {
				if c, rcode := ask(bad); c != "" || rcode != dns.RcodeFormatError {
					t.Errorf("%s: the cookie %q gets %q and %s, want FORMERR", q, bad, c, dns.RcodeToString[rcode])
				}
			}
		}
	})
}
