package dnsserver

import (
	"time"

	"github.com/miekg/dns"
)

// accept decides on a message's header alone. Responses are dropped without a
// word, so that no two servers can be set to answering each other.
func accept(h dns.Header) dns.MsgAcceptAction {
	const (
		response = 1 << 15
		opcode   = 0xf
	)
	switch {
	case h.Bits&response != 0:
		return dns.MsgIgnore
	case int(h.Bits>>11)&opcode != dns.OpcodeQuery:
		return dns.MsgRejectNotImplemented
	case h.Qdcount != 1 || h.Ancount != 0 || h.Nscount > 1 || h.Arcount > 2:
		return dns.MsgReject // FORMERR; IXFR has a SOA in authority, OPT and TSIG are additional
	}
	return dns.MsgAccept
}

// respond makes the response to a query that accept let through.
func (s *Server) respond(req *dns.Msg, from client) *dns.Msg {
	r := s.reply(req, from)
	if r.Rcode != dns.RcodeSuccess {
		return r.Msg
	}
	if code, ok := gate(req, from); !ok {
		r.Rcode = code
		return r.Msg
	}
	q := question{name: req.Question[0].Name, rrtype: req.Question[0].Qtype}
	var inZone bool
	if q.labels, inZone = below(s.zone.name, q.name); !inZone {
		r.Rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, "the zone here is "+s.zone.name)
		return r.Msg
	}
	if qtype := q.rrtype; qtype == dns.TypeAXFR || qtype == dns.TypeIXFR {
		s.refuseTransfer(r, q, serialOf(req), from)
		return r.Msg
	}
	r.Authoritative = true
	if whole := r.fill(s.zone, s.settle(q)); !whole {
		s.counts[from.transport].cut.Add(1)
	}
	return r.Msg
}

// gate returns the response code for a query that gets no answer whatever its
// name is.
func gate(req *dns.Msg, from client) (rcode int, ok bool) {
	opts := 0
	for k, rr := range req.Extra {
		switch rr.Header().Rrtype {
		case dns.TypeOPT:
			opts++
		case dns.TypeTSIG:
			if k < len(req.Extra)-1 {
				return dns.RcodeFormatError, false // RFC 8945 section 5.1
			}
		}
	}
	if opts > 1 {
		return dns.RcodeFormatError, false // RFC 6891 section 6.1.1
	}
	if from.sig.failed() {
		return dns.RcodeNotAuth, false // RFC 8945 section 5.2
	}
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers, false
	}
	if class := req.Question[0].Qclass; class != dns.ClassINET && class != dns.ClassANY {
		return dns.RcodeRefused, false
	}
	return 0, true
}

// settle answers the question from a state that was still the present one
// after the registry had noted how long caches may keep the answer. Otherwise
// somebody who deregisters in between would be told too early that no cache
// holds the instance.
func (s *Server) settle(q question) answer {
	for {
		now := s.registry.Now()
		a := s.zone.answer(s.registry, q, now)
		// A cache may keep a record up to a second longer than its TTL.
		until := now.Add(time.Duration(a.keep)*time.Second + time.Second)
		if a.view == nil || a.view.HandOut(until) {
			return a
		}
	}
}
