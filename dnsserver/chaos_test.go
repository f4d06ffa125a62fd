package dnsserver_test

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestChaos(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	cfg := townConfig(r)
	silent := dnsserver.NewOffline(cfg)
	cfg.NSID, cfg.Version = `ns1 "the \first"`, "roster v1.2.3"
	s := dnsserver.NewOffline(cfg)
	for _, c := range []struct {
		question string
		rcode    int
		want     string
	}{
		{"version.bind. TXT", 0, `version.bind. 0 CH TXT "roster v1.2.3"`},
		{"Version.Server. TXT", 0, `Version.Server. 0 CH TXT "roster v1.2.3"`},
		{"hostname.bind. TXT", 0, `hostname.bind. 0 CH TXT "ns1 \"the \\first\""`},
		{"id.server. ANY", 0, `id.server. 0 CH TXT "ns1 \"the \\first\""`},
		{"id.server. A", 0, ""},
		{"authors.bind. TXT", dns.RcodeRefused, ""},
		{"web.service. TXT", dns.RcodeRefused, ""},
		{"service. AXFR", dns.RcodeRefused, ""},
		{"id.server. AXFR", 0, ""},
	} {
		m := query(c.question, 1232)
		m.Question[0].Qclass = dns.ClassCHAOS
		resp := s.Respond(m, true)
		if got := strings.Join(text(resp.Answer), "\n"); resp.Rcode != c.rcode || got != c.want || len(resp.Ns) > 0 {
			t.Errorf("%s: %s %q, want %q", c.question, dns.RcodeToString[resp.Rcode], got, c.want)
		}
		packedLen(t, resp)
		if resp := silent.Respond(m, true); resp.Rcode != dns.RcodeRefused {
			t.Errorf("%s of a server that is to tell nothing: %s", c.question, dns.RcodeToString[resp.Rcode])
		}
	}
	// In class IN these are names like others.
	if resp := s.Respond(query("version.bind. TXT", 0), false); resp.Rcode != dns.RcodeRefused {
		t.Errorf("version.bind in class IN: %s", dns.RcodeToString[resp.Rcode])
	}
}
