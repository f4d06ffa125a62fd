package dnsserver_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
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

// secondary is a copy of the zone that follows by transfers.
type secondary struct {
	soa     *dns.SOA
	records map[string]dns.RR // by their text
}

// everybody may have transfers from the offline server's client.
var everybody = dnsserver.TransferACL{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// transferred returns the records of a transfer, which must have an end.
func transferred(t *testing.T, conn net.Conn, req *dns.Msg) []dns.RR {
	t.Helper()
	tr := dns.Transfer{Conn: &dns.Conn{Conn: conn}}
	envelopes, err := tr.In(req, "")
	if err != nil {
		t.Fatalf("transfer: %v", err)
	}
	var list []dns.RR
	for e := range envelopes {
		if e.Error != nil {
			t.Fatalf("transfer: %v", e.Error)
		}
		list = append(list, e.RR...)
	}
	return list
}

// full takes the whole zone.
func (s *secondary) full(t *testing.T, list []dns.RR) {
	t.Helper()
	s.records = map[string]dns.RR{}
	first, ok := list[0].(*dns.SOA)
	last, ok2 := list[len(list)-1].(*dns.SOA)
	if !ok || !ok2 || len(list) < 3 || first.String() != last.String() {
		t.Fatalf("a transfer of %d records begins with %v and ends with %v", len(list), list[0], list[len(list)-1])
	}
	s.soa = first
	for _, rr := range list[1 : len(list)-1] {
		if _, twice := s.records[rr.String()]; twice {
			t.Errorf("the transfer has %v twice", rr)
		}
		s.records[rr.String()] = rr
	}
}

// follow brings the copy up to date by IXFR, and reports whether that was one
// and not all of the zone.
func (s *secondary) follow(t *testing.T, conn net.Conn) (incremental bool) {
	t.Helper()
	list := transferred(t, conn, new(dns.Msg).SetIxfr(s.soa.Hdr.Name, s.soa.Serial, ".", "."))
	if len(list) == 1 {
		if soa := list[0].(*dns.SOA); soa.Serial != s.soa.Serial {
			t.Errorf("nothing is new, but the serial is %d, not %d", soa.Serial, s.soa.Serial)
		}
		return true
	}
	if _, ok := list[1].(*dns.SOA); !ok {
		s.full(t, list)
		return false
	}
	newest := list[0].(*dns.SOA)
	if from := list[1].(*dns.SOA); from.Serial != s.soa.Serial {
		t.Fatalf("the change is from %d, asked was from %d", from.Serial, s.soa.Serial)
	}
	adding := false
	for _, rr := range list[2 : len(list)-1] {
		_, have := s.records[rr.String()]
		switch soa, ok := rr.(*dns.SOA); {
		case ok && soa.Serial == newest.Serial && !adding:
			adding = true
		case ok:
			t.Fatalf("unexpected %v", rr)
		case adding && have:
			t.Errorf("%v is added, and is there", rr)
		case adding:
			s.records[rr.String()] = rr
		case !have:
			t.Errorf("%v is removed, and is not there", rr)
		default:
			delete(s.records, rr.String())
		}
	}
	s.soa = newest
	return true
}

// A secondary that follows by IXFR has what a full transfer has, and that has
// what queries give, over random lives of registries and serials on their way
// around the circle.
func TestTransfersFollow(t *testing.T) {
	for seed, at := range map[uint64]store.Revision{1: 0, 2: 1<<31 - 40, 3: 1<<32 - 40, 4: 3<<32 - 150} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 4))
				cfg := compiledConfig
				cfg.History = 40
				r, done := storetest.Open(t, func(*testing.T) store.Backend { m := store.NewMemory(); m.At = at; return m }, cfg)
				defer done()
				c := townConfig(r)
				c.Transfer = everybody
				s, p := dnsserver.NewOffline(c), newPipes()
				ctx, cancel := context.WithCancel(t.Context())
				var g sync.WaitGroup
				g.Go(func() { _ = s.ServeStream(ctx, p) })
				var copy, fresh secondary
				copy.full(t, transferred(t, p.dial(), new(dns.Msg).SetAxfr("service.")))
				increments := 0
				for range 150 {
					for range rnd.IntN(12) + rnd.IntN(2)*rnd.IntN(40) {
						randomChange(t, r, rnd)
					}
					synctest.Wait() // for the sweep
					if copy.follow(t, p.dial()) {
						increments++
					}
					fresh.full(t, transferred(t, p.dial(), new(dns.Msg).SetAxfr("service.")))
					if uint32(r.Revision()) != copy.soa.Serial || !slices.Equal(slices.Sorted(maps.Keys(copy.records)), slices.Sorted(maps.Keys(fresh.records))) {
						t.Fatalf("at serial %d the copy of %d has\n%s\na full transfer has\n%s", fresh.soa.Serial, copy.soa.Serial,
							strings.Join(slices.Sorted(maps.Keys(copy.records)), "\n"), strings.Join(slices.Sorted(maps.Keys(fresh.records)), "\n"))
					}
					equalsQueries(t, s, r, fresh)
				}
				if increments < 50 || increments == 150 {
					t.Errorf("%d of 150 transfers were incremental", increments)
				}
				cancel()
				g.Wait()
			})
		})
	}
}

// equalsQueries asks for every name that there could be.
func equalsQueries(t *testing.T, s dnsserver.Offline, r *store.Registry, zone secondary) {
	t.Helper()
	zone.checkTTLs(t)
	left := map[string]bool{}
	for _, rr := range zone.records {
		left[withoutTTL(rr)] = true
	}
	names := possibleNames(r)
	for name := range names {
		for _, rrtype := range []string{"A", "AAAA", "SRV", "TXT", "PTR", "NS"} {
			m := s.Respond(query(name+" "+rrtype, 1232), true)
			for _, rr := range m.Answer {
				if key := withoutTTL(rr); !left[key] {
					t.Errorf("%s is an answer, and not in the transfer", key)
				} else {
					delete(left, key)
				}
			}
		}
	}
	for key := range left {
		t.Errorf("%s is in the transfer, and is no answer", key)
	}
}

// checkTTLs checks that every RRset has one TTL (RFC 2181 section 5.2).
func (s *secondary) checkTTLs(t *testing.T) {
	t.Helper()
	for key, set := range rrsets(slices.Collect(maps.Values(s.records))) {
		for _, rr := range set {
			if rr.Header().Ttl != set[0].Header().Ttl {
				t.Errorf("%v has several TTLs in the transfer: %v", key, set)
			}
		}
	}
}

func withoutTTL(rr dns.RR) string {
	c := dns.Copy(rr)
	c.Header().Ttl = 0
	return c.String()
}

// possibleNames are all names that may hang on what is registered, and that
// transfers have: tags one by one.
func possibleNames(r *store.Registry) map[string]bool {
	names := map[string]bool{"service.": true, "ns.service.": true}
	for v := range r.Services {
		service := v.Service
		under := []string{service, "_" + service + "._tcp", "_" + service + "._udp"}
		for _, m := range v.All() {
			under = append(under, m.Label+"."+service, m.Label+"._"+service+"._tcp", m.Label+"._"+service+"._udp")
			for _, tag := range m.Tags {
				under = append(under, tag+"."+service, "_"+service+"._"+tag, "_"+tag+"._sub._"+service+"._tcp", "_"+tag+"._sub._"+service+"._udp")
			}
			for _, p := range m.Ports {
				under = append(under, "_"+p.Name+"._tcp."+service, "_"+p.Name+"._udp."+service)
			}
		}
		for _, name := range under {
			names[name+".service."] = true
		}
	}
	for _, name := range []string{"_services._dns-sd._udp", "b._dns-sd._udp", "lb._dns-sd._udp"} {
		names[name+".service."] = true
	}
	return names
}

// Who may have a transfer, and what those get who may not or ask amiss.
func TestTransferRights(t *testing.T) {
	keys, err := dnsserver.ParseTSIGKeys(`key "good" { algorithm hmac-sha256; secret "Z29vZGdvb2Rnb29kZ29vZA=="; };
		key other { secret "b3RoZXJvdGhlcm90aGVyb3RoZXI="; algorithm hmac-sha512; };`)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cfg := townConfig(r)
	cfg.Keys = keys
	cfg.Transfer.Keys = []string{"good."}
	closed := serve(t, cfg)
	cfg.Transfer = dnsserver.TransferACL{Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	open := serve(t, cfg)
	const good, other = "Z29vZGdvb2Rnb29kZ29vZA==", "b3RoZXJvdGhlcm90aGVyb3RoZXI="
	for name, c := range map[string]struct {
		server    *dnsserver.Server
		network   string
		zone      string
		key       string
		secret    string
		algorithm string
		rcode     int
		tsig      uint16
		records   bool
	}{
		"by address":         {open, "tcp", "service.", "", "", "", dns.RcodeSuccess, 0, true},
		"0x20":               {open, "tcp", "SerVice.", "", "", "", dns.RcodeSuccess, 0, true},
		"address, any key":   {open, "tcp", "service.", "other.", other, dns.HmacSHA512, dns.RcodeSuccess, 0, true},
		"over UDP":           {open, "udp", "service.", "", "", "", dns.RcodeRefused, 0, false},
		"no zone of ours":    {open, "tcp", "example.", "", "", "", dns.RcodeRefused, 0, false},
		"below the zone":     {open, "tcp", "web.service.", "", "", "", dns.RcodeNotAuth, 0, false},
		"address, bad key":   {open, "tcp", "service.", "good.", other, dns.HmacSHA256, dns.RcodeNotAuth, dns.RcodeBadSig, false},
		"no key":             {closed, "tcp", "service.", "", "", "", dns.RcodeRefused, 0, false},
		"the key":            {closed, "tcp", "service.", "good.", good, dns.HmacSHA256, dns.RcodeSuccess, 0, true},
		"the key, in GOOD":   {closed, "tcp", "service.", "GOOD.", good, dns.HmacSHA256, dns.RcodeSuccess, 0, true},
		"another key":        {closed, "tcp", "service.", "other.", other, dns.HmacSHA512, dns.RcodeRefused, 0, false},
		"a wrong secret":     {closed, "tcp", "service.", "good.", other, dns.HmacSHA256, dns.RcodeNotAuth, dns.RcodeBadSig, false},
		"another algorithm":  {closed, "tcp", "service.", "good.", good, dns.HmacSHA512, dns.RcodeNotAuth, dns.RcodeBadKey, false},
		"an unknown key":     {closed, "tcp", "service.", "nobody.", good, dns.HmacSHA256, dns.RcodeNotAuth, dns.RcodeBadKey, false},
		"signed, over UDP":   {closed, "udp", "service.", "good.", good, dns.HmacSHA256, dns.RcodeRefused, 0, false},
		"wrong key over UDP": {closed, "udp", "service.", "good.", other, dns.HmacSHA256, dns.RcodeNotAuth, dns.RcodeBadSig, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := dns.Dial(c.network, c.server.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			m := new(dns.Msg).SetAxfr(c.zone)
			if c.key != "" {
				conn.TsigSecret = map[string]string{c.key: c.secret}
				m.SetTsig(c.key, c.algorithm, 300, time.Now().Unix())
			}
			if err := conn.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
			resp, err := conn.ReadMsg()
			if resp == nil {
				t.Fatal(err)
			}
			if c.tsig == 0 && err != nil {
				t.Errorf("the response's signature: %v", err)
			}
			tsig := uint16(0)
			if ts := resp.IsTsig(); ts != nil {
				tsig = ts.Error
			} else if c.key != "" {
				t.Error("the response is not signed")
			}
			if resp.Rcode != c.rcode || tsig != c.tsig || (len(resp.Answer) > 0) != c.records {
				t.Errorf("got %s, TSIG error %d, %d records; want %s, %d, %v", dns.RcodeToString[resp.Rcode], tsig, len(resp.Answer),
					dns.RcodeToString[c.rcode], c.tsig, c.records)
			}
		})
	}
}

// A query signed in the past is refused with our time, signed.
func TestTSIGTime(t *testing.T) {
	keys, err := dnsserver.ParseTSIGKeys(`key k { algorithm hmac-sha256; secret "Z29vZGdvb2Rnb29kZ29vZA=="; };`)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := storetest.Open(t, memory, compiledConfig)
	cfg := townConfig(r)
	cfg.Keys = keys
	s := serve(t, cfg)
	for _, skew := range []time.Duration{-299 * time.Second, -302 * time.Second, 302 * time.Second} {
		m := query("service. SOA", 0)
		m.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Add(skew).Unix())
		c := dns.Client{TsigSecret: map[string]string{"k.": "Z29vZGdvb2Rnb29kZ29vZA=="}}
		resp, _, err := c.Exchange(m, s.Addrs()[0].String())
		if resp == nil || resp.IsTsig() == nil {
			t.Fatalf("%v: %v, %v", skew, resp, err)
		}
		ts := resp.IsTsig()
		bad := skew.Abs() > 300*time.Second
		if (resp.Rcode == dns.RcodeNotAuth) != bad || (ts.Error == dns.RcodeBadTime) != bad || bad && (ts.OtherLen != 6 || ts.MACSize != 32) {
			t.Errorf("%v: %s, %v", skew, dns.RcodeToString[resp.Rcode], ts)
		}
	}
}

// What a transfer of a service costs where each instance has tags of its own:
// in proportion to how many they are.
func BenchmarkEnumerateTags(b *testing.B) {
	for _, n := range []int{250, 2000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var list []*store.Instance
			for k := range n {
				i := instance("web", fmt.Sprintf("i%05d", k), "10.0.0.1", tags(fmt.Sprintf("pod-%d", k), fmt.Sprintf("node-%d", k)))
				if err := i.Normalize(); err != nil {
					b.Fatal(err)
				}
				list = append(list, i)
			}
			for b.Loop() {
				dnsserver.Enumerate("service.", "web", list)
			}
		})
	}
}

// IXFR over UDP says what is the newest, and the client comes by TCP.
func TestIXFROverUDP(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cfg := townConfig(r)
	cfg.Transfer = everybody
	s := dnsserver.NewOffline(cfg)
	m := s.Respond(new(dns.Msg).SetIxfr("service.", 1, ".", "."), false)
	if len(m.Answer) != 1 || m.Answer[0].(*dns.SOA).Serial != uint32(r.Revision()) || m.Truncated {
		t.Errorf("got %v", m)
	}
	bad := new(dns.Msg).SetAxfr("service.")
	bad.SetEdns0(1232, false)
	bad.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405"}}
	if s.Transfers(bad) {
		t.Error("a query with a malformed cookie begins a transfer")
	}
	if m := s.Respond(query("service. IXFR", 0), true); m.Rcode != dns.RcodeFormatError {
		t.Errorf("without a serial: %s, want FORMERR", dns.RcodeToString[m.Rcode])
	}
}

func TestTSIGKeys(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"tsig-keygen":       {"key \"xfr\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n", "xfr. hmac-sha256."},
		"comments":          {"# one\n// two\n/* three\n*/ key a.b { secret c2VjcmV0; algorithm HMAC-SHA1; }; # end", "a.b. hmac-sha1."},
		"nothing":           {" \n", ""},
		"another statement": {"zone \"x\" { };", "line 1: a key statement begins"},
		"no name":           {"key { algorithm hmac-sha256; secret \"c2VjcmV0\"; };", "line 1: a key's name"},
		"md5":               {"key k { algorithm hmac-md5; secret \"c2VjcmV0\"; };", "algorithm \"hmac-md5\""},
		"no secret":         {"key k {\nalgorithm hmac-sha256;\n};", "line 3: key k. needs both"},
		"no base64":         {"key k { algorithm hmac-sha256; secret \"c2Vjc!\"; };", "the secret is no base64"},
		"no semicolon":      {"key k { algorithm hmac-sha256 secret \"c2VjcmV0\"; };", "\";\" belongs there"},
		"no end":            {"key k { algorithm hmac-sha256; secret \"c2VjcmV0\"; }", "\";\" belongs there"},
		"twice":             {"key k { algorithm hmac-sha256; secret \"c2VjcmV0\"; };\nkey K { algorithm hmac-sha256; secret \"c2VjcmV0\"; };", "line 2: key k. is there twice"},
		"open string":       {"key \"k\n\" { };", "a string has no end"},
		"open comment":      {"/* key", "a comment has no end"},
		"a word too many":   {"key k { algorithm hmac-sha256; secret \"c2VjcmV0\"; port 1; };", "there is \"port\""},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := dnsserver.ParseTSIGKeys(c.text)
			got := ""
			for _, k := range keys {
				got += k.Name + " " + k.Algorithm
			}
			if err != nil {
				got = err.Error()
			}
			if err == nil && got != c.want || err != nil && (c.want == "" || !strings.Contains(got, c.want)) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if strings.Contains(got, "c2Vj") {
				t.Errorf("the error shows the secret: %q", got)
			}
		})
	}
}

// NOTIFY goes out at the start and for changes, at most once a second, again
// where it is not acknowledged, and signed where there is a key.
func TestNotify(t *testing.T) {
	keys, err := dnsserver.ParseTSIGKeys(`key k { algorithm hmac-sha256; secret "Z29vZGdvb2Rnb29kZ29vZA=="; };`)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan uint32, 10)
	var asked atomic.Int32
	receiver := &dns.Server{
		PacketConn: pc, TsigSecret: map[string]string{"k.": "Z29vZGdvb2Rnb29kZ29vZA=="},
		MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
			if m.Opcode != dns.OpcodeNotify || !m.Authoritative || m.Question[0].Name != "service." || m.Question[0].Qtype != dns.TypeSOA || w.TsigStatus() != nil || m.IsTsig() == nil {
				t.Errorf("unexpected %v, signature %v", m, w.TsigStatus())
			}
			came <- m.Answer[0].(*dns.SOA).Serial
			if asked.Add(1) == 1 { // it has to come again
				return
			}
			r := new(dns.Msg).SetReply(m)
			r.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
			_ = w.WriteMsg(r)
		}),
	}
	go func() { _ = receiver.ActivateAndServe() }()
	defer func() { _ = receiver.Shutdown() }()
	r, _ := storetest.Open(t, memory, compiledConfig)
	cfg := townConfig(r)
	cfg.Notify = []dnsserver.Secondary{{Addr: pc.LocalAddr().String(), Key: &keys[0]}}
	serve(t, cfg)
	start := uint32(r.Revision())
	for k := range 2 {
		if got := <-came; got != start {
			t.Errorf("NOTIFY %d has serial %d, want %d", k, got, start)
		}
	}
	for k := range 20 {
		storetest.Register(t, r, instance("web", fmt.Sprintf("i%d", k), "10.0.0.1"))
	}
	n := 0
	for got := uint32(0); got != uint32(r.Revision()); n++ {
		got = <-came
	}
	if n > 2 {
		t.Errorf("20 changes at once made %d NOTIFYs", n)
	}
}
