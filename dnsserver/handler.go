package dnsserver

import (
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
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
func (s *Server) respond(req *dns.Msg, from client) *response {
	r := s.reply(req, from)
	if code, ok := gate(req, from); !ok {
		r.Rcode = code
	} else if r.Rcode == dns.RcodeSuccess {
		s.decide(r, req, from)
	}
	r.end(from)
	return r
}

// decide puts into the response what there is to say to the query.
func (s *Server) decide(r *response, req *dns.Msg, from client) {
	if req.Question[0].Qclass == dns.ClassCHAOS {
		s.identify(r)
		return
	}
	q := question{name: req.Question[0].Name, rrtype: req.Question[0].Qtype}
	z := s.zones.of(q.name)
	if z == nil {
		r.Rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, s.zones.names(s.zone))
		return
	}
	q.labels, _ = below(z.name, q.name)
	if q.rrtype == dns.TypeAXFR || q.rrtype == dns.TypeIXFR {
		s.refuseTransfer(r, z, q, serialOf(req), from)
		return
	}
	if !r.stream {
		q.most = r.limit/smallestRecord + 1 // with so many TC is sure
	}
	r.Authoritative = true
	r.zone = z.name
	a, since, stale := s.settle(z, q)
	switch stale = stale && !a.own; {
	case stale && (since >= s.cfg.StaleFor || s.forSecondary(q, from)):
		s.refuseStale(r, since)
		return
	case stale:
		s.markStale(r, a.rcode, since)
	}
	r.addVersion(z.soa(a.at), q)
	if whole := r.fill(z, a); !whole {
		s.counts[from.transport].cut.Add(1)
	}
}

// gate returns the response code for a query that gets no answer whatever its
// name is.
func gate(req *dns.Msg, from client) (rcode int, ok bool) {
	for k, rr := range req.Extra {
		if t, ok := rr.(*dns.TSIG); ok && (k < len(req.Extra)-1 || hollow(t)) {
			return dns.RcodeFormatError, false // RFC 8945 section 5.1
		}
	}
	switch class := req.Question[0].Qclass; {
	case from.opt != nil && from.opt.broken:
		return dns.RcodeFormatError, false // RFC 6891 sections 6.1.1 and 6.1.2
	case from.sig.failed():
		return dns.RcodeNotAuth, false // RFC 8945 section 5.2
	case from.opt != nil && from.opt.version != 0:
		return dns.RcodeBadVers, false // RFC 6891 section 6.1.3
	case class != dns.ClassINET && class != dns.ClassANY && class != dns.ClassCHAOS:
		return dns.RcodeRefused, false
	}
	return 0, true
}

// settle answers the question from a state that was still the present one
// after the registry had noted how long caches may keep the answer. Otherwise
// somebody who deregisters in between would be told too early that no cache
// holds the instance. It says as well whether the registry was stale then.
func (s *Server) settle(fresh *zone, q question) (a answer, since time.Duration, stale bool) {
	const tries = 4
	for try := 1; ; try++ {
		var now store.Instant
		now, since, stale = s.registry.Present()
		z := fresh
		if stale {
			z = fresh.whenStale()
		}
		if try == tries {
			return z.answer(noted{s.registry, now, now.Add(keptFor(z.maxTTL))}, q, now), since, stale
		}
		a = z.answer(s.registry, q, now)
		until := now.Add(keptFor(a.keep))
		if !slices.ContainsFunc(a.views, func(v *store.View) bool { return !v.HandOut(until) }) {
			return a, since, stale
		}
	}
}

// keptFor is how long an honest cache may keep a record: up to a second longer
// than its TTL.
func keptFor(ttl uint32) time.Duration { return time.Duration(ttl)*time.Second + time.Second }

// noted is a registry that notes of each view, before it gives it out, that
// caches may keep what is in it until then. It is for answers from so many
// services that some always change while one is made: what has been noted
// beforehand may be answered even so. It notes the largest TTL there is, and of
// services that are not in the answer in the end, so it is the last resort.
type noted struct {
	*store.Registry
	now   store.Instant
	until store.Instant
}

// Service is the registry's.
func (n noted) Service(name string) *store.View {
	for {
		v := n.Registry.Service(name)
		if v == nil || v.HandOut(n.until) {
			return v
		}
	}
}

// Services is the registry's.
func (n noted) Services(yield func(*store.View) bool) {
	n.Registry.Services(func(v *store.View) bool {
		v = n.Service(v.Service)
		return v == nil || yield(v)
	})
}

// Holders is the registry's.
func (n noted) Holders(addr netip.Addr, yield func(*store.View, store.Member) bool) {
	n.Registry.Holders(addr, func(v *store.View, m store.Member) bool {
		if v = n.Service(v.Service); v == nil {
			return true
		}
		m, ok := v.ByLabel(m.Label, n.now)
		return !ok || !slices.Contains(m.Addresses, addr) || yield(v, m)
	})
}
