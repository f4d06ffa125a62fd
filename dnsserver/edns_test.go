package dnsserver_test

import (
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// withOptions is a query with options; an option is its code and its data.
func withOptions(question string, options ...*dns.EDNS0_LOCAL) *dns.Msg {
	m := query(question, 1232)
	for _, o := range options {
		m.IsEdns0().Option = append(m.IsEdns0().Option, o)
	}
	return m
}

func option(code uint16, data string) *dns.EDNS0_LOCAL {
	return &dns.EDNS0_LOCAL{Code: code, Data: []byte(data)}
}

// optionsOf returns a response's options as text, without the Extended DNS
// Error.
func optionsOf(m *dns.Msg) string {
	var list []string
	for _, o := range m.IsEdns0().Option {
		switch o := o.(type) {
		case *dns.EDNS0_EDE:
		case *dns.EDNS0_NSID:
			b, _ := hex.DecodeString(o.Nsid)
			list = append(list, "NSID "+string(b))
		case *dns.EDNS0_COOKIE:
			list = append(list, "COOKIE")
		case *dns.EDNS0_EXPIRE:
			list = append(list, "EXPIRE "+o.String())
		default:
			list = append(list, o.String())
		}
	}
	return strings.Join(list, ", ")
}

// Which option of a query is answered, and how.
func TestOptions(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cfg := townConfig(r)
	cfg.NSID = "node 1"
	s := serve(t, cfg)
	version := "ZONEVERSION SOA-SERIAL: 1 " // and the serial
	for name, c := range map[string]struct {
		query    *dns.Msg
		rcode    int
		udp, tcp string
	}{
		"none":                   {query: withOptions("web.service. AAAA")},
		"NSID":                   {query: withOptions("web.service. AAAA", option(dns.EDNS0NSID, "")), udp: "NSID node 1", tcp: "NSID node 1"},
		"NSID with data":         {query: withOptions("web.service. AAAA", option(dns.EDNS0NSID, "x")), udp: "NSID node 1", tcp: "NSID node 1"},
		"NSID twice":             {query: withOptions("web.service. AAAA", option(dns.EDNS0NSID, ""), option(dns.EDNS0NSID, "")), udp: "NSID node 1", tcp: "NSID node 1"},
		"NSID, NXDOMAIN":         {query: withOptions("nope.service. A", option(dns.EDNS0NSID, "")), rcode: dns.RcodeNameError, udp: "NSID node 1", tcp: "NSID node 1"},
		"NSID, REFUSED":          {query: withOptions("example.org. A", option(dns.EDNS0NSID, "")), rcode: dns.RcodeRefused, udp: "NSID node 1", tcp: "NSID node 1"},
		"keepalive":              {query: withOptions("web.service. AAAA", option(dns.EDNS0TCPKEEPALIVE, "")), tcp: "TCP keepalive"},
		"keepalive with time":    {query: withOptions("web.service. AAAA", option(dns.EDNS0TCPKEEPALIVE, "\x00\x01")), tcp: "TCP keepalive"},
		"keepalive, odd":         {query: withOptions("web.service. AAAA", option(dns.EDNS0TCPKEEPALIVE, "abc")), tcp: "TCP keepalive"},
		"ZONEVERSION":            {query: withOptions("web.service. AAAA", option(dns.EDNS0ZONEVERSION, "")), udp: version, tcp: version},
		"ZONEVERSION, NXDOMAIN":  {query: withOptions("nope.service. A", option(dns.EDNS0ZONEVERSION, "")), rcode: dns.RcodeNameError, udp: version, tcp: version},
		"ZONEVERSION, elsewhere": {query: withOptions("example.org. A", option(dns.EDNS0ZONEVERSION, "")), rcode: dns.RcodeRefused},
		"ZONEVERSION, not empty": {query: withOptions("web.service. AAAA", option(dns.EDNS0ZONEVERSION, "\x01\x00")), rcode: dns.RcodeFormatError},
		"EXPIRE":                 {query: withOptions("service. SOA", option(dns.EDNS0EXPIRE, "")), udp: "EXPIRE 300", tcp: "EXPIRE 300"},
		"EXPIRE, not the SOA":    {query: withOptions("web.service. AAAA", option(dns.EDNS0EXPIRE, ""))},
		"padding, in the clear":  {query: withOptions("web.service. AAAA", option(dns.EDNS0PADDING, "\x00\x00"))},
		"a cookie":               {query: withOptions("web.service. AAAA", option(dns.EDNS0COOKIE, "12345678")), udp: "COOKIE", tcp: "COOKIE"},
		"a second, bad cookie":   {query: withOptions("web.service. AAAA", option(dns.EDNS0COOKIE, "12345678"), option(dns.EDNS0COOKIE, "1")), udp: "COOKIE", tcp: "COOKIE"},
		"a bad cookie":           {query: withOptions("web.service. AAAA", option(dns.EDNS0COOKIE, "1")), rcode: dns.RcodeFormatError},
		// Not ours, and what is wrong in them is nothing to us.
		"client subnet":      {query: withOptions("web.service. AAAA", option(dns.EDNS0SUBNET, "\x00\x01\x18\x00\x0a\x00\x00"))},
		"odd client subnet":  {query: withOptions("web.service. AAAA", option(dns.EDNS0SUBNET, "\x00\x09\xff"))},
		"odd lease, unknown": {query: withOptions("web.service. AAAA", option(dns.EDNS0UL, "x"), option(4711, "y"), option(dns.EDNS0NSID, "")), udp: "NSID node 1", tcp: "NSID node 1"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, network string) {
				resp := exchange(t, s, network, c.query)
				if resp.Rcode != c.rcode || resp.IsEdns0() == nil {
					t.Fatalf("got %v, want %s with OPT", resp, dns.RcodeToString[c.rcode])
				}
				want := map[string]string{"udp": c.udp, "tcp": c.tcp}[network]
				got := optionsOf(resp)
				for _, o := range resp.IsEdns0().Option {
					switch o := o.(type) {
					case *dns.EDNS0_ZONEVERSION:
						if o.LabelCount != 1 || o.Type != 0 || o.Version != string([]byte{byte(r.Revision() >> 24), byte(r.Revision() >> 16), byte(r.Revision() >> 8), byte(r.Revision())}) {
							t.Errorf("%+v at revision %d", o, r.Revision())
						}
						got = version
					case *dns.EDNS0_TCP_KEEPALIVE:
						if o.Timeout != 200 {
							t.Errorf("the idle time is given as %d tenths of a second, want 200", o.Timeout)
						}
						got = "TCP keepalive"
					}
				}
				if got != want {
					t.Errorf("options %q, want %q", got, want)
				}
			})
		})
	}
}

// A message that cannot be taken gets an OPT record where it has one: without,
// the client would think that EDNS is not spoken here.
func TestOPTInErrors(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cfg := townConfig(r)
	cfg.NSID = "node 1"
	s := dnsserver.NewOffline(cfg)
	f := s.NewFast()
	nsid := option(dns.EDNS0NSID, "")
	for name, c := range map[string]struct {
		change func(m *dns.Msg)
		cut    int // octets off the end
		rcode  int
		opt    bool
	}{
		"NOTIMP":               {change: func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }, rcode: dns.RcodeNotImplemented, opt: true},
		"NOTIMP, plain":        {change: func(m *dns.Msg) { m.Opcode, m.Extra = dns.OpcodeStatus, nil }, rcode: dns.RcodeNotImplemented},
		"no question":          {change: func(m *dns.Msg) { m.Question = nil }, rcode: dns.RcodeFormatError, opt: true},
		"no question, plain":   {change: func(m *dns.Msg) { m.Question, m.Extra = nil, nil }, rcode: dns.RcodeFormatError},
		"two questions":        {change: func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, rcode: dns.RcodeFormatError, opt: true},
		"two OPTs":             {change: func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }, rcode: dns.RcodeFormatError, opt: true},
		"OPT in authority":     {change: func(m *dns.Msg) { m.Ns, m.Extra = m.Extra, nil }, rcode: dns.RcodeFormatError, opt: true},
		"not the root's":       {change: func(m *dns.Msg) { m.IsEdns0().Hdr.Name = "a." }, rcode: dns.RcodeFormatError, opt: true},
		"cut in an option":     {cut: 1, rcode: dns.RcodeFormatError},
		"version 1":            {change: func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }, rcode: dns.RcodeBadVers, opt: true},
		"version 255":          {change: func(m *dns.Msg) { m.IsEdns0().SetVersion(255); opt(m, dns.EDNS0COOKIE, "1") }, rcode: dns.RcodeBadVers, opt: true},
		"Z, and rcode in OPT":  {change: func(m *dns.Msg) { m.IsEdns0().Hdr.Ttl = 0xff00ffff }, opt: true},
		"Z of the header":      {change: func(m *dns.Msg) { m.Zero = true }, opt: true},
		"not last":             {change: func(m *dns.Msg) { m.Extra = append(m.Extra, rr(t, "a. 0 IN A 10.0.0.1")) }, opt: true},
		"option beyond record": {change: func(m *dns.Msg) { m.IsEdns0().Option = nil }, cut: -1, rcode: dns.RcodeFormatError, opt: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := withOptions("web.service. AAAA", nsid)
			if c.change != nil {
				c.change(m)
			}
			b, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if c.cut < 0 { // an option's code and no more
				b = append(b, 0, 3)
				b[len(b)-3] = 2
			} else {
				b = b[:len(b)-c.cut]
			}
			var resp dns.Msg
			if err := resp.Unpack(s.PacketFrom(f, b, dnsserver.Client)); err != nil {
				t.Fatal(err)
			}
			o := resp.IsEdns0()
			if resp.Rcode != c.rcode || resp.Id != m.Id || (o != nil) != c.opt || resp.Zero {
				t.Fatalf("got %v, want %s and OPT %v", &resp, dns.RcodeToString[c.rcode], c.opt)
			}
			if o == nil {
				return
			}
			if o.Version() != 0 || o.UDPSize() != 1232 || o.Hdr.Ttl&0x7fff != 0 {
				t.Errorf("OPT %v", o)
			}
			if want := c.rcode == dns.RcodeSuccess; (len(o.Option) > 0) != want {
				t.Errorf("options %q", optionsOf(&resp))
			}
		})
	}
}

// Long names of name servers and long questions: what is for people goes
// first, and where even the rest is too much there is TC.
func TestFixedPartOverTheLimit(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	long := strings.Repeat(strings.Repeat("n", 60)+".", 4)
	cfg := townConfig(r)
	cfg.NSID = strings.Repeat("i", 100)
	for _, ns := range []string{"ns.service.", long} {
		cfg.NameServers = []dnsserver.NameServer{{Name: ns, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}
		s := dnsserver.NewOffline(cfg)
		f := s.NewFast()
		for _, name := range []string{"web.service.", "nope.service.", "service.", strings.Repeat(strings.Repeat("q", 59)+".", 4) + "service."} {
			for _, edns := range []uint16{0, 512, 600} {
				for _, rrtype := range []string{"A", "NS", "MX"} {
					m := query(name+" "+rrtype, edns)
					if o := m.IsEdns0(); o != nil {
						o.Option = []dns.EDNS0{option(dns.EDNS0NSID, ""), option(dns.EDNS0COOKIE, "12345678"), option(dns.EDNS0ZONEVERSION, "")}
					}
					packet, err := m.Pack()
					if err != nil {
						t.Fatal(err)
					}
					limit := int(max(edns, 512))
					b := s.PacketFrom(f, packet, dnsserver.Client)
					var resp dns.Msg
					if err := resp.Unpack(b); err != nil || len(b) > limit {
						t.Errorf("%s %s with EDNS %d: %d octets, %v", name, rrtype, edns, len(b), err)
					}
					if !resp.Truncated && len(resp.Answer)+len(resp.Ns) == 0 || resp.Truncated && len(resp.Ns) > 0 {
						t.Errorf("%s %s with EDNS %d: %v", name, rrtype, edns, &resp)
					}
					if over := s.Ordinary(packet, true); len(over) < len(b) {
						t.Errorf("%s %s: over TCP there is less", name, rrtype)
					}
				}
			}
		}
	}
}

// RFC 8467: blocks of 468 octets.
func TestPadding(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	crowdOf(t, r, "web", 40)
	s := dnsserver.NewOffline(townConfig(r))
	for _, q := range []string{"web.service. A", "web.service. SRV", "nope.service. A", "web.service. TXT"} {
		for _, limit := range []int{65535, 470} {
			m := s.Respond(query(q, 1232), true)
			before := packedLen(t, m)
			after := packedLen(t, dnsserver.Padded(m, limit))
			switch {
			case limit == 65535 && (after%468 != 0 || after < before || after-before >= 468+4):
				t.Errorf("%s: %d octets are padded to %d", q, before, after)
			case limit == 470 && after > max(470, before):
				t.Errorf("%s: %d octets are padded to %d of 470", q, before, after)
			}
		}
	}
}

// Over TLS a response is padded where the query is, and only there.
func TestPaddingOverTLS(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cert, pool := certificate(t)
	cfg := townConfig(r)
	cfg.TLS, cfg.TLSConfig = []string{"127.0.0.1:0"}, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s := serve(t, cfg)
	conn, err := dns.DialWithTLS("tcp", s.TLSAddrs()[0].String(), &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, q := range []string{"web.service. A", "web.service. SRV", "nope.service. A", "example.com. A"} {
		for _, padded := range []bool{true, false} {
			m := withOptions(q, option(dns.EDNS0TCPKEEPALIVE, ""))
			if padded {
				m = withOptions(q, option(dns.EDNS0TCPKEEPALIVE, ""), option(dns.EDNS0PADDING, "\x00\x00\x00"))
			}
			if err := conn.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
			b, err := conn.ReadMsgHeader(nil)
			if err != nil {
				t.Fatal(err)
			}
			if (len(b)%468 == 0) != padded {
				t.Errorf("%s, padded %v: %d octets", q, padded, len(b))
			}
		}
	}
}
