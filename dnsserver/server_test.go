package dnsserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// serve runs a server until the test ends.
func serve(t *testing.T, cfg dnsserver.Config) *dnsserver.Server {
	t.Helper()
	s, err := dnsserver.New(cfg)
	if err != nil {
		t.Fatalf("start the server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); g.Wait() })
	return s
}

// run runs a test over every transport.
func run(t *testing.T, f func(t *testing.T, network string)) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) { f(t, network) })
	}
}

func exchange(t *testing.T, s *dnsserver.Server, network string, req *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, UDPSize: dns.MaxMsgSize, Timeout: 10 * time.Second}
	resp, _, err := c.Exchange(req, s.Addrs()[0].String())
	if err != nil {
		t.Fatalf("exchange over %s: %v", network, err)
	}
	return resp
}

// crowd registers n instances of web.
func crowd(t *testing.T, r *store.Registry, n int) {
	t.Helper()
	for k := range n {
		addrs := fmt.Sprintf("10.1.%d.%d 2001:db8::%x", k>>8, k&255, k+1)
		storetest.Register(t, r, instance("web", fmt.Sprintf("i%04d", k), addrs, priority(uint16(10+k%2))))
	}
}

// Sizes: what does not fit over UDP is said to be cut, and TCP has it all.
func TestSizes(t *testing.T) {
	for _, n := range []int{1, 2, 5, 10, 15, 20, 22, 30, 100, 500} {
		r, _ := storetest.Open(t, memory, store.Config{})
		crowd(t, r, n)
		s := dnsserver.NewOffline(townConfig(r))
		for _, q := range []string{"web.service. A", "web.service. AAAA", "web.service. SRV"} {
			all := n
			if !strings.HasSuffix(q, "SRV") {
				all = (n + 1) / 2 // the best priority's
			}
			for _, edns := range []uint16{0, 100, 512, 700, 1232, 4096, 65535} {
				limit := 512
				if edns > 0 {
					limit = int(min(max(edns, 512), 1232))
				}
				resp := s.Respond(query(q, edns), false)
				size := packedLen(t, resp)
				what := fmt.Sprintf("%d instances, %s, EDNS %d", n, q, edns)
				if size > limit {
					t.Errorf("%s: %d octets of %d", what, size, limit)
				}
				if !resp.Truncated && len(resp.Answer) != all {
					t.Errorf("%s: %d records of %d, and TC is not set", what, len(resp.Answer), all)
				}
				if resp.Truncated && len(text(resp.Extra)) > 0 {
					t.Errorf("%s: cut, with additional records", what)
				}
				if resp.Truncated && len(resp.Answer) >= all {
					t.Errorf("%s: TC is set for nothing", what)
				}
				// No more could have been answered: an SRV record takes 18
				// octets and the target, an address record 28 at most.
				if resp.Truncated && limit-size > 40 {
					t.Errorf("%s: cut to %d octets of %d", what, size, limit)
				}
			}
			if resp := s.Respond(query(q, 0), true); resp.Truncated || len(resp.Answer) != all {
				t.Errorf("%d instances, %s over TCP: TC %v, %d records of %d", n, q, resp.Truncated, len(resp.Answer), all)
			}
		}
	}
}

func packedLen(t *testing.T, m *dns.Msg) int {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("pack: %v", err)
	}
	if len(b) > m.Len() {
		t.Errorf("Len says %d, packed it has %d", m.Len(), len(b))
	}
	return len(b)
}

// At 1232 octets additional records go before an answer does, and whole
// RRsets of them.
func TestAdditionalGoesFirst(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	crowd(t, r, 22)
	s := dnsserver.NewOffline(townConfig(r))
	resp := s.Respond(query("web.service. SRV", 1232), false)
	extra := text(resp.Extra)
	if resp.Truncated || len(resp.Answer) != 22 || len(extra) == 0 || len(extra) == 44 {
		t.Errorf("TC %v, %d answers, %d additional; want no TC, all 22, some", resp.Truncated, len(resp.Answer), len(extra))
	}
	full := s.Respond(query("web.service. SRV", 1232), true)
	if len(text(full.Extra)) != 44 {
		t.Errorf("over TCP there are %d additional records, want all 44", len(text(full.Extra)))
	}
}

// More than any message holds: the same best ones each time, and the client is
// told.
func TestBeyondTCP(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	crowd(t, r, 5000)
	s := dnsserver.NewOffline(townConfig(r))
	for _, q := range []string{"web.service. SRV", "web.service. AAAA"} {
		var first []string
		for range 3 {
			resp := s.Respond(query(q, 1232), true)
			if size := packedLen(t, resp); size > 65535 || size < 65000 {
				t.Errorf("%s: %d octets", q, size)
			}
			if resp.Truncated {
				t.Errorf("%s: TC over TCP", q)
			}
			lines := text(resp.Answer)
			if first == nil {
				first = lines
			} else if !slices.Equal(first, lines) {
				t.Errorf("%s: other members than the last time", q)
			}
			for _, rr := range resp.Answer {
				if srv, ok := rr.(*dns.SRV); ok && srv.Priority != 10 {
					t.Fatalf("%s: priority %d, while not all of priority 10 are there", q, srv.Priority)
				}
			}
			ede := resp.IsEdns0().Option[0].(*dns.EDNS0_EDE).ExtraText
			all := map[string]int{"web.service. SRV": 5000, "web.service. AAAA": 2500}[q]
			if want := fmt.Sprintf("%d of %d records", len(lines), all); !strings.HasPrefix(ede, want) {
				t.Errorf("%s: the client is told %q, want %q", q, ede, want)
			}
		}
	}
}

// SRV targets are never compressed (RFC 2782): each must stand in full.
func TestTargetsAreNotCompressed(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	crowd(t, r, 3)
	b, err := dnsserver.NewOffline(townConfig(r)).Respond(query("web.service. SRV", 0), false).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for k := range 3 {
		if want := fmt.Sprintf("\x05i%04d\x03web\x07service\x00", k); !strings.Contains(string(b), want) {
			t.Errorf("the target of i%04d is compressed", k)
		}
	}
	if n := strings.Count(string(b), "\x03web\x07service\x00"); n != 4 {
		t.Errorf("web.service. stands there %d times, want 4: the question and three targets", n)
	}
}

func TestHeaders(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	town(t, r)
	s := serve(t, townConfig(r))
	run(t, func(t *testing.T, network string) {
		for name, c := range map[string]struct {
			change func(*dns.Msg)
			rcode  int
		}{
			"NOTIFY":      {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
			"UPDATE":      {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
			"no question": {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
			"two":         {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
			"an answer":   {func(m *dns.Msg) { m.Answer = []dns.RR{rr(t, "web.service. 1 IN A 10.0.0.9")} }, dns.RcodeFormatError},
			"two OPTs":    {func(m *dns.Msg) { m.SetEdns0(512, false); m.SetEdns0(512, false) }, dns.RcodeFormatError},
			"EDNS 1":      {func(m *dns.Msg) { m.SetEdns0(512, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
			"CHAOS":       {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
			"class ANY":   {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }, dns.RcodeSuccess},
			"RD":          {func(m *dns.Msg) { m.RecursionDesired = true }, dns.RcodeSuccess},
			"DO":          {func(m *dns.Msg) { m.SetEdns0(4096, true) }, dns.RcodeSuccess},
			"odd option":  {func(m *dns.Msg) { m.SetEdns0(512, false); opt(m, 65001, "odd") }, dns.RcodeSuccess},
		} {
			t.Run(name, func(t *testing.T) {
				req := query("web.service. AAAA", 0)
				c.change(req)
				resp := exchange(t, s, network, req)
				if resp.Rcode != c.rcode || resp.Id != req.Id || !resp.Response || resp.RecursionDesired != req.RecursionDesired {
					t.Errorf("got %v, want %s", resp, dns.RcodeToString[c.rcode])
				}
				if (resp.Rcode == dns.RcodeSuccess) != (len(resp.Answer) == 1) {
					t.Errorf("%d records with %s", len(resp.Answer), dns.RcodeToString[resp.Rcode])
				}
				if o := req.IsEdns0(); o != nil && c.rcode != dns.RcodeFormatError {
					got := resp.IsEdns0()
					if got == nil || got.Version() != 0 || got.UDPSize() != 1232 || got.Do() != o.Do() {
						t.Errorf("OPT %v", got)
					}
				}
			})
		}
	})
}

func opt(m *dns.Msg, code uint16, data string) {
	o := m.IsEdns0()
	o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: code, Data: []byte(data)})
}

func rr(t *testing.T, line string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A response is never answered, and what is no message neither; the server
// goes on.
func TestNoAnswerToAResponse(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	town(t, r)
	s := serve(t, townConfig(r))
	c, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	response := query("web.service. A", 0)
	response.Response = true
	b, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q := query("web.service. A", 0)
	sentinel, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range [][]byte{b, {}, {1}, sentinel[:11], sentinel} {
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	// The loop takes packets in order, but answers may overtake each other, so
	// give an answer to the others its chance: two sentinels, one after the other.
	buf := make([]byte, 4096)
	for range 2 {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		var resp dns.Msg
		if err := resp.Unpack(buf[:n]); err != nil || resp.Id != q.Id {
			t.Fatalf("something else was answered: %v, %v", err, resp)
		}
		if _, err := c.Write(sentinel); err != nil {
			t.Fatal(err)
		}
	}
}

// Many queries on one connection, sent before any answer is read.
func TestPipelining(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	town(t, r)
	s := serve(t, townConfig(r))
	c, err := dns.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waiting := map[uint16]bool{}
	for k := range 200 {
		m := query("web.service. SRV", 1232)
		m.Id = uint16(k)
		waiting[m.Id] = true
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for len(waiting) > 0 {
		resp, err := c.ReadMsg()
		if err != nil {
			t.Fatalf("%d are not answered: %v", len(waiting), err)
		}
		if !waiting[resp.Id] || len(resp.Answer) != 3 {
			t.Fatalf("unexpected %v", resp)
		}
		delete(waiting, resp.Id)
	}
}

func TestListen(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	first := serve(t, dnsserver.Config{Registry: r, Listen: []string{"127.0.0.1:0", "[::1]:0"}})
	if len(first.Addrs()) != 2 || first.Addrs()[0].Port() == 0 {
		t.Fatalf("it listens on %v", first.Addrs())
	}
	taken := first.Addrs()[0].String()
	_, err := dnsserver.New(dnsserver.Config{Registry: r, Listen: []string{"127.0.0.1:0", taken}})
	if err == nil || !strings.Contains(err.Error(), "--dns") || !strings.Contains(err.Error(), taken) {
		t.Errorf("a port in use: %v", err)
	}
	for _, a := range first.Addrs() {
		for _, network := range []string{"udp", "tcp"} {
			c := dns.Client{Net: network}
			if _, _, err := c.Exchange(query("service. SOA", 0), a.String()); err != nil {
				t.Errorf("%s %s: %v", network, a, err)
			}
		}
	}
}

// All addresses of both families, by two listeners on one port or by one.
func TestWildcards(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	first := serve(t, dnsserver.Config{Registry: r, Listen: []string{"0.0.0.0:0"}, MaxTTL: 30})
	port := first.Addrs()[0].Port()
	serve(t, dnsserver.Config{Registry: r, Listen: []string{fmt.Sprintf("[::]:%d", port)}, MaxTTL: 30})
	both := serve(t, dnsserver.Config{Registry: r, Listen: []string{":0"}, MaxTTL: 30})
	for _, port := range []uint16{port, both.Addrs()[0].Port()} {
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			for _, network := range []string{"udp", "tcp"} {
				// A socket that is connected takes answers from there only.
				c := dns.Client{Net: network}
				resp, _, err := c.Exchange(query("ns.service. A", 0), net.JoinHostPort(host, fmt.Sprint(port)))
				if err != nil || len(resp.Answer) == 0 {
					t.Errorf("%s to %s port %d: %v", network, host, port, err)
				}
			}
		}
	}
}

func TestStop(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s, err := dnsserver.New(dnsserver.Config{Registry: r})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("at once"))
	if err := s.Serve(ctx); err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := net.Dial("tcp", s.Addrs()[0].String()); err == nil {
		t.Error("it still listens")
	}
}

func TestZoneNames(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"service", "service."}, {"Service.Consul.", "service.consul."}, {"", ""}, {".", ""}, {"a b", ""}, {"m\u00fcnchen.", ""}, {"a..b", ""},
		{strings.Repeat("a.", 70), ""},
	} {
		if got, err := dnsserver.Zone(c.in); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Zone(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	got := dnsserver.Reserved("service.", []dnsserver.NameServer{
		{Name: "ns.service."}, {Name: "NS1.dc.Service."}, {Name: "ns.example.org."},
	})
	if len(got) != 2 || got["ns"] == "" || got["dc"] == "" {
		t.Errorf("reserved are %v, want ns and dc", got)
	}
}

// Name servers deeper in the zone, and outside of it.
func TestNameServers(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s := dnsserver.NewOffline(dnsserver.Config{Registry: r, MaxTTL: 30, NegativeTTL: 1, NameServers: []dnsserver.NameServer{
		{Name: "ns1.dc.service.", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}},
		{Name: "ns.example.org.", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
	}})
	resp := s.Respond(query("service. NS", 1232), false)
	checkSection(t, "answer", resp.Answer, []string{"service. 30 IN NS ns1.dc.service.", "service. 30 IN NS ns.example.org."}, 0)
	checkSection(t, "additional", resp.Extra, []string{"ns1.dc.service. 30 IN A 192.0.2.1", "ns1.dc.service. 30 IN AAAA 2001:db8::1"}, 0)
	for question, rcode := range map[string]int{
		"ns1.dc.service. A": dns.RcodeSuccess, "dc.service. A": dns.RcodeSuccess, "ns2.dc.service. A": dns.RcodeNameError,
	} {
		if resp := s.Respond(query(question, 0), false); resp.Rcode != rcode {
			t.Errorf("%s: %s, want %s", question, dns.RcodeToString[resp.Rcode], dns.RcodeToString[rcode])
		}
	}
}
