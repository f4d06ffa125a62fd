package dnsserver_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func memory(*testing.T) store.Backend { return store.NewMemory() }

// instance describes an instance in short: options change the defaults.
func instance(service, id string, addrs string, options ...func(*store.Instance)) *store.Instance {
	i := storetest.Instance(service, id)
	i.TTL = 100 * time.Second // longer than any TTL, so that answers say 30
	i.Addresses = nil
	for a := range strings.FieldsSeq(addrs) {
		i.Addresses = append(i.Addresses, netip.MustParseAddr(a))
	}
	for _, o := range options {
		o(i)
	}
	return i
}

func tags(t ...string) func(*store.Instance)      { return func(i *store.Instance) { i.Tags = t } }
func port(p uint16) func(*store.Instance)         { return func(i *store.Instance) { i.Port = p } }
func priority(p uint16) func(*store.Instance)     { return func(i *store.Instance) { i.Priority = p } }
func weight(w uint16) func(*store.Instance)       { return func(i *store.Instance) { i.Weight = w } }
func lease(d time.Duration) func(*store.Instance) { return func(i *store.Instance) { i.TTL = d } }
func status(s store.Status) func(*store.Instance) { return func(i *store.Instance) { i.Status = s } }
func protocol(p store.Protocol) func(*store.Instance) {
	return func(i *store.Instance) { i.Protocol = p }
}

func named(name string, p uint16) func(*store.Instance) {
	return func(i *store.Instance) { i.Ports = append(i.Ports, store.NamedPort{Name: name, Port: p}) }
}

func meta(pairs ...string) func(*store.Instance) {
	return func(i *store.Instance) {
		for k := 0; k < len(pairs); k += 2 {
			i.Meta = append(i.Meta, store.Pair{Key: pairs[k], Value: pairs[k+1]})
		}
	}
}

// town is the registry of the answer table.
func town(t *testing.T, r *store.Registry) {
	t.Helper()
	for _, i := range []*store.Instance{
		instance("web", "a1", "10.0.0.1 2001:db8::1", tags("v2", "eu"), named("metrics", 9090), meta("build", "1234", "path", `C:\x "q"`)),
		instance("web", "a2", "10.0.0.2", tags("v2"), weight(20)),
		instance("web", "A.3", "10.0.0.3", tags("not a label")),
		instance("web", "down", "10.0.0.4", tags("v2", "old"), status(store.Down)),
		instance("backup", "first", "10.0.1.1", priority(20)),
		instance("backup", "spare", "10.0.1.2 2001:db8:1::2", priority(30), tags("eu")),
		instance("dns", "u1", "10.0.2.1", protocol(store.UDP), port(53)),
		instance("noport", "n1", "10.0.3.1", port(0)),
		instance("shared", "s1", "10.0.4.1", port(1)),
		instance("shared", "s2", "10.0.4.1", port(2)),
		instance("away", "x1", "10.0.5.1", status(store.Draining)),
		instance("clash", "v2", "10.0.6.1"),
		instance("clash", "c2", "10.0.6.2", tags("v2", "eu")),
		instance("under_score", "i1", "10.0.7.1", tags("rel_1")),
	} {
		storetest.Register(t, r, i)
	}
}

const soa = "service. 1 IN SOA ns.service. hostmaster.service. SERIAL 30 10 300 1"

// answers is the table of names: what the zone says to each question about the
// town. Sections are compared whole, names, TTLs and all, in any order.
var answers = []struct {
	question   string
	rcode      int
	answer     []string
	authority  []string
	additional []string
}{
	{question: "web.service. A", answer: []string{"web.service. 30 IN A 10.0.0.1", "web.service. 30 IN A 10.0.0.2", "web.service. 30 IN A 10.0.0.3"}},
	{question: "web.service. AAAA", answer: []string{"web.service. 30 IN AAAA 2001:db8::1"}},
	{
		question: "web.service. SRV",
		answer: []string{
			"web.service. 30 IN SRV 10 10 8080 a1.web.service.",
			"web.service. 30 IN SRV 10 20 8080 a2.web.service.",
			"web.service. 30 IN SRV 10 10 8080 a-3-ssmvzhr4.web.service.",
		},
		additional: []string{
			"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1",
			"a2.web.service. 30 IN A 10.0.0.2", "a-3-ssmvzhr4.web.service. 30 IN A 10.0.0.3",
		},
	},
	{
		question: "_web._tcp.service. SRV",
		answer: []string{
			"_web._tcp.service. 30 IN SRV 10 10 8080 a1.web.service.",
			"_web._tcp.service. 30 IN SRV 10 20 8080 a2.web.service.",
			"_web._tcp.service. 30 IN SRV 10 10 8080 a-3-ssmvzhr4.web.service.",
		},
		additional: []string{
			"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1",
			"a2.web.service. 30 IN A 10.0.0.2", "a-3-ssmvzhr4.web.service. 30 IN A 10.0.0.3",
		},
	},
	{
		question:   "_web._eu.service. SRV",
		answer:     []string{"_web._eu.service. 30 IN SRV 10 10 8080 a1.web.service."},
		additional: []string{"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1"},
	},
	{
		question:   "_metrics._tcp.web.service. SRV",
		answer:     []string{"_metrics._tcp.web.service. 30 IN SRV 10 10 9090 a1.web.service."},
		additional: []string{"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1"},
	},
	{question: "a1.web.service. A", answer: []string{"a1.web.service. 30 IN A 10.0.0.1"}},
	{question: "a1.web.service. AAAA", answer: []string{"a1.web.service. 30 IN AAAA 2001:db8::1"}},
	{
		question:   "a1.web.service. SRV",
		answer:     []string{"a1.web.service. 30 IN SRV 10 10 8080 a1.web.service."},
		additional: []string{"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1"},
	},
	{question: "a1.web.service. TXT", answer: []string{`a1.web.service. 30 IN TXT "build=1234" "path=C:\\x \"q\""`}},
	{question: "a2.web.service. TXT", answer: []string{`a2.web.service. 30 IN TXT ""`}},
	{question: "down.web.service. A", answer: []string{"down.web.service. 30 IN A 10.0.0.4"}},
	{question: "x1.away.service. A", answer: []string{"x1.away.service. 30 IN A 10.0.5.1"}},
	{question: "v2.web.service. A", answer: []string{"v2.web.service. 30 IN A 10.0.0.1", "v2.web.service. 30 IN A 10.0.0.2"}},
	{question: "eu.v2.web.service. A", answer: []string{"eu.v2.web.service. 30 IN A 10.0.0.1"}},
	{question: "v2.eu.web.service. A", answer: []string{"v2.eu.web.service. 30 IN A 10.0.0.1"}},
	{
		question:   "eu.v2.web.service. SRV",
		answer:     []string{"eu.v2.web.service. 30 IN SRV 10 10 8080 a1.web.service."},
		additional: []string{"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1"},
	},
	{question: "rel_1.under_score.service. A", answer: []string{"rel_1.under_score.service. 30 IN A 10.0.7.1"}},

	// Priorities: the best group that has the family, and all of them in SRV.
	{question: "backup.service. A", answer: []string{"backup.service. 30 IN A 10.0.1.1"}},
	{question: "backup.service. AAAA", answer: []string{"backup.service. 30 IN AAAA 2001:db8:1::2"}},
	{
		question: "backup.service. SRV",
		answer: []string{
			"backup.service. 30 IN SRV 20 10 8080 first.backup.service.",
			"backup.service. 30 IN SRV 30 10 8080 spare.backup.service.",
		},
		additional: []string{
			"first.backup.service. 30 IN A 10.0.1.1", "spare.backup.service. 30 IN A 10.0.1.2",
			"spare.backup.service. 30 IN AAAA 2001:db8:1::2",
		},
	},
	{
		question:   "_dns._udp.service. SRV",
		answer:     []string{"_dns._udp.service. 30 IN SRV 10 10 53 u1.dns.service."},
		additional: []string{"u1.dns.service. 30 IN A 10.0.2.1"},
	},
	{question: "shared.service. A", answer: []string{"shared.service. 30 IN A 10.0.4.1"}},

	// An instance's label and a tag of the same service: the instance.
	{question: "v2.clash.service. A", answer: []string{"v2.clash.service. 30 IN A 10.0.6.1"}},
	{question: "eu.v2.clash.service. A", answer: []string{"eu.v2.clash.service. 30 IN A 10.0.6.2"}},

	// The owner is the question's name, letter for letter.
	{question: "wEb.SerVice. AAAA", answer: []string{"wEb.SerVice. 30 IN AAAA 2001:db8::1"}},
	{question: "EU.v2.Web.service. A", answer: []string{"EU.v2.Web.service. 30 IN A 10.0.0.1"}},

	// DNS-SD (RFC 6763).
	{question: "_services._dns-sd._udp.service. PTR", answer: []string{
		"_services._dns-sd._udp.service. 30 IN PTR _backup._tcp.service.", "_services._dns-sd._udp.service. 30 IN PTR _clash._tcp.service.",
		"_services._dns-sd._udp.service. 30 IN PTR _dns._udp.service.", "_services._dns-sd._udp.service. 30 IN PTR _shared._tcp.service.",
		"_services._dns-sd._udp.service. 30 IN PTR _under_score._tcp.service.", "_services._dns-sd._udp.service. 30 IN PTR _web._tcp.service.",
	}},
	{
		question: "_web._tcp.service. PTR",
		answer: []string{
			"_web._tcp.service. 30 IN PTR a1._web._tcp.service.", "_web._tcp.service. 30 IN PTR a2._web._tcp.service.",
			"_web._tcp.service. 30 IN PTR a-3-ssmvzhr4._web._tcp.service.",
		},
		additional: []string{
			"a1._web._tcp.service. 30 IN SRV 10 10 8080 a1.web.service.", `a1._web._tcp.service. 30 IN TXT "build=1234" "path=C:\\x \"q\""`,
			"a2._web._tcp.service. 30 IN SRV 10 20 8080 a2.web.service.", `a2._web._tcp.service. 30 IN TXT ""`,
			"a-3-ssmvzhr4._web._tcp.service. 30 IN SRV 10 10 8080 a-3-ssmvzhr4.web.service.", `a-3-ssmvzhr4._web._tcp.service. 30 IN TXT ""`,
			"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1",
			"a2.web.service. 30 IN A 10.0.0.2", "a-3-ssmvzhr4.web.service. 30 IN A 10.0.0.3",
		},
	},
	{
		question: "_EU._sub._web._tcp.service. PTR",
		answer:   []string{"_EU._sub._web._tcp.service. 30 IN PTR a1._web._tcp.service."},
		additional: []string{
			"a1._web._tcp.service. 30 IN SRV 10 10 8080 a1.web.service.", `a1._web._tcp.service. 30 IN TXT "build=1234" "path=C:\\x \"q\""`,
			"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1",
		},
	},
	{
		question:   "a1._web._tcp.service. SRV",
		answer:     []string{"a1._web._tcp.service. 30 IN SRV 10 10 8080 a1.web.service."},
		additional: []string{"a1.web.service. 30 IN A 10.0.0.1", "a1.web.service. 30 IN AAAA 2001:db8::1"},
	},
	{question: "down._web._tcp.service. TXT", answer: []string{`down._web._tcp.service. 30 IN TXT ""`}},
	{
		question:   "x1._away._tcp.service. SRV",
		answer:     []string{"x1._away._tcp.service. 30 IN SRV 10 10 8080 x1.away.service."},
		additional: []string{"x1.away.service. 30 IN A 10.0.5.1"},
	},
	{question: "b._dns-sd._udp.service. PTR", answer: []string{"b._dns-sd._udp.service. 30 IN PTR service."}},
	{question: "lb._dns-sd._udp.service. PTR", answer: []string{"lb._dns-sd._udp.service. 30 IN PTR service."}},
	{question: "b._dns-sd._udp.service. ANY", answer: []string{`b._dns-sd._udp.service. 1 IN HINFO "RFC8482" ""`}},
	{question: "a1._web._tcp.service. A", authority: []string{soa}},
	{question: "n1._noport._tcp.service. SRV", authority: []string{soa}},
	{question: "_noport._tcp.service. PTR", authority: []string{soa}},
	{question: "_away._tcp.service. PTR", authority: []string{soa}},
	{question: "_old._sub._web._tcp.service. PTR", authority: []string{soa}},
	{question: "_sub._web._tcp.service. PTR", authority: []string{soa}},
	{question: "_dns-sd._udp.service. SRV", authority: []string{soa}},
	{question: "_dns-sd._udp.service. ANY", authority: []string{soa}},
	{question: "_web._eu.service. PTR", authority: []string{soa}},
	{question: "_sub._shared._tcp.service. PTR", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_v9._sub._web._tcp.service. PTR", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "v2._sub._web._tcp.service. PTR", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "a1._web._udp.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "x.a1._web._tcp.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "a1._web._eu.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "r._dns-sd._udp.service. PTR", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "b._dns-sd._tcp.service. PTR", rcode: dns.RcodeNameError, authority: []string{soa}},

	// The zone itself.
	{question: "service. SOA", answer: []string{soa}},
	{question: "Service. NS", answer: []string{"Service. 30 IN NS ns.service."}, additional: []string{"ns.service. 30 IN A 192.0.2.53"}},
	{question: "ns.service. A", answer: []string{"ns.service. 30 IN A 192.0.2.53"}},
	{question: "service. A", authority: []string{soa}},
	{question: "ns.service. AAAA", authority: []string{soa}},

	// Registered, and no such record: NODATA.
	{question: "noport.service. SRV", authority: []string{soa}},
	{question: "_noport._tcp.service. SRV", authority: []string{soa}},
	{question: "web.service. MX", authority: []string{soa}},
	{question: "web.service. TXT", authority: []string{soa}},
	{question: "_web._tcp.service. A", authority: []string{soa}},
	{question: "away.service. A", authority: []string{soa}},
	{question: "away.service. SRV", authority: []string{soa}},
	{question: "_away._tcp.service. SRV", authority: []string{soa}},
	{question: "old.web.service. A", authority: []string{soa}},
	{question: "dns.service. AAAA", authority: []string{soa}},

	// Nothing at the name, but something below it: NODATA (RFC 8020).
	{question: "_tcp.service. A", authority: []string{soa}},
	{question: "_udp.service. SRV", authority: []string{soa}},
	{question: "_v2.service. A", authority: []string{soa}},
	{question: "_tcp.web.service. A", authority: []string{soa}},

	// Nothing at the name nor below it.
	{question: "nope.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "a9.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_web._udp.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_web._v9.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_v9.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_nope._tcp.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "web._tcp.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "x._web._tcp.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "eu.old.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "v2.v2.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "v2.a1.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_udp.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_tcp.dns.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_debug._tcp.web.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "metrics._tcp.web.service. SRV", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "_v2.web.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: "x.ns.service. A", rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: `we\.b.service. A`, rcode: dns.RcodeNameError, authority: []string{soa}},
	{question: `w\000b.service. A`, rcode: dns.RcodeNameError, authority: []string{soa}},

	// Not ours, or not for anybody.
	{question: "example.com. A", rcode: dns.RcodeRefused},
	{question: ". NS", rcode: dns.RcodeRefused},
	{question: "xservice. A", rcode: dns.RcodeRefused},
	{question: "service. AXFR", rcode: dns.RcodeRefused},
	{question: "service. IXFR", rcode: dns.RcodeRefused},

	// RFC 8482.
	{question: "web.service. ANY", answer: []string{`web.service. 1 IN HINFO "RFC8482" ""`}},
	{question: "service. ANY", answer: []string{`service. 1 IN HINFO "RFC8482" ""`}},
	{question: "_tcp.service. ANY", authority: []string{soa}},
	{question: "_tcp.web.service. ANY", authority: []string{soa}},
	{question: "nope.service. ANY", rcode: dns.RcodeNameError, authority: []string{soa}},
}

// query makes a query with EDNS of the given size, without for 0.
func query(question string, edns uint16) *dns.Msg {
	name, rrtype, _ := strings.Cut(question, " ")
	m := new(dns.Msg).SetQuestion(name, dns.StringToType[rrtype])
	m.RecursionDesired = false
	if edns > 0 {
		m.SetEdns0(edns, false)
	}
	return m
}

// text returns records as zone file lines, sorted, without OPT.
func text(rrs []dns.RR) []string {
	var lines []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			lines = append(lines, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	slices.Sort(lines)
	return lines
}

func checkSection(t *testing.T, name string, got []dns.RR, want []string, serial uint32) {
	t.Helper()
	var lines []string
	for _, w := range want {
		lines = append(lines, strings.ReplaceAll(w, "SERIAL", fmt.Sprint(serial)))
	}
	slices.Sort(lines)
	if g := text(got); !slices.Equal(g, lines) {
		t.Errorf("%s:\n got %q\nwant %q", name, g, lines)
	}
}

// compiledConfig makes a registry's answers ready for the fast path.
var compiledConfig = store.Config{Derive: dnsserver.Compile("service.")}

func townConfig(r *store.Registry) dnsserver.Config {
	return dnsserver.Config{
		Registry:    r,
		NameServers: []dnsserver.NameServer{{Name: "ns.service.", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}},
		MaxTTL:      30,
		NegativeTTL: 1,
	}
}

// The whole table over every transport.
func TestAnswers(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	s := serve(t, townConfig(r))
	run(t, func(t *testing.T, network string) {
		for _, c := range answers {
			t.Run(c.question, func(t *testing.T) {
				req := query(c.question, 1232)
				resp := exchange(t, s, network, req)
				if resp.Rcode != c.rcode {
					t.Errorf("got %s, want %s", dns.RcodeToString[resp.Rcode], dns.RcodeToString[c.rcode])
				}
				serial := uint32(r.Revision())
				checkSection(t, "answer", resp.Answer, c.answer, serial)
				checkSection(t, "authority", resp.Ns, c.authority, serial)
				checkSection(t, "additional", resp.Extra, c.additional, serial)
				if want := c.rcode != dns.RcodeRefused; resp.Authoritative != want {
					t.Errorf("AA is %v, want %v", resp.Authoritative, want)
				}
				if resp.Truncated || resp.RecursionAvailable || !resp.Response || resp.Question[0] != req.Question[0] {
					t.Errorf("bad header or question: %v", resp)
				}
			})
		}
	})
}

func TestTTLNeverOutlivesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		s := dnsserver.NewOffline(townConfig(r))
		storetest.Register(t, r, instance("web", "long", "10.0.0.1", lease(60*time.Second)))
		storetest.Register(t, r, instance("web", "short", "10.0.0.2", lease(10*time.Second)))
		for _, c := range []struct {
			pass time.Duration
			ttl  uint32 // of both records
			long uint32 // of the long one's own
			n    int
		}{
			{0, 9, 30, 2},
			{500 * time.Millisecond, 8, 30, 2},
			{7500 * time.Millisecond, 1, 30, 2},
			{1999 * time.Millisecond, 0, 30, 2},
			{time.Millisecond, 30, 30, 1}, // the short one's end
			{20 * time.Second, 29, 29, 1},
			{29999 * time.Millisecond, 0, 0, 1},
			{time.Millisecond, 0, 0, 0},
		} {
			storetest.Advance(c.pass)
			for _, q := range []string{"web.service. A", "web.service. SRV"} {
				resp := s.Respond(query(q, 1232), true)
				if len(resp.Answer) != c.n {
					t.Errorf("%v: %s has %d records, want %d", r.Now(), q, len(resp.Answer), c.n)
				}
				for _, rr := range resp.Answer {
					if rr.Header().Ttl != c.ttl {
						t.Errorf("%v: %s has TTL %d, want %d", r.Now(), q, rr.Header().Ttl, c.ttl)
					}
				}
				for _, rr := range resp.Extra {
					if rr.Header().Name == "long.web.service." && rr.Header().Ttl != c.long {
						t.Errorf("%v: the additional of long has TTL %d, want %d", r.Now(), rr.Header().Ttl, c.long)
					}
				}
			}
		}
		if resp := s.Respond(query("web.service. A", 0), true); resp.Rcode != dns.RcodeNameError {
			t.Errorf("with nobody registered: %s, want NXDOMAIN", dns.RcodeToString[resp.Rcode])
		}
	})
}

// What has ended is in no answer, even where nobody sweeps.
func TestEndedButNotSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := store.Open(t.Context(), store.NewMemory(), store.Config{}) // and no Run
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		s := dnsserver.NewOffline(townConfig(r))
		storetest.Register(t, r, instance("web", "long", "10.0.0.1"))
		storetest.Register(t, r, instance("web", "short", "10.0.0.2", lease(5*time.Second), tags("v2")))
		for _, c := range []struct {
			question string
			before   int
			rcode    int // after
			after    int
		}{
			{"web.service. A", 2, dns.RcodeSuccess, 1},
			{"web.service. SRV", 2, dns.RcodeSuccess, 1},
			{"_web._tcp.service. SRV", 2, dns.RcodeSuccess, 1},
			{"short.web.service. A", 1, dns.RcodeNameError, 0},
			{"v2.web.service. A", 1, dns.RcodeNameError, 0},
		} {
			check := func(rcode, n int) {
				t.Helper()
				if resp := s.Respond(query(c.question, 0), true); resp.Rcode != rcode || len(resp.Answer) != n {
					t.Errorf("%v: %s: %s with %d records, want %s with %d", r.Now(), c.question,
						dns.RcodeToString[resp.Rcode], len(resp.Answer), dns.RcodeToString[rcode], n)
				}
			}
			storetest.Register(t, r, instance("web", "short", "10.0.0.2", lease(5*time.Second), tags("v2")))
			storetest.Advance(4999 * time.Millisecond)
			check(dns.RcodeSuccess, c.before)
			storetest.Advance(time.Millisecond)
			check(c.rcode, c.after)
		}
	})
}

// Answered, deregistered: safe_after is when that answer is forgotten.
func TestSafeAfterFollowsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		s := dnsserver.NewOffline(townConfig(r))
		storetest.Register(t, r, instance("web", "a1", "10.0.0.1"))
		s.Respond(query("web.service. A", 0), false) // TTL 30
		storetest.Advance(10 * time.Second)
		gone, err := r.Deregister(t.Context(), "web", "a1")
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Until(gone.SafeAfter); got != 21*time.Second {
			t.Errorf("safe after %v, want 21s: 30 and one, less the 10 that have passed", got)
		}
	})
}

func TestExtendedErrors(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	town(t, r)
	s := dnsserver.NewOffline(townConfig(r))
	for question, want := range map[string]string{
		"away.service. A":        "away: 1 instances, 0 up",
		"web.service. MX":        "web: 4 instances, 3 up, none with this type",
		"nope.service. A":        "nothing is registered at this name",
		"_tcp.service. A":        "no record of this type is here",
		"example.com. A":         "the zone here is service.",
		"web.service. A":         "",
		"down.web.service. A":    "",
		"down.web.service. AAAA": "web: 1 instances, 0 up, none with this type",
		"a2.web.service. AAAA":   "web: 1 instances, 1 up, none with this type",
	} {
		got := ""
		for _, o := range s.Respond(query(question, 1232), false).IsEdns0().Option {
			got += o.(*dns.EDNS0_EDE).ExtraText
		}
		if got != want {
			t.Errorf("%s: %q, want %q", question, got, want)
		}
	}
}

// The first address is drawn by weight, and so is the next of the rest.
func TestWeightedOrder(t *testing.T) {
	const draws = 20000
	first := map[int]int{}
	last := map[int]int{}
	for range draws {
		o := dnsserver.Order([]int{10, 30, 60, 0}, true)
		first[o[0]]++
		last[o[3]]++
	}
	for k, want := range []float64{0.1, 0.3, 0.6, 0} {
		// Five standard deviations: one run in a million is beyond.
		if got := float64(first[k]) / draws; got < want-0.02 || got > want+0.02 {
			t.Errorf("weight %v comes first in %.3f of the answers", want*100, got)
		}
	}
	if got := float64(last[3]) / draws; got < 0.99 {
		t.Errorf("weight 0 comes last in %.3f of the answers", got)
	}
	even := map[int]int{}
	for range draws {
		even[dnsserver.Order([]int{10, 30, 60, 0}, false)[0]]++
	}
	for k := range 4 {
		if got := float64(even[k]) / draws; got < 0.23 || got > 0.27 {
			t.Errorf("unweighted, record %d comes first in %.3f of the answers", k, got)
		}
	}
}
