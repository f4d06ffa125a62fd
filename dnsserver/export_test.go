package dnsserver

import "github.com/miekg/dns"

// Offline is a server without sockets, so that it can live in a bubble of fake
// time. Its answers are the same.
type Offline struct{ s *Server }

// NewOffline returns a server for the config; Listen is not used.
func NewOffline(cfg Config) Offline {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, registry: cfg.Registry}
	s.setZone()
	return Offline{s}
}

// Respond returns the response to a query that came over UDP or, with stream,
// over TCP.
func (o Offline) Respond(req *dns.Msg, stream bool) *dns.Msg { return o.s.respond(req, stream) }

// Accepts reports whether a header is let through to Respond.
func Accepts(h dns.Header) bool { return accept(h) == dns.MsgAccept }

// Order brings numbered records of these weights into random order and returns
// the numbers.
func Order(weights []int, weighted bool) []int {
	records := make([]record, len(weights))
	for k, w := range weights {
		records[k] = record{rr: &dns.SRV{Port: uint16(k)}, weight: w}
	}
	shuffle(records, weighted)
	order := make([]int, len(records))
	for k, r := range records {
		order[k] = int(r.rr.(*dns.SRV).Port)
	}
	return order
}

// Fast is a fast path without a socket.
type Fast struct{ f *fastPath }

// NewFast returns the fast path of a server.
func (o Offline) NewFast() Fast { return Fast{o.s.newFastPath()} }

// Answer appends the response to dst, and reports whether the fast path has one.
func (f Fast) Answer(dst, msg []byte) ([]byte, bool) {
	f.f.begin()
	return f.f.answer(dst, msg)
}

// Ordinary returns what the ordinary path says to a packet over UDP.
func (o Offline) Ordinary(msg []byte) []byte { return o.s.answerPacket(msg) }

// Facts are what the fast parser finds in a query.
type Facts struct {
	Flags, Type, Size uint16
	Name              string // in wire format
	EDNS, DO          bool
	Labels            []string // before the zone
}

// Parse parses a query as the fast path does.
func Parse(msg []byte, zone string) (Facts, bool) {
	var q wireQuery
	if !q.parse(msg, wireName(zone)) {
		return Facts{}, false
	}
	f := Facts{q.flags, q.rrtype, q.size, string(q.name), q.edns, q.do, nil}
	for k := range q.n {
		f.Labels = append(f.Labels, string(q.label(k)))
	}
	return f, true
}
