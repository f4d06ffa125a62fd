package dnsserver_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// reverseServer is a server with these reverse zones.
func reverseServer(t *testing.T, cidrs ...string) (dnsserver.Offline, *store.Registry) {
	t.Helper()
	reverse, err := dnsserver.Reverse(cidrs, "service.")
	if err != nil {
		t.Fatal(err)
	}
	r, done := storetest.Open(t, memory, store.Config{Derive: dnsserver.Compile("service."), Addresses: reverse})
	t.Cleanup(done)
	cfg := townConfig(r)
	cfg.Reverse = reverse
	cfg.Transfer = everybody
	return dnsserver.NewOffline(cfg), r
}

func TestReverse(t *testing.T) {
	s, r := reverseServer(t, "10.0.0.0/15", "192.0.2.128/25", "2001:db8::/32")
	town(t, r)
	storetest.Register(t, r, instance("web", "v6", "2001:db8:0:a::b 192.0.2.129 198.51.100.1"))
	const six = "b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
	soa := func(zone string) []string {
		return []string{zone + " 1 IN SOA ns.service. hostmaster.service. SERIAL 30 10 300 1"}
	}
	for _, c := range []struct {
		question  string
		rcode     int
		answer    []string
		authority []string
	}{
		{question: "1.0.0.10.in-addr.arpa. PTR", answer: []string{"1.0.0.10.in-addr.arpa. 30 IN PTR a1.web.service."}},
		{question: "4.0.0.10.In-Addr.arpa. PTR", answer: []string{"4.0.0.10.In-Addr.arpa. 30 IN PTR down.web.service."}},
		{question: "1.4.0.10.in-addr.arpa. PTR", answer: []string{
			"1.4.0.10.in-addr.arpa. 30 IN PTR s1.shared.service.", "1.4.0.10.in-addr.arpa. 30 IN PTR s2.shared.service.",
		}},
		{question: six + " PTR", answer: []string{six + " 30 IN PTR v6.web.service."}},
		{question: strings.ToUpper(six) + " PTR", answer: []string{strings.ToUpper(six) + " 30 IN PTR v6.web.service."}},
		{question: "1.0.0.10.in-addr.arpa. A", authority: soa("0.10.in-addr.arpa.")},
		{question: "1.0.0.10.in-addr.arpa. ANY", answer: []string{`1.0.0.10.in-addr.arpa. 1 IN HINFO "RFC8482" ""`}},
		{question: "0.0.10.in-addr.arpa. PTR", authority: soa("0.10.in-addr.arpa.")},
		{question: six[4:] + " PTR", authority: soa("8.b.d.0.1.0.0.2.ip6.arpa.")},
		{question: "9.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "9.0.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "1.1.0.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "01.0.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "257.0.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "+1.0.0.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("0.10.in-addr.arpa.")},
		{question: "web.1.10.in-addr.arpa. PTR", rcode: dns.RcodeNameError, authority: soa("1.10.in-addr.arpa.")},

		// Apexes, one of which is an address.
		{question: "1.10.in-addr.arpa. SOA", answer: soa("1.10.in-addr.arpa.")},
		{question: "1.10.in-addr.arpa. NS", answer: []string{"1.10.in-addr.arpa. 30 IN NS ns.service."}},
		{question: "1.10.in-addr.arpa. PTR", authority: soa("1.10.in-addr.arpa.")},
		{question: "129.2.0.192.in-addr.arpa. SOA", answer: soa("129.2.0.192.in-addr.arpa.")},
		{question: "129.2.0.192.in-addr.arpa. PTR", answer: []string{"129.2.0.192.in-addr.arpa. 30 IN PTR v6.web.service."}},
		{question: "130.2.0.192.in-addr.arpa. PTR", authority: soa("130.2.0.192.in-addr.arpa.")},

		{question: "1.0.2.10.in-addr.arpa. PTR", rcode: dns.RcodeRefused},
		{question: "1.2.0.192.in-addr.arpa. PTR", rcode: dns.RcodeRefused},
		{question: "10.in-addr.arpa. NS", rcode: dns.RcodeRefused},
		{question: "1.100.51.198.in-addr.arpa. PTR", rcode: dns.RcodeRefused},
	} {
		resp := s.Respond(query(c.question, 1232), false)
		if resp.Rcode != c.rcode || resp.Authoritative != (c.rcode != dns.RcodeRefused) {
			t.Errorf("%s: %s, AA %v; want %s", c.question, dns.RcodeToString[resp.Rcode], resp.Authoritative, dns.RcodeToString[c.rcode])
		}
		serial := uint32(r.Revision())
		checkSection(t, c.question+": answer", resp.Answer, c.answer, serial)
		checkSection(t, c.question+": authority", resp.Ns, c.authority, serial)
		checkSection(t, c.question+": additional", resp.Extra, nil, serial)
	}
}

func TestReversePrefixes(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.0/15", "10.0.0.0/16 10.1.0.0/16"},
		{"10.2.0.0/15 10.2.3.0/24 10.3.0.0/16", "10.2.0.0/16 10.3.0.0/16"},
		{"192.0.2.4/31", "192.0.2.4/32 192.0.2.5/32"},
		{"192.0.2.4/32 10.0.0.0/8", "10.0.0.0/8 192.0.2.4/32"},
		{"2001:db8::/32 2001:db8:1::/48", "2001:db8::/32"},
		{"fc00::/7", "fc00::/8 fd00::/8"},
		{"2001:db8::4/126", "2001:db8::4/128 2001:db8::5/128 2001:db8::6/128 2001:db8::7/128"},
		{"", ""},
	} {
		got, err := dnsserver.Reverse(strings.Fields(c.given), "service.")
		if s := strings.Trim(fmt.Sprint(got), "[]"); err != nil || s != c.want {
			t.Errorf("%s: %s, %v; want %s", c.given, s, err, c.want)
		}
	}
	for given, want := range map[string]string{
		"10.0.0.0":                "--reverse 10.0.0.0: it is no prefix such as",
		"10.0.0.1/8":              "write 10.0.0.0/8",
		"0.0.0.0/0":               "allowed are /8 to /32 of IPv4",
		"::/3":                    "/4 to /128 of IPv6",
		"::ffff:10.0.0.0/104":     "write an IPv4 prefix as such, 10.0.0.0/8",
		"10.0.0.0/9 11.0.0.0/200": "--reverse 11.0.0.0/200",
		"192.0.2.0/25 192.0.2.128/25 192.0.3.0/25 192.0.3.128/25 192.0.4.0/25 192.0.4.128/25 192.0.5.0/25 192.0.5.128/25 192.0.6.0/25": "1152 zones; allowed are 1024",
	} {
		if _, err := dnsserver.Reverse(strings.Fields(given), "service."); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", given, err, want)
		}
	}
	for _, zone := range []string{"10.in-addr.arpa.", "arpa.", "service.10.in-addr.arpa."} {
		if _, err := dnsserver.Reverse([]string{"10.0.0.0/8"}, zone); err == nil || !strings.Contains(err.Error(), "they must be apart") {
			t.Errorf("in the zone %s: %v", zone, err)
		}
	}
}

// An address that very many have: over UDP no more is collected than fits.
func TestReverseCrowd(t *testing.T) {
	s, r := reverseServer(t, "10.0.0.0/8")
	const n = 300
	for k := range n {
		storetest.Register(t, r, instance(fmt.Sprintf("s%d", k%7), fmt.Sprintf("i%d", k), "10.0.0.1"))
	}
	const question = "1.0.0.10.in-addr.arpa. PTR"
	if resp := s.Respond(query(question, 1232), false); !resp.Truncated || packedLen(t, resp) < 1150 {
		t.Errorf("over UDP: TC %v, %d records", resp.Truncated, len(resp.Answer))
	}
	if resp := s.Respond(query(question, 1232), true); resp.Truncated || len(resp.Answer) != n {
		t.Errorf("over TCP: TC %v, %d records, want %d", resp.Truncated, len(resp.Answer), n)
	}
	for k := range n {
		if _, err := r.Deregister(t.Context(), fmt.Sprintf("s%d", k%7), fmt.Sprintf("i%d", k)); err != nil {
			t.Fatal(err)
		}
	}
	if resp := s.Respond(query(question, 0), false); resp.Rcode != dns.RcodeNameError {
		t.Errorf("when all are gone: %s", dns.RcodeToString[resp.Rcode])
	}
}

// While instances move between two addresses, every answer has all of those
// that stay, and the settling of answers from many services comes to an end.
func TestReverseUnderChange(t *testing.T) {
	s, r := reverseServer(t, "10.0.0.0/8")
	for k := range 50 {
		storetest.Register(t, r, instance(fmt.Sprintf("stays%d", k), "a1", "10.0.0.1"))
	}
	var stop atomic.Bool
	var g sync.WaitGroup
	for k := range 2 {
		g.Go(func() {
			for n := 0; !stop.Load(); n++ {
				i := instance(fmt.Sprintf("moves%d", k), "a1", fmt.Sprintf("10.0.0.%d", 1+n%2))
				if _, err := r.Register(t.Context(), i, false); err != nil {
					t.Error(err)
					return
				}
				weight := uint16(n)
				if _, err := r.Heartbeat(t.Context(), fmt.Sprintf("stays%d", n%50), "a1", store.Beat{Weight: &weight}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	until := time.Now().Add(300 * time.Millisecond)
	for n := 0; n < 20 || time.Now().Before(until); n++ {
		for question, most := range map[string]int{"1.0.0.10.in-addr.arpa. PTR": 52, "_services._dns-sd._udp.service. PTR": 52} {
			resp := s.Respond(query(question, 0), true)
			if len(resp.Answer) < 50 || len(resp.Answer) > most {
				t.Errorf("%s: %d records, want 50 to %d", question, len(resp.Answer), most)
			}
			if got := text(resp.Answer); len(slices.Compact(got)) != len(resp.Answer) {
				t.Errorf("%s: a record is there twice", question)
			}
		}
	}
	stop.Store(true)
	g.Wait()
}

// A reverse zone is transferred as the zone is: a secondary that follows it has
// what a full transfer has, and that what queries give.
func TestReverseTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := reverseServer(t, "10.0.0.0/16")
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = s.ServeStream(ctx, p) })
		const zone = "0.10.in-addr.arpa."
		var copy, fresh secondary
		copy.full(t, transferred(t, p.dial(), new(dns.Msg).SetAxfr(zone)))
		rnd := rand.New(rand.NewPCG(1, 5))
		for range 60 {
			for range rnd.IntN(12) {
				randomChange(t, r, rnd)
			}
			synctest.Wait() // for the sweep
			if !copy.follow(t, p.dial()) {
				t.Error("the transfer was not incremental")
			}
			fresh.full(t, transferred(t, p.dial(), new(dns.Msg).SetAxfr(zone)))
			got, want := slices.Sorted(maps.Keys(copy.records)), slices.Sorted(maps.Keys(fresh.records))
			if !slices.Equal(got, want) {
				t.Fatalf("the copy has\n%s\na full transfer has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			fresh.checkTTLs(t)
			left := map[string]bool{}
			for _, rr := range fresh.records {
				left[withoutTTL(rr)] = true
			}
			names := []string{zone + " NS"}
			for k := range 10 {
				names = append(names, fmt.Sprintf("%d.0.%s PTR", k, zone))
			}
			for _, question := range names {
				for _, rr := range s.Respond(query(question, 0), true).Answer {
					if !left[withoutTTL(rr)] {
						t.Errorf("%v is an answer, and not in the transfer", rr)
					}
					delete(left, withoutTTL(rr))
				}
			}
			for key := range left {
				t.Errorf("%s is in the transfer, and is no answer", key)
			}
		}
		cancel()
		g.Wait()
	})
}

func BenchmarkReverse(b *testing.B) {
	reverse := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, prefixes := range [][]netip.Prefix{nil, reverse} {
		b.Run(fmt.Sprintf("register/%d", len(prefixes)), func(b *testing.B) {
			r, err := store.Open(b.Context(), store.NewMemory(), store.Config{Addresses: prefixes})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for k := 0; b.Loop(); k++ {
				i := instance(fmt.Sprintf("s%d", k%100000), "a1", fmt.Sprintf("10.%d.%d.%d", k>>16&255, k>>8&255, k&255))
				if _, err := r.Register(b.Context(), i, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What _services costs where there are very many services.
func BenchmarkTypes(b *testing.B) {
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for k := range 100000 {
		if _, err := r.Register(b.Context(), instance(fmt.Sprintf("s%d", k), "a1", "10.0.0.1"), false); err != nil {
			b.Fatal(err)
		}
	}
	s := dnsserver.NewOffline(townConfig(r))
	for _, stream := range []bool{false, true} {
		b.Run(fmt.Sprintf("tcp=%v", stream), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Respond(query("_services._dns-sd._udp.service. PTR", 1232), stream)
			}
		})
	}
}
