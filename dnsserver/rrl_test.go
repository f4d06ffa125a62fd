package dnsserver_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store/storetest"
)

// limited is a server that limits to n a second, with the town in it, and how
// it answers a query from an address.
type limited struct {
	dnsserver.Offline
	ask map[string]func(m *dns.Msg, from string) *dns.Msg // by path
}

func newLimited(t *testing.T, n uint16) limited {
	t.Helper()
	r, done := storetest.Open(t, memory, compiledConfig)
	t.Cleanup(done)
	town(t, r)
	cfg := townConfig(r)
	cfg.RRL = n
	s := dnsserver.NewOffline(cfg)
	f := s.NewFast()
	over := func(answer func(b []byte, from netip.Addr) []byte) func(m *dns.Msg, from string) *dns.Msg {
		return func(m *dns.Msg, from string) *dns.Msg {
			t.Helper()
			b, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			resp := new(dns.Msg)
			got := answer(b, netip.MustParseAddr(from))
			if err := resp.Unpack(got); err != nil {
				t.Fatal(err)
			}
			if n := len(resp.Answer) + len(resp.Ns); (resp.Truncated || resp.Rcode == dns.RcodeBadCookie) && (n > 0 || len(text(resp.Extra)) > 0) {
				t.Errorf("a slipped response has records: %v", resp)
			}
			if resp.Id != m.Id || resp.Question[0] != m.Question[0] || (m.IsEdns0() == nil) != (resp.IsEdns0() == nil) {
				t.Errorf("bad head: %v to %v", resp, m)
			}
			if resp.Truncated && len(got) > len(b) {
				t.Errorf("slipped, and larger than the query: %d, %d", len(got), len(b))
			}
			return resp
		}
	}
	return limited{s, map[string]func(*dns.Msg, string) *dns.Msg{
		"loops":    over(func(b []byte, from netip.Addr) []byte { return s.PacketFrom(f, b, from) }),
		"ordinary": over(s.OrdinaryFrom),
	}}
}

// bubble runs a test for both ways through the server.
func bubble(t *testing.T, n uint16, f func(t *testing.T, s limited, ask func(*dns.Msg, string) *dns.Msg)) {
	t.Helper()
	for _, path := range []string{"loops", "ordinary"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLimited(t, n)
				storetest.Advance(time.Second)
				f(t, s, s.ask[path])
			})
		})
	}
}

// Of one kind so many a second are answered, for each network; the next second
// begins anew.
func TestRateLimit(t *testing.T) {
	bubble(t, 5, func(t *testing.T, s limited, ask func(*dns.Msg, string) *dns.Msg) {
		for second := range 3 {
			for _, kind := range []struct{ first, second string }{ // each of a kind
				{"web.service. A", "wEb.service. A"},
				{"web.service. MX", "web.service. MX"},
				{"nope.service. A", "other.nope.service. AAAA"},
				{"example.org. A", "example.com. MX"},
				{"a1.web.service. TXT", "a1.web.service. TXT"},
			} {
				for _, net := range []string{"192.0.2.%d", "192.0.3.%d", "2001:db8:0:ff%02x::1", "2001:db8:0:fe%02x::1"} {
					for k := range 12 {
						q := kind.first
						if k%2 == 1 {
							q = kind.second
						}
						edns := uint16(k % 3 / 2 * 1232)
						resp := ask(query(q, edns), fmt.Sprintf(net, k))
						if want := k >= 5; resp.Truncated != want {
							t.Fatalf("second %d, %s, %d: TC %v, want %v\n%v", second, q, k, resp.Truncated, want, resp)
						}
					}
				}
			}
			storetest.Advance(time.Second)
		}
		if n := s.Totals().Limited; n != 3*5*4*7 {
			t.Errorf("%d are counted as limited, want %d", n, 3*5*4*7)
		}
		if n := s.Totals().Truncated; n != 0 {
			t.Errorf("%d are counted as truncated", n)
		}
	})
}

// Who has shown a cookie is at its address: only a client's own half of one
// gets BADCOOKIE, and with it the other half.
func TestRateLimitAndCookies(t *testing.T) {
	bubble(t, 1, func(t *testing.T, _ limited, ask func(*dns.Msg, string) *dns.Msg) {
		for _, q := range []string{"web.service. A", "web.service. MX", "nope.service. A"} {
			cookie := "12345678"
			send := func() *dns.Msg { return ask(withOptions(q, option(dns.EDNS0COOKIE, cookie)), "192.0.2.1") }
			given := func(m *dns.Msg) string {
				for _, o := range m.IsEdns0().Option {
					if c, ok := o.(*dns.EDNS0_COOKIE); ok {
						return string(unhex(t, c.Cookie))
					}
				}
				t.Fatalf("no cookie: %v", m)
				return ""
			}
			if m := send(); m.Rcode == dns.RcodeBadCookie || len(given(m)) != 24 {
				t.Errorf("%s: the first response: %v", q, m)
			}
			second := send()
			if second.Rcode != dns.RcodeBadCookie || second.Truncated || second.Authoritative {
				t.Errorf("%s: want BADCOOKIE: %v", q, second)
			}
			cookie = given(second)
			for range 10 {
				if m := send(); m.Rcode == dns.RcodeBadCookie || m.Truncated || len(m.Answer)+len(m.Ns) == 0 {
					t.Fatalf("%s with a good cookie: %v", q, m)
				}
			}
			cookie = cookie[:20] + "oops"
			if m := send(); m.Rcode != dns.RcodeBadCookie {
				t.Errorf("%s with a bad cookie: %v", q, m)
			}
		}
	})
}

// Loopback, and TCP, have no limit.
func TestRateLimitSpares(t *testing.T) {
	bubble(t, 1, func(t *testing.T, s limited, ask func(*dns.Msg, string) *dns.Msg) {
		m := query("web.service. A", 1232)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			for _, from := range []string{"127.0.0.1", "127.8.8.8", "::1"} {
				if resp := ask(m, from); resp.Truncated {
					t.Errorf("%s is limited", from)
				}
			}
			var resp dns.Msg
			if err := resp.Unpack(s.Ordinary(b, true)); err != nil || resp.Truncated {
				t.Errorf("over TCP: %v, %v", &resp, err)
			}
			if got, ok := s.NewFast().Answer(nil, b, true); !ok || resp.Unpack(got) != nil || resp.Truncated {
				t.Errorf("over TCP, fast: %v", &resp)
			}
		}
	})
}

// More kinds than the table has room for do not push out the one that is over
// its limit, as long as they are of few responses.
func TestRateLimitUnderManyKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := newLimited(t, 5).ask["loops"]
		limited := 0
		for k := range 40_000 {
			if k%100 == 0 && ask(query("web.service. A", 0), "192.0.2.1").Truncated {
				limited++
			}
			ask(query("web.service. A", 0), fmt.Sprintf("10.%d.%d.1", k>>8, k&255))
		}
		if limited < 390 {
			t.Errorf("of 400 only %d are limited", limited)
		}
	})
}

// One set of buckets: what is of another second makes room, and of the same
// second what has the fewest.
func TestRateLimitBuckets(t *testing.T) {
	count := dnsserver.CountLimited()
	kind := func(k uint64) uint64 { return k<<40 | 77 }
	first, second := 10*time.Second, 11*time.Second
	for k := range uint64(8) {
		for n := range uint32(10) {
			if got := count(kind(k), first+time.Duration(n)*99*time.Millisecond); got != n+1 {
				t.Errorf("kind %d: %d, want %d", k, got, n+1)
			}
		}
	}
	for n := range uint32(20) {
		for k := range uint64(8) {
			if got := count(kind(20+k), second); got != n+1 {
				t.Errorf("kind %d in the next second: %d, want %d", 20+k, got, n+1)
			}
		}
	}
	if got := count(kind(20), second-time.Second); got != 1 {
		t.Errorf("in another second: %d, want 1", got)
	}
	for range 3 { // the ninth has no bucket: it takes that with the fewest, its own from then on
		count(kind(40), second)
	}
	for k := range uint64(8) {
		if got := count(kind(20+k), second); got != 21 && k != 0 {
			t.Errorf("kind %d has lost its count: %d, want 21", 20+k, got)
		}
	}
}
