//go:build !race

package dnsserver_test

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// The third law: no query that the fast path answers allocates anything.
func TestFastAllocatesNothing(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	crowdOf(t, r, "crowd", 20)
	crowdOf(t, r, "city", 300)
	limited := townConfig(r)
	limited.RRL = 50 // so that some of the runs are below it and some over
	for _, cfg := range []dnsserver.Config{townConfig(r), limited} {
		allocatesNothing(t, dnsserver.NewOffline(cfg).NewFast())
	}
}

func allocatesNothing(t *testing.T, f dnsserver.Fast) {
	t.Helper()
	buf := make([]byte, 0, 4096)
	for _, q := range []string{
		"web.service. A", "web.service. SRV", "_web._tcp.service. SRV", "crowd.service. A", "crowd.service. SRV", "a1.web.service. A",
		"nope.service. A", "dns.service. AAAA", "wEb.SerVice. A", "x.nope.service. SRV", "noPe.service. A",
		"city.service. A", "city.service. SRV",
	} {
		for _, edns := range []uint16{0, 1232} {
			m := query(q, edns)
			if edns > 0 && q[0] == 'w' {
				m.IsEdns0().Option = []dns.EDNS0{option(dns.EDNS0COOKIE, "12345678")}
			}
			packet, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := f.Answer(buf, packet, false); !ok {
				t.Errorf("%s with EDNS %d is not taken", q, edns)
				continue
			}
			if n := testing.AllocsPerRun(100, func() { f.Answer(buf, packet, false) }); n != 0 {
				t.Errorf("%s with EDNS %d: %v allocations", q, edns, n)
			}
		}
	}
}

func BenchmarkFastPath(b *testing.B) {
	for _, q := range []string{"crowd.service. A", "crowd.service. SRV", "nope.service. A"} {
		b.Run(q, func(b *testing.B) {
			r, s := benchServer(b)
			defer r.Close()
			f, buf := s.NewFast(), make([]byte, 0, 4096)
			packet, err := query(q, 1232).Pack()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				f.Answer(buf, packet, false)
			}
		})
		b.Run(q+" ordinary", func(b *testing.B) {
			r, s := benchServer(b)
			defer r.Close()
			packet, err := query(q, 1232).Pack()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Ordinary(packet, false)
			}
		})
	}
}

// The third law on whatever the parser takes.
func FuzzFastAllocatesNothing(f *testing.F) {
	r, err := store.Open(f.Context(), store.NewMemory(), compiledConfig)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Close() })
	for _, c := range answers {
		m := query(c.question, 1232)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "2464c4abcf10c957"}}
		for _, m := range []*dns.Msg{query(c.question, 0), m} {
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	fast, buf := dnsserver.NewOffline(townConfig(r)).NewFast(), make([]byte, 0, 1<<16)
	filled := false
	f.Fuzz(func(t *testing.T, b []byte) {
		if !filled { // needs a *testing.T
			filled = true
			town(t, r)
			crowdOf(t, r, "crowd", 20)
			crowdOf(t, r, "city", 300)
		}
		for _, stream := range []bool{false, true} {
			if _, ok := fast.Answer(buf, b, stream); !ok {
				continue
			}
			// The fuzzer's own goroutines allocate now and then: three in a row
			// is the query's doing.
			n := 0.0
			for range 3 {
				if n = testing.AllocsPerRun(1, func() { fast.Answer(buf, b, stream) }); n == 0 {
					break
				}
			}
			if n > 0 {
				t.Errorf("stream %v: %v allocations for %x", stream, n, b)
			}
		}
	})
}
