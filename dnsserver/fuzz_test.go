package dnsserver_test

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// FuzzQuestion answers whatever can be unpacked, and holds each response
// against what is true of all of them.
func FuzzQuestion(f *testing.F) {
	reverse, err := dnsserver.Reverse([]string{"10.0.0.0/15", "2001:db8::/32"}, "service.")
	if err != nil {
		f.Fatal(err)
	}
	r, err := store.Open(f.Context(), store.NewMemory(), store.Config{Addresses: reverse})
	if err != nil {
		f.Fatal(err)
	}
	cfg := townConfig(r)
	cfg.Reverse, cfg.NSID, cfg.Version = reverse, "ns1", "roster"
	s := dnsserver.NewOffline(cfg)
	f.Cleanup(func() { _ = r.Close() })
	filled := false
	for _, c := range answers {
		for _, edns := range []uint16{0, 1232} {
			b, err := query(c.question, edns).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, edns == 0)
		}
	}
	for _, question := range []string{"1.0.0.10.in-addr.arpa. PTR", "0.0.10.in-addr.arpa. PTR", "0.1.0.0.2.ip6.arpa. PTR",
		strings.Repeat("0.", 23) + "8.b.d.0.1.0.0.2.ip6.arpa. PTR", "id.server. TXT", "version.bind. A"} {
		m := query(question, 1232)
		if !strings.Contains(question, "arpa") {
			m.Question[0].Qclass = dns.ClassCHAOS
		}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, stream bool) {
		if !filled { // needs a *testing.T
			filled = true
			town(t, r)
			storetest.Register(t, r, instance("permanent", "p1", "10.0.9.1", lease(0)))
		}
		var req dns.Msg
		if req.Unpack(b) != nil || len(b) < 12 || !dnsserver.Accepts(header(b)) || len(req.Question) != 1 {
			return
		}
		resp := s.Respond(&req, stream)
		checkResponse(t, &req, resp, stream)
	})
}

func header(b []byte) dns.Header {
	u := func(k int) uint16 { return uint16(b[k])<<8 | uint16(b[k+1]) }
	return dns.Header{Id: u(0), Bits: u(2), Qdcount: u(4), Ancount: u(6), Nscount: u(8), Arcount: u(10)}
}

// checkResponse checks what holds for every response.
func checkResponse(t *testing.T, req, resp *dns.Msg, stream bool) {
	t.Helper()
	limit := 65535
	if !stream {
		limit = 512
		if o := req.IsEdns0(); o != nil {
			limit = int(min(max(o.UDPSize(), 512), 1232))
		}
	}
	if n := packedLen(t, resp); n > limit {
		t.Errorf("%d octets of %d", n, limit)
	}
	if resp.Id != req.Id || !resp.Response || resp.Question[0] != req.Question[0] || stream && resp.Truncated {
		t.Errorf("bad header: %v", resp)
	}
	if (req.IsEdns0() == nil) != (resp.IsEdns0() == nil) {
		t.Error("EDNS on one side only")
	}
	ttls := map[string]uint32{}
	for _, rr := range append(resp.Answer, resp.Extra...) {
		h := rr.Header()
		if h.Rrtype == dns.TypeOPT {
			continue
		}
		set := strings.ToLower(h.Name) + dns.TypeToString[h.Rrtype]
		if ttl, seen := ttls[set]; seen && ttl != h.Ttl {
			t.Errorf("%s has the TTLs %d and %d", set, ttl, h.Ttl)
		}
		ttls[set] = h.Ttl
		if h.Ttl > 30 {
			t.Errorf("TTL %d is over the largest", h.Ttl)
		}
	}
	for _, rr := range resp.Answer {
		if rr.Header().Name != req.Question[0].Name {
			t.Errorf("the owner is %q, asked was %q", rr.Header().Name, req.Question[0].Name)
		}
	}
	negative := resp.Rcode == dns.RcodeNameError || resp.Rcode == dns.RcodeSuccess && len(resp.Answer) == 0 && !resp.Truncated
	if negative = negative && req.Question[0].Qclass != dns.ClassCHAOS; negative != (len(resp.Ns) == 1) {
		t.Errorf("%s, %d answers, %d in authority", dns.RcodeToString[resp.Rcode], len(resp.Answer), len(resp.Ns))
	}
}
