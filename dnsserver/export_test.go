package dnsserver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// Offline is a server without sockets, so that it can live in a bubble of fake
// time. Its answers are the same.
type Offline struct{ s *Server }

// NewOffline returns a server for the config; Listen is not used.
func NewOffline(cfg Config) Offline {
	s := newServer(cfg.withDefaults())
	s.setZone()
	return Offline{s}
}

// Respond returns the response to a query that came over UDP or, with stream,
// over TCP.
func (o Offline) Respond(req *dns.Msg, stream bool) *dns.Msg {
	c := from(stream)
	c.opt = optOf(req)
	return o.s.respond(req, c).Msg
}

// optOf returns a message's OPT record as it would be in a packet.
func optOf(m *dns.Msg) *wireOPT {
	if m.IsEdns0() == nil {
		return nil
	}
	only := &dns.Msg{}
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			only.Extra = append(only.Extra, rr)
		}
	}
	b, err := only.Pack()
	if err != nil {
		panic(err)
	}
	return readOPT(b)
}

// Noted returns what is answered to a question where others had to be made
// again too often: see settle.
func (o Offline) Noted(name string, rrtype uint16) []dns.RR {
	z, now := o.s.zones.of(name), o.s.registry.Now()
	labels, _ := below(z.name, name)
	reg := noted{o.s.registry, now, now.Add(keptFor(z.maxTTL))}
	return rrs(z.answer(reg, question{name: name, labels: labels, rrtype: rrtype}, now).records)
}

// Client is where queries come from.
var Client = netip.MustParseAddr("198.51.100.100")

func from(stream bool) client {
	if stream {
		return client{addr: Client, transport: overTCP}
	}
	return client{addr: Client, transport: overUDP}
}

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
func (o Offline) NewFast() Fast { return Fast{o.s.newFastPath(&o.s.counts[overUDP])} }

// Answer writes the response into dst, and reports whether the fast path has one.
func (f Fast) Answer(dst, msg []byte, stream bool) ([]byte, bool) {
	f.f.begin()
	return f.f.answer(dst, msg, from(stream))
}

// Ordinary returns what the ordinary path says to a message.
func (o Offline) Ordinary(msg []byte, stream bool) []byte { return o.s.answerPacket(msg, from(stream)) }

// Facts are what the fast parser finds in a query.
type Facts struct {
	Flags, Type, Size uint16
	Name              string // in wire format
	EDNS, DO          bool
	Cookie            string
	Labels            []string // before the zone
}

// Parse parses a query as the fast path does.
func Parse(msg []byte, zone string) (Facts, bool) {
	var q wireQuery
	if !q.parse(msg, wireName(zone)) {
		return Facts{}, false
	}
	f := Facts{q.flags, q.rrtype, q.size, string(q.name), q.edns, q.do, string(q.cookie), nil}
	for k := range q.n {
		f.Labels = append(f.Labels, string(q.label(k)))
	}
	return f, true
}

// ServeStream serves a listener's connections, which need not be of a network.
func (o Offline) ServeStream(ctx context.Context, l net.Listener) error {
	return o.s.newStreams(l, overTCP).serve(ctx)
}

// Counts returns what has been counted.
func (o Offline) Counts() []Count { return o.s.Counts() }

// Totals returns the other counts.
func (o Offline) Totals() Totals { return o.s.Totals() }

// CookieAnswer returns the cookie that the server gives to a client's.
func CookieAnswer(secret CookieSecret, cookie []byte, addr netip.Addr, unix uint32) (out []byte, known bool) {
	return secret.appendAnswer(nil, cookie, addr, unix)
}

// PacketFrom returns the response to a packet over UDP from an address: the
// fast path's where it has one, as in the loops.
func (o Offline) PacketFrom(f Fast, msg []byte, addr netip.Addr) []byte {
	from := client{addr: addr, transport: overUDP}
	f.f.begin()
	if b, ok := f.f.answer(make([]byte, 0, maxUDP), msg, from); ok {
		return b
	}
	return o.s.answerPacket(msg, from)
}

// OrdinaryFrom is that of the ordinary path alone.
func (o Offline) OrdinaryFrom(msg []byte, addr netip.Addr) []byte {
	return o.s.answerPacket(msg, client{addr: addr, transport: overUDP})
}

// Padded pads a response as one over an encrypted transport.
func Padded(m *dns.Msg, limit int) *dns.Msg {
	r := &response{Msg: m, opt: m.IsEdns0(), limit: limit}
	r.pad()
	return m
}

// OPTSize returns what a packet's OPT record says that the client takes, 0
// without one.
func OPTSize(packet []byte) uint16 {
	if o := readOPT(packet); o != nil {
		return max(o.size, plainSize)
	}
	return 0
}

// CountLimited returns a rate limiter's count of a kind, by its hash.
func CountLimited() func(hash uint64, age time.Duration) uint32 { return newLimiter(1).count }

// Enumerate returns the records that a zone has because of a service.
func Enumerate(zoneName, service string, instances []*store.Instance) []dns.RR {
	return slices.Collect((&zone{name: zoneName, origin: zoneName, maxTTL: 30}).ofService(service, instances))
}

// Transfers reports whether a query over TCP begins a transfer.
func (o Offline) Transfers(req *dns.Msg) bool {
	c := from(true)
	c.opt = optOf(req)
	return o.s.isTransfer(req, c)
}
