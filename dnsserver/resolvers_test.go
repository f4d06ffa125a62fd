package dnsserver_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// captured is one query that a resolver has sent; testdata/README.md says how
// they were captured.
type captured struct {
	file   string
	stream bool
	fast   bool // the fast path answers it
	packet []byte
}

func (c captured) String() string { return fmt.Sprintf("%s %x", c.file, c.packet) }

func readCaptured(tb testing.TB) []captured {
	tb.Helper()
	files, err := filepath.Glob("testdata/resolvers/*.txt")
	if err != nil || len(files) < 10 {
		tb.Fatalf("captured packets: %q, %v", files, err)
	}
	var list []captured
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) != 5 {
				tb.Fatalf("%s: %q", file, line)
			}
			packet, err := hex.DecodeString(f[2])
			if err != nil {
				tb.Fatalf("%s: %q: %v", file, line, err)
			}
			list = append(list, captured{file, f[0] == "tcp", f[1] == "fast", packet})
		}
	}
	return list
}

// capturedTown is what was registered while they were captured.
func capturedTown(t *testing.T, r *store.Registry) {
	t.Helper()
	storetest.Register(t, r, instance("web", "a1", "10.0.0.1 2001:db8::1", tags("v2", "eu"), named("metrics", 9090), meta("build", "1234")))
	storetest.Register(t, r, instance("web", "a2", "10.0.0.2", tags("v2")))
	crowdOf(t, r, "city", 300)
}

// capturedAnswers is what there is to say to their questions, in any order;
// nil is NODATA. Names that are not here do not exist.
var capturedAnswers = map[string][]string{
	"web.service. A":         {"10.0.0.1", "10.0.0.2"},
	"web.service. AAAA":      {"2001:db8::1"},
	"web.service. SRV":       {"10 10 8080 a1.web.service.", "10 10 8080 a2.web.service."},
	"web.service. ANY":       {`"RFC8482" ""`},
	"web.service. NS":        nil,
	"_web._tcp.service. SRV": {"10 10 8080 a1.web.service.", "10 10 8080 a2.web.service."},
	"_web._tcp.service. A":   nil,
	"_tcp.service. A":        nil,
	"_tcp.service. NS":       nil,
	"a1.web.service. TXT":    {`"build=1234"`},
	"a1.web.service. A":      {"10.0.0.1"},
	"v2.web.service. A":      {"10.0.0.1", "10.0.0.2"},
	"v2.web.service. NS":     nil,
	"eu.v2.web.service. A":   {"10.0.0.1"},
	"service. NS":            {"ns.service."},
	"service. SOA":           {"SOA"},
}

// What real resolvers send is answered right, within the size that they take,
// complete or with TC, and by the path that is meant to.
func TestCapturedPackets(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	capturedTown(t, r)
	cfg := townConfig(r)
	cfg.NSID = "node1"
	s := dnsserver.NewOffline(cfg)
	f := s.NewFast()
	for _, c := range readCaptured(t) {
		fast, taken := f.Answer(make([]byte, 0, 4096), c.packet, c.stream)
		if taken != c.fast {
			t.Errorf("%v: the fast path takes it: %v, want %v", c, taken, c.fast)
		}
		checkCaptured(t, c, s.Ordinary(c.packet, c.stream))
		if taken {
			checkCaptured(t, c, fast)
			sameOver(t, s, f, c.packet, c.stream)
		}
	}
}

func checkCaptured(t *testing.T, c captured, b []byte) {
	t.Helper()
	var req, resp dns.Msg
	// The library does not know that ZONEVERSION is empty in a query.
	empty, masked := []byte{0, dns.EDNS0ZONEVERSION, 0, 0}, []byte{0xff, 0xf0, 0, 0}
	if err := req.Unpack(bytes.ReplaceAll(c.packet, empty, masked)); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	if err := resp.Unpack(b); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	o, limit := req.IsEdns0(), 512
	if o != nil {
		limit = int(min(max(o.UDPSize(), 512), 1232))
	}
	switch {
	case c.stream && resp.Truncated, !c.stream && len(b) > limit:
		t.Errorf("%v: %d octets of %d, TC %v", c, len(b), limit, resp.Truncated)
	case resp.Id != req.Id || !resp.Response || resp.RecursionDesired != req.RecursionDesired:
		t.Errorf("%v: bad header %v", c, &resp)
	case (resp.IsEdns0() != nil) != (o != nil):
		t.Errorf("%v: OPT %v", c, resp.IsEdns0())
	}
	if req.Question[0].Qclass == dns.ClassCHAOS {
		return // there are tests of that
	}
	if code, special := specialRcode(&req, o); special {
		if resp.Rcode != code || len(resp.Answer) > 0 {
			t.Errorf("%v: got %v, want %s", c, &resp, dns.RcodeToString[code])
		}
		return
	}
	checkCapturedRecords(t, c, req.Question[0], &resp)
}

// specialRcode is the response code of a query that is not answered from the
// registry.
func specialRcode(req *dns.Msg, o *dns.OPT) (int, bool) {
	switch q := req.Question[0]; {
	case req.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented, true
	case o != nil && o.Version() != 0:
		return dns.RcodeBadVers, true
	case q.Qtype == dns.TypeAXFR || !dns.IsSubDomain("service.", strings.ToLower(q.Name)):
		return dns.RcodeRefused, true
	}
	return 0, false
}

func checkCapturedRecords(t *testing.T, c captured, q dns.Question, resp *dns.Msg) {
	t.Helper()
	question := strings.ToLower(q.Name) + " " + dns.TypeToString[q.Qtype]
	if resp.Question[0] != q || !resp.Authoritative {
		t.Errorf("%v: %v", c, resp)
	}
	var got []string
	for _, rr := range resp.Answer {
		if rr.Header().Name != q.Name {
			t.Errorf("%v: the owner is %s", c, rr.Header().Name)
		}
		text := strings.TrimPrefix(rr.String(), rr.Header().String())
		if q.Qtype == dns.TypeSOA {
			text = "SOA"
		}
		got = append(got, text)
	}
	slices.Sort(got)
	want, exists := capturedAnswers[question]
	if strings.HasPrefix(question, "city.service. ") {
		if resp.Truncated == (len(got) == 300) || c.stream && len(got) != 300 || len(slices.Compact(got)) != len(got) {
			t.Errorf("%v: %s: %d records, TC %v", c, question, len(got), resp.Truncated)
		}
		return
	}
	switch {
	case !exists && (resp.Rcode != dns.RcodeNameError || !strings.Contains(question, "nope.service.")):
		t.Errorf("%v: %s has %s, and is not in the table", c, question, dns.RcodeToString[resp.Rcode])
	case exists && (resp.Rcode != dns.RcodeSuccess || !slices.Equal(got, want) || resp.Truncated):
		t.Errorf("%v: %s: got %q, %s, want %q", c, question, got, dns.RcodeToString[resp.Rcode], want)
	case len(got) == 0 && len(resp.Ns) != 1:
		t.Errorf("%v: %s: no SOA in %v", c, question, resp)
	}
}
