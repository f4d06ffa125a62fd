package dnsserver_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// answerFast asks the fast path, which must have an answer.
func answerFast(t *testing.T, f dnsserver.Fast, q string, edns uint16) *dns.Msg {
	t.Helper()
	packet, err := query(q, edns).Pack()
	if err != nil {
		t.Fatal(err)
	}
	b, ok := f.Answer(nil, packet, false)
	if !ok {
		t.Fatalf("%s is not taken", q)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

// A part of a crowd never says more than the leases in it allow, and has none
// that has ended.
func TestCrowdTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, compiledConfig)
		defer done()
		f := dnsserver.NewOffline(townConfig(r)).NewFast()
		ends := map[string]store.Instant{}
		for k := range 300 {
			addr := fmt.Sprintf("10.3.%d.%d", k>>8, k&255)
			i := instance("city", fmt.Sprintf("i%d", k), addr, lease(time.Duration(3+k)*time.Second))
			storetest.Register(t, r, i)
			ends[addr], ends[i.Label+".city.service."] = r.Now().Add(i.TTL), r.Now().Add(i.TTL)
		}
		for r.Now() < store.Instant(40*time.Second) {
			for _, q := range []string{"city.service. A", "city.service. SRV"} {
				m := answerFast(t, f, q, 1232)
				if !m.Truncated || len(m.Answer) < 20 {
					t.Fatalf("%s: TC %v with %d records", q, m.Truncated, len(m.Answer))
				}
				for _, rr := range m.Answer {
					who := ""
					switch rr := rr.(type) {
					case *dns.A:
						who = rr.A.String()
					case *dns.SRV:
						who = rr.Target
					}
					// A cache may keep it a second longer than the TTL.
					until := r.Now().Add(time.Duration(rr.Header().Ttl)*time.Second + time.Second)
					if end := ends[who]; end <= r.Now() || rr.Header().Ttl > 0 && until > end {
						t.Fatalf("at %v %s is answered with TTL %d; its lease ends at %v", r.Now(), who, rr.Header().Ttl, end)
					}
				}
			}
			storetest.Advance(370 * time.Millisecond)
			if len(r.Service("city").All()) <= 256 {
				break
			}
		}
	})
}

// Those that share an address count once: however many there are, the answer
// is whole. So many that their leases take long to look at are left alone.
func TestCrowdOfFewAddresses(t *testing.T) {
	for n, taken := range map[int]bool{300: true, 1024: true, 1025: false} {
		r, _ := storetest.Open(t, memory, compiledConfig)
		for k := range n {
			storetest.Register(t, r, instance("city", fmt.Sprintf("i%d", k), fmt.Sprintf("10.3.0.%d", k%5)))
		}
		s := dnsserver.NewOffline(townConfig(r))
		packet, err := query("city.service. A", 1232).Pack()
		if err != nil {
			t.Fatal(err)
		}
		b, ok := s.NewFast().Answer(nil, packet, false)
		if ok != taken {
			t.Errorf("%d instances at five addresses: taken %v, want %v", n, ok, taken)
		}
		var m dns.Msg
		if ok && (m.Unpack(b) != nil || m.Truncated || len(m.Answer) != 5) {
			t.Errorf("%d instances: TC %v with %d records, want all 5", n, m.Truncated, len(m.Answer))
		}
		if m := s.Respond(query("city.service. A", 1232), false); m.Truncated || len(m.Answer) != 5 {
			t.Errorf("%d instances, ordinary: TC %v with %d records, want all 5", n, m.Truncated, len(m.Answer))
		}
	}
}

// Who is in the part is drawn by weight, as the order of a whole answer is.
func TestCrowdByWeight(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	for k := range 300 {
		w := uint16(1)
		if k == 7 {
			w = 300
		}
		storetest.Register(t, r, instance("city", fmt.Sprintf("i%d", k), fmt.Sprintf("10.3.%d.%d", k>>8, k&255), weight(w)))
	}
	s := dnsserver.NewOffline(townConfig(r))
	f := s.NewFast()
	const draws = 4000
	for name, ask := range map[string]func() *dns.Msg{
		"fast":     func() *dns.Msg { return answerFast(t, f, "city.service. A", 0) },
		"ordinary": func() *dns.Msg { return s.Respond(query("city.service. A", 0), false) },
	} {
		first := 0
		for range draws {
			if ask().Answer[0].(*dns.A).A.String() == "10.3.0.7" {
				first++
			}
		}
		if got := float64(first) / draws; got < 0.46 || got > 0.54 { // 300 of 599
			t.Errorf("%s: the heavy one comes first in %.3f of the answers, want 0.5", name, got)
		}
	}
}
