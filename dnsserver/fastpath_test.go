package dnsserver_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
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

// The first law: what the fast parser accepts, the library accepts with the
// same facts. Not the other way round: what the parser does not know it leaves.
func FuzzParse(f *testing.F) {
	for _, c := range answers {
		for _, edns := range []uint16{0, 100, 512, 1232, 65535} {
			b, err := query(c.question, edns).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	m := query("web.service. A", 1232)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	outside := slices.Clone(b) // the cookie follows an OPT record without options
	outside[len(outside)-13] = 0
	f.Add(outside)
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, ok := dnsserver.Parse(b, "service.")
		if !ok {
			return
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatalf("accepted, and the library says %v", err)
		}
		if !dnsserver.Accepts(header(b)) || len(m.Question) != 1 || len(m.Answer)+len(m.Ns) != 0 {
			t.Fatalf("accepted: %v", &m)
		}
		name := make([]byte, 256)
		n, err := dns.PackDomainName(m.Question[0].Name, name, 0, nil, false)
		if err != nil || facts.Name != string(name[:n]) {
			t.Errorf("the name is %q, to the library %q, %v", facts.Name, name[:n], err)
		}
		if facts.Type != m.Question[0].Qtype || m.Question[0].Qclass != dns.ClassINET ||
			m.RecursionDesired != (facts.Flags&0x100 != 0) || m.CheckingDisabled != (facts.Flags&0x10 != 0) {
			t.Errorf("%+v is to the library %v", facts, &m)
		}
		o := m.IsEdns0()
		if (o != nil) != facts.EDNS || o == nil && len(m.Extra) > 0 {
			t.Fatalf("EDNS is %v, to the library %v", facts.EDNS, m.Extra)
		}
		if o != nil && (o.Version() != 0 || cookie(o) != facts.Cookie || o.Do() != facts.DO || max(o.UDPSize(), 512) != facts.Size) {
			t.Errorf("%+v is to the library %v", facts, o)
		}
		// The labels before the zone, as the ordinary path splits them.
		labels := dns.SplitDomainName(m.Question[0].Name)
		if !dns.IsSubDomain("service.", strings.ToLower(m.Question[0].Name)) || len(labels)-1 != len(facts.Labels) {
			t.Errorf("%q has the labels %q before the zone", labels, facts.Labels)
		}
	})
}

// cookie returns the data of the one option there may be, a cookie.
func cookie(o *dns.OPT) string {
	if len(o.Option) == 0 {
		return ""
	}
	c, ok := o.Option[0].(*dns.EDNS0_COOKIE)
	if !ok || len(o.Option) > 1 {
		return "other options"
	}
	b, err := hex.DecodeString(c.Cookie)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// canonical is a response as far as order does not matter.
func canonical(t *testing.T, b []byte) string {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack: %v\n%x", err, b)
	}
	var lines []string
	for k, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			lines = append(lines, fmt.Sprint(k, " ", rr))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%v %v\n%s", m.MsgHdr, m.Question, strings.Join(lines, "\n"))
}

// same holds the fast path against the ordinary one, at one moment and over
// both kinds of transport, and reports whether it had an answer over UDP.
func same(t *testing.T, s dnsserver.Offline, f dnsserver.Fast, packet []byte) bool {
	t.Helper()
	sameOver(t, s, f, packet, true)
	return sameOver(t, s, f, packet, false)
}

func sameOver(t *testing.T, s dnsserver.Offline, f dnsserver.Fast, packet []byte, stream bool) bool {
	t.Helper()
	got, ok := f.Answer(nil, packet, stream)
	if !ok {
		return false
	}
	want := s.Ordinary(packet, stream)
	if want == nil {
		t.Fatalf("the fast path answers what the ordinary one does not: %x", packet)
	}
	a, b := canonical(t, got), canonical(t, want)
	switch {
	case a == b:
		if len(got) != len(want) && !mixedCase(packet) {
			t.Errorf("the fast path takes %d octets, the ordinary one %d:\n%s", len(got), len(want), a)
		}
	case !sameButCut(t, got, want, s.Ordinary(packet, true)) && !sameButFitted(t, got, want):
		t.Errorf("stream %v: the fast path says\n%s\n\nthe ordinary path says\n%s", stream, a, b)
	}
	return true
}

// sameButCut compares two responses with TC: each has another part of all that
// there is, both are as full as can be, and the TTL may be what the records
// that are there allow.
func sameButCut(t *testing.T, got, want, all []byte) bool {
	t.Helper()
	var a, b, whole dns.Msg
	if a.Unpack(got) != nil || b.Unpack(want) != nil || whole.Unpack(all) != nil {
		return false
	}
	if !a.Truncated || a.MsgHdr != b.MsgHdr || len(a.Extra) != len(b.Extra) || max(len(got), len(want))-min(len(got), len(want)) > 40 {
		return false
	}
	left := map[string]uint32{} // the TTL of each record that is in no answer yet
	for _, rr := range whole.Answer {
		ttl := rr.Header().Ttl
		rr.Header().Ttl = 0
		left[rr.String()] = ttl
	}
	for _, rr := range a.Answer {
		ttl := rr.Header().Ttl
		rr.Header().Ttl = 0
		least, ok := left[rr.String()]
		if !ok || ttl < least || ttl > 30 {
			return false
		}
		delete(left, rr.String())
	}
	return len(left) > 0
}

// mixedCase reports whether the question has upper case letters: the library
// does not compress to a name in another case.
func mixedCase(packet []byte) bool {
	return bytes.ContainsFunc(packet[12:], func(r rune) bool { return 'A' <= r && r <= 'Z' })
}

// sameButFitted compares two responses whose additional records did not all
// fit: which do hangs on the order. Each must then be as full as can be, and
// what it has must be right.
func sameButFitted(t *testing.T, got, want []byte) bool {
	t.Helper()
	var a, b dns.Msg
	if a.Unpack(got) != nil || b.Unpack(want) != nil || len(a.Answer) < 2 || a.Answer[0].Header().Rrtype != dns.TypeSRV {
		return false
	}
	limit := 512
	if o := a.IsEdns0(); o != nil {
		limit = 65535
	}
	if min(len(got), len(want)) < 400 || max(len(got), len(want)) > limit {
		return false
	}
	targets := map[string]bool{}
	for _, rr := range a.Answer {
		targets[rr.(*dns.SRV).Target] = true
	}
	for _, rr := range a.Extra {
		if rr.Header().Rrtype != dns.TypeOPT && !targets[rr.Header().Name] {
			return false
		}
	}
	ea, eb := a.Extra, b.Extra
	a.Extra, b.Extra = nil, nil
	x, err1 := a.Pack()
	y, err2 := b.Pack()
	return err1 == nil && err2 == nil && canonical(t, x) == canonical(t, y) && (len(ea) > 0) == (len(eb) > 0)
}

// The second law on the table of names.
func TestFastEqualsOrdinary(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	crowdOf(t, r, "crowd", 25)
	crowdOf(t, r, "fair", 200)
	crowdOf(t, r, "city", 300)
	storetest.Register(t, r, instance("heavy", "h1", "10.9.0.1", weight(7)))
	s := dnsserver.NewOffline(townConfig(r))
	f := s.NewFast()
	taken := map[string]bool{}
	questions := []string{"_crowd._tcp.service. SRV", "x.y.nope.service. A"}
	for _, service := range []string{"crowd", "fair", "city"} {
		questions = append(questions, service+".service. A", service+".service. AAAA", service+".service. SRV", service+".service. TXT")
	}
	for _, c := range answers {
		questions = append(questions, c.question)
	}
	for _, q := range questions {
		for _, edns := range []uint16{0, 300, 512, 900, 1232, 65535} {
			for _, change := range []func(*dns.Msg){
				func(*dns.Msg) {},
				func(m *dns.Msg) { m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = true, true, true },
				func(m *dns.Msg) {
					if o := m.IsEdns0(); o != nil {
						o.SetDo()
					}
				},
				func(m *dns.Msg) {
					if o := m.IsEdns0(); o != nil {
						o.Option = append(o.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "2464c4abcf10c957"})
					}
				},
			} {
				m := query(q, edns)
				change(m)
				b, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				if same(t, s, f, b) {
					taken[q] = true
				}
			}
		}
	}
	// And it is taken, or the law says nothing.
	for _, q := range []string{
		"web.service. A", "web.service. AAAA", "web.service. SRV", "_web._tcp.service. SRV", "a1.web.service. A", "wEb.SerVice. AAAA",
		"nope.service. A", "dns.service. AAAA", "_dns._udp.service. SRV", "away.service. A", "noport.service. SRV", "x.y.nope.service. A",
		"_nope._tcp.service. SRV", "crowd.service. SRV", "backup.service. A", "shared.service. A", "down.web.service. A",
		"fair.service. A", "fair.service. SRV", "city.service. A", "city.service. AAAA", "city.service. SRV",
	} {
		if !taken[q] {
			t.Errorf("%s is not taken by the fast path", q)
		}
	}
}

// Name servers may stand where services have their SRV names.
func TestFastLeavesHostsAlone(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cfg := townConfig(r)
	cfg.NameServers = []dnsserver.NameServer{{Name: "ns._x._tcp.service."}, {Name: "_web._tcp.service."}, {Name: "web.service."}}
	s := dnsserver.NewOffline(cfg)
	f := s.NewFast()
	for _, q := range []string{"_x._tcp.service. SRV", "_web._tcp.service. SRV", "web.service. A", "a1.web.service. A", "ns._x._tcp.service. A"} {
		packet, err := query(q, 1232).Pack()
		if err != nil {
			t.Fatal(err)
		}
		same(t, s, f, packet)
	}
}

// crowdOf registers n instances of a service with both families and unequal
// weights.
func crowdOf(t *testing.T, r *store.Registry, service string, n int) {
	t.Helper()
	for k := range n {
		storetest.Register(t, r, instance(service, fmt.Sprintf("i%d", k), fmt.Sprintf("10.2.%d.%d 2001:db8:2::%x", k>>8, k&255, k+1), weight(uint16(k))))
	}
}

// The second law on random registries, at random moments of their lives.
func FuzzFastEqualsOrdinary(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			cfg := compiledConfig
			r, done := storetest.Open(t, memory, cfg)
			defer done()
			s := dnsserver.NewOffline(townConfig(r))
			fast := s.NewFast()
			if seed%8 == 0 { // a service that is too large to be compiled
				crowdOf(t, r, "s2", 256+rnd.IntN(8))
			}
			for range 60 {
				randomChange(t, r, rnd)
				for range 4 {
					same(t, s, fast, randomQuery(t, rnd))
				}
			}
		})
	})
}

func randomChange(t *testing.T, r *store.Registry, rnd *rand.Rand) {
	t.Helper()
	service, id := []string{"s0", "s1", "s2", "dns-sd"}[rnd.IntN(4)], fmt.Sprintf("i%d", rnd.IntN(12))
	switch op := rnd.IntN(10); {
	case op < 6:
		i := instance(service, id, "")
		for range rnd.IntN(3) {
			i.Addresses = append(i.Addresses, instance("", "", fmt.Sprintf("10.0.0.%d", rnd.IntN(9)+1)).Addresses...)
		}
		for range rnd.IntN(2) + len(i.Addresses)&1 {
			i.Addresses = append(i.Addresses, instance("", "", fmt.Sprintf("2001:db8::%x", rnd.IntN(9)+1)).Addresses...)
		}
		if len(i.Addresses) == 0 {
			i.Addresses = instance("", "", "10.0.0.1").Addresses
		}
		i.Port = uint16(rnd.IntN(3))
		i.Priority = uint16(rnd.IntN(3))
		i.Weight = uint16(rnd.IntN(3))
		i.Protocol = store.Protocol(rnd.IntN(8) / 7)
		i.TTL = time.Duration(rnd.IntN(40)) * time.Second
		if rnd.IntN(3) == 0 {
			i.Tags = []string{fmt.Sprintf("t%d", rnd.IntN(2))}
		}
		storetest.Register(t, r, i)
	case op < 7:
		_, _ = r.Deregister(t.Context(), service, id)
	case op < 8:
		status := []store.Status{store.Up, store.Down, store.Draining}[rnd.IntN(3)]
		_, _ = r.Heartbeat(t.Context(), service, id, store.Beat{Status: &status})
	default:
		storetest.Advance(time.Duration(rnd.IntN(5000)) * time.Millisecond)
	}
}

func randomQuery(t *testing.T, rnd *rand.Rand) []byte {
	t.Helper()
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	service := fmt.Sprintf("s%d", rnd.IntN(4))
	name := pick(service, service, service, "_"+service+"._tcp", "_"+service+"._udp", "i1."+service, "t0."+service, "_tcp", "ns", "nope", "a.b.c",
		"_"+service+"._t0", "S1", "x.ns",
		"_dns-sd._udp", "b._dns-sd._udp", "i1._"+service+"._tcp")
	if name != "" {
		name += "."
	}
	name += pick("service.", "service.", "service.", "SerVice.")
	m := query(name+" "+pick("A", "AAAA", "SRV", "A", "AAAA", "SRV", "TXT", "ANY", "SOA"), uint16([]int{0, 512, 1232}[rnd.IntN(3)]))
	if o := m.IsEdns0(); o != nil && rnd.IntN(4) == 0 {
		o.Option = append(o.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: strings.Repeat("0f", []int{8, 16, 24, 40}[rnd.IntN(4)])})
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The order of the fast path's answers is drawn as the ordinary path's.
func TestFastOrder(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	for k, w := range []uint16{10, 30, 60, 0} {
		storetest.Register(t, r, instance("web", fmt.Sprintf("i%d", k), fmt.Sprintf("10.0.0.%d", k), weight(w)))
	}
	f := dnsserver.NewOffline(townConfig(r)).NewFast()
	const draws = 20000
	for question, want := range map[string][]float64{"web.service. A": {0.1, 0.3, 0.6, 0}, "web.service. SRV": {0.25, 0.25, 0.25, 0.25}} {
		packet, err := query(question, 1232).Pack()
		if err != nil {
			t.Fatal(err)
		}
		first := map[byte]int{}
		var b []byte
		for range draws {
			var ok bool
			if b, ok = f.Answer(b[:0], packet, false); !ok {
				t.Fatal("not taken")
			}
			var m dns.Msg
			if err := m.Unpack(b); err != nil {
				t.Fatal(err)
			}
			switch rr := m.Answer[0].(type) {
			case *dns.A:
				first[rr.A.To4()[3]]++
			case *dns.SRV:
				first[rr.Target[1]-'0']++
			}
		}
		for k, w := range want {
			if got := float64(first[byte(k)]) / draws; got < w-0.02 || got > w+0.02 {
				t.Errorf("%s: record %d comes first in %.3f of the answers, want %.2f", question, k, got, w)
			}
		}
	}
}
