package dnsserver

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/store"
)

// Zone transfers: AXFR (RFC 5936), and IXFR (RFC 1995) from the registry's own
// history. A transfer is of the registry at one revision, which is its serial.

// TransferACL says who may have a zone transferred.
type TransferACL struct {
	Prefixes []netip.Prefix // clients with such an address
	Keys     []string       // clients that sign with such a key, as [TSIGKey] has its name
}

const (
	// maxTransfers bounds the transfers under way; more wait for their turn.
	maxTransfers = 16
	// transferSize is about how large the messages of a transfer are.
	transferSize = 16 << 10
	// settleTime is how long a transfer waits for the removal of those whose
	// leases have just ended, so that it need not have them.
	settleTime = 500 * time.Millisecond
	settleStep = 10 * time.Millisecond
	// A transfer of a large zone is a long computation, and queries come in
	// meanwhile, perhaps for the same processors. So it works in turns shorter
	// than those that the system gives, and rests after each.
	transferTurn = 200 * time.Microsecond
	transferRest = 400 * time.Microsecond
)

// allows reports whether the client may have transfers.
func (l TransferACL) allows(from client) bool {
	if from.sig.good() && slices.Contains(l.Keys, from.sig.key.Name) {
		return true
	}
	return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(from.addr) })
}

// isTransfer reports whether a query is for a transfer that is to be given.
// Any other is answered like all queries: with the reason why not.
func (s *Server) isTransfer(req *dns.Msg, from client) bool {
	q := req.Question[0]
	if q.Qtype != dns.TypeAXFR && q.Qtype != dns.TypeIXFR || !from.stream() || !s.cfg.Transfer.allows(from) {
		return false
	}
	if _, stale := s.registry.Stale(); stale {
		return false
	}
	_, ok := gate(req, from)
	return ok && s.reply(req, from).Rcode == dns.RcodeSuccess && q.Qclass != dns.ClassCHAOS && s.zones[dns.CanonicalName(q.Name)] != nil && (q.Qtype == dns.TypeAXFR || serialOf(req) != nil)
}

// forSecondary reports whether a query asks what secondaries ask before a
// transfer: the zone's SOA. While the registry is stale they are not to take its
// serial for the newest, and what they hold for confirmed by it.
func (s *Server) forSecondary(q question, from client) bool {
	return q.rrtype == dns.TypeSOA && len(q.labels) == 0 && s.cfg.Transfer.allows(from)
}

// serialOf returns the serial that the client of an IXFR has.
func serialOf(req *dns.Msg) *uint32 {
	if len(req.Ns) != 1 {
		return nil
	}
	soa, ok := req.Ns[0].(*dns.SOA)
	if !ok {
		return nil
	}
	return &soa.Serial
}

// refuseTransfer answers a query for a transfer that is not to be given, or
// not this way.
func (s *Server) refuseTransfer(r *response, z *zone, q question, serial *uint32, from client) {
	since, stale := s.registry.Stale()
	switch {
	case !s.cfg.Transfer.allows(from):
		r.Rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeProhibited, "transfers are for those that --allow-transfer names")
	case len(q.labels) > 0:
		r.Rcode = dns.RcodeNotAuth
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, "the zone here is "+z.name)
	case stale: // a secondary that knows another primary turns to that
		s.refuseStale(r, since)
	case q.rrtype == dns.TypeAXFR:
		r.Rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeNotSupported, "AXFR goes over TCP")
	case serial == nil:
		r.Rcode = dns.RcodeFormatError
		r.explain(dns.ExtendedErrorCodeOther, "IXFR has the client's SOA in the authority section")
	default: // RFC 1995 section 2: what does not fit goes over TCP
		r.Authoritative = true
		r.Answer = []dns.RR{z.soa(s.registry.Revision())}
	}
}

// transfer answers AXFR or IXFR.
func (c *stream) transfer(req *dns.Msg, from client) {
	s := c.server
	select {
	case s.passing <- struct{}{}:
	case <-c.stopped:
		return
	}
	defer func() { <-s.passing }()
	out := &transferWriter{stream: c, from: from, req: req}
	out.begin()
	z := s.zones[dns.CanonicalName(req.Question[0].Name)]
	kind := "IXFR"
	if req.Question[0].Qtype != dns.TypeIXFR || !s.sendChanges(out, z, *serialOf(req)) {
		kind = "AXFR"
		s.sendZone(out, z)
	}
	out.flush()
	s.counts[from.transport].count(req.Question[0].Qtype, dns.RcodeSuccess)
	log := s.cfg.Log.WithFields(logrus.Fields{"client": from.addr, "zone": z.name, "kind": kind, "records": out.records})
	if out.err != nil {
		log.WithError(out.err).Warn("a zone transfer was cut off")
		return
	}
	log.Debug("zone transferred")
}

// sendZone sends all of the zone, with the SOA first and last.
func (s *Server) sendZone(out *transferWriter, z *zone) {
	snapshot := s.settled(out.stopped)
	now := s.registry.Now()
	soa := z.soa(snapshot.Revision)
	out.add(soa)
	out.add(z.fixed()...)
	slices.SortFunc(snapshot.Views, func(a, b *store.View) int { return cmp.Compare(a.Service, b.Service) })
	for _, v := range snapshot.Views {
		var instances []*store.Instance
		for m := range v.Members(now) {
			instances = append(instances, m.Instance)
		}
		for rr := range z.ofService(v.Service, instances) {
			if out.err != nil || out.stopping.Load() {
				return // flush says so
			}
			out.add(rr)
		}
	}
	out.add(soa)
}

// settled returns the registry as it is once those are gone whose leases have
// ended. Where they cannot be removed they are left out of the transfer all the
// same: then the next IXFR removes what is not there, and a secondary that
// minds has a full transfer.
func (s *Server) settled(stop <-chan struct{}) store.Snapshot {
	for until := time.Now().Add(settleTime); ; {
		snapshot, now := s.registry.Snapshot(), s.registry.Now()
		settled := !slices.ContainsFunc(snapshot.Views, func(v *store.View) bool { return !v.Settled(now) })
		if settled || time.Now().After(until) {
			return snapshot
		}
		// Not sooner, whatever changes: writers wait for a snapshot.
		select {
		case <-stop:
			return snapshot
		case <-time.After(settleStep):
		}
	}
}

// sendChanges sends what has changed since the client's serial, as one change,
// and reports whether it could.
func (s *Server) sendChanges(out *transferWriter, z *zone, serial uint32) bool {
	at := s.registry.Revision()
	behind := uint32(at) - serial // serials are on a circle (RFC 1982)
	if behind == 0 || behind >= 1<<31 {
		out.add(z.soa(at)) // it has the newest
		return true
	}
	if uint64(behind) > uint64(at) {
		return false
	}
	changes, err := s.registry.ChangesSince(at - store.Revision(behind))
	if err != nil {
		return false
	}
	var gone, come []dns.RR
	for _, c := range changes.Services {
		g, m := z.difference(c)
		gone, come = append(gone, g...), append(come, m...)
		out.rest()
	}
	soa := z.soa(changes.To)
	out.add(soa, z.soa(changes.From))
	out.add(gone...)
	out.add(soa)
	out.add(come...)
	out.add(soa)
	return true
}

// errStopping ends a transfer whose server is to end.
var errStopping = errors.New("the server is stopping")

// transferWriter writes records in messages of a sensible size.
type transferWriter struct {
	*stream
	from client
	req  *dns.Msg
	msg  *dns.Msg
	size int // about how large msg is

	turn    time.Time // when the present one began
	records int
	err     error
}

func (w *transferWriter) begin() {
	r := w.server.reply(w.req, w.from)
	r.addExpire(w.server.zone.soa(0))
	w.msg = r.Msg
	w.msg.Authoritative = true
	w.size = 0
}

// add sends records, some of them perhaps later.
func (w *transferWriter) add(records ...dns.RR) {
	for _, rr := range records {
		if w.size > transferSize {
			w.flush()
		}
		w.msg.Answer = append(w.msg.Answer, rr)
		w.size += dns.Len(rr)
		if w.records++; w.records%32 == 0 {
			w.rest()
		}
	}
}

// rest lets others have the processor once the turn is over.
func (w *transferWriter) rest() {
	if time.Since(w.turn) > transferTurn {
		select {
		case <-w.stopped:
		case <-time.After(transferRest):
		}
		w.turn = time.Now()
	}
}

// flush sends what has been added.
func (w *transferWriter) flush() {
	if w.err != nil || len(w.msg.Answer) == 0 {
		return
	}
	b, err := w.from.sig.pack(w.msg)
	switch {
	case err != nil:
	case w.stopping.Load():
		err = errStopping
	default:
		err = w.write(frame(b))
	}
	w.err = err
	w.begin()
	w.msg.Question, w.msg.Extra = nil, nil // only the first message has it (RFC 5936 sections 2.2.1, 2.2.5)
}
