package dnsserver_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// sharedTown is the town on a backend that servers share and that it is cut off
// from after a second.
func sharedTown(t *testing.T) dnsserver.Config {
	t.Helper()
	b := &storetest.Shared{Confirmed: time.Second}
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, compiledConfig)
	t.Cleanup(done)
	town(t, r)
	cfg := townConfig(r)
	cfg.Backend, cfg.StaleFor = "etcd", 5*time.Minute
	return cfg
}

// errorsIn returns the Extended DNS Errors of a response, as code and text.
func errorsIn(m *dns.Msg) string {
	var list []string
	for _, o := range m.IsEdns0().Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			list = append(list, fmt.Sprintf("%d %s", e.InfoCode, e.ExtraText))
		}
	}
	return strings.Join(list, "; ")
}

// static are the questions whose answers hang on the configuration alone.
var static = map[string]bool{
	"service. NS": true, "ns.service. A": true,
	"b._dns-sd._udp.service. PTR": true, "lb._dns-sd._udp.service. PTR": true,
}

// The whole table while the registry is stale: the same data with TTLs of 1 and
// the error, by the ordinary path; after a while SERVFAIL.
func TestStaleAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnsserver.NewOffline(sharedTown(t))
		f := s.NewFast()
		type asked struct {
			question string
			stream   bool
		}
		said := map[asked][]*dns.Msg{} // while fresh, stale, and later
		taken := 0
		for _, until := range []time.Duration{0, 13 * time.Second, 6*time.Minute - 13*time.Second} {
			storetest.Advance(until)
			for _, c := range answers {
				for _, stream := range []bool{false, true} {
					req := query(c.question, 1232)
					packet, err := req.Pack()
					if err != nil {
						t.Fatal(err)
					}
					if _, ok := f.Answer(nil, packet, stream); ok {
						taken++
						if until > 0 {
							t.Errorf("%s: the fast path answers", c.question)
						}
					}
					a := asked{c.question, stream}
					said[a] = append(said[a], s.Respond(req, stream))
				}
			}
		}
		if taken == 0 {
			t.Error("the fast path takes nothing while in touch")
		}
		for a, m := range said {
			if strings.Contains(errorsIn(m[0]), "cut off") {
				t.Errorf("%s: in touch it says %s", a.question, errorsIn(m[0]))
			}
			checkStale(t, a.question, m[0], m[1], m[2])
		}
	})
}

func checkStale(t *testing.T, question string, fresh, stale, late *dns.Msg) {
	t.Helper()
	if fresh.Rcode == dns.RcodeRefused || static[strings.ToLower(question[:strings.IndexByte(question, 32)])+question[strings.IndexByte(question, 32):]] {
		want := strings.Join(text(fresh.Answer), "\n")
		if got := strings.Join(text(late.Answer), "\n"); late.Rcode != fresh.Rcode || got != want || errorsIn(late) != errorsIn(fresh) {
			t.Errorf("%s: it has nothing to do with the registry, but cut off it is %d %s, want %s", question, late.Rcode, got, want)
		}
		return
	}
	want := "3 cut off from etcd for 12s"
	if fresh.Rcode == dns.RcodeNameError {
		want = "19 cut off from etcd for 12s"
	}
	if stale.Rcode != fresh.Rcode || !strings.HasPrefix(errorsIn(stale), want) {
		t.Errorf("%s: %d with %q, want %d with %q", question, stale.Rcode, errorsIn(stale), fresh.Rcode, want)
	}
	sections := [][2][]dns.RR{{fresh.Answer, stale.Answer}, {fresh.Ns, stale.Ns}}
	if fresh.Answer != nil && !stale.Truncated && len(fresh.Extra) == len(stale.Extra) {
		sections = append(sections, [2][]dns.RR{fresh.Extra, stale.Extra})
	}
	for _, s := range sections {
		for _, rr := range s[0] {
			if rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl = min(rr.Header().Ttl, 1)
			}
			if soa, ok := rr.(*dns.SOA); ok {
				soa.Minttl = min(soa.Minttl, 1)
			}
		}
		if a, b := strings.Join(text(s[0]), "\n"), strings.Join(text(s[1]), "\n"); a != b {
			t.Errorf("%s: stale it has\n%s\nwant\n%s", question, b, a)
		}
	}
	if late.Rcode != dns.RcodeServerFailure || len(late.Answer)+len(late.Ns) > 0 || errorsIn(late) != "14 cut off from etcd for 5m: ask another server" {
		t.Errorf("%s: after --stale-for %v", question, late)
	}
}

// Without StaleFor there is no stale answer at all.
func TestStaleForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedTown(t)
		cfg.StaleFor = 0
		storetest.Advance(time.Second + 1)
		if m := dnsserver.NewOffline(cfg).Respond(query("web.service. A", 1232), false); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("got %v", m)
		}
	})
}

// Whether the registry is stale is seen when a query is read, without anybody
// having run before: as after a SIGSTOP.
func TestStaleIsSeenByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := dnsserver.NewOffline(sharedTown(t)).NewFast()
		packet, err := query("web.service. A", 1232).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Answer(nil, packet, false); !ok {
			t.Error("the fast path has no answer while the registry is confirmed")
		}
		storetest.Advance(time.Second + 1)
		if _, ok := f.Answer(nil, packet, false); ok {
			t.Error("the fast path answers when it is no longer")
		}
	})
}

// Secondaries get neither a transfer nor the SOA that stands before one.
func TestStaleTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := sharedTown(t)
		cfg.Transfer = everybody
		s := dnsserver.NewOffline(cfg)
		axfr, ixfr := query("service. AXFR", 1232), query("service. IXFR", 1232)
		ixfr.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "service.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: ".", Mbox: "."}}
		if !s.Transfers(axfr) || !s.Transfers(ixfr) {
			t.Error("in touch there is no transfer")
		}
		storetest.Advance(2 * time.Second)
		for _, req := range []*dns.Msg{axfr, ixfr, query("service. SOA", 1232)} {
			if s.Transfers(req) {
				t.Errorf("%v begins a transfer", req.Question)
			}
			if m := s.Respond(req, true); m.Rcode != dns.RcodeServerFailure || !strings.HasPrefix(errorsIn(m), "14 cut off") {
				t.Errorf("%v: %v", req.Question, m)
			}
		}
	})
}
