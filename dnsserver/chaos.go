package dnsserver

import (
	"github.com/miekg/dns"
)

// identify answers in class CHAOS who this server is, to tell apart those that
// share an address (RFC 4892). Whatever else that class has is refused.
func (s *Server) identify(r *response) {
	q := r.Question[0]
	text := map[string]string{
		"version.bind.":   s.cfg.Version,
		"version.server.": s.cfg.Version,
		"hostname.bind.":  s.cfg.NSID,
		"id.server.":      s.cfg.NSID,
	}[lowerASCII(q.Name)]
	if text == "" {
		r.Rcode = dns.RcodeRefused
		return
	}
	r.Authoritative = true
	if q.Qtype != dns.TypeTXT && q.Qtype != dns.TypeANY {
		return
	}
	r.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS}, // TTL 0: it is of this moment
		Txt: []string{escapeText.Replace(text)},
	}}
}
