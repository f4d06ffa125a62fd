package dnsserver

import (
	"runtime"
	"sync"

	"github.com/miekg/dns"
)

// ordinary answers the packets that the fast path leaves, on goroutines of its
// own, so that a large answer does not hold up the small ones behind it.
type ordinary struct {
	server *Server
	jobs   chan job
	done   sync.WaitGroup
}

// job is one packet, and who takes its response: called once, with nil where
// there is none.
type job struct {
	packet []byte
	from   client
	done   func(response []byte)
}

// waitingJobs bounds the packets that wait: beyond it they are dropped, as the
// kernel drops what does not fit into a socket's buffer.
const waitingJobs = 1024

func newOrdinary(s *Server) *ordinary {
	o := &ordinary{server: s, jobs: make(chan job, waitingJobs)}
	for range 2 * runtime.GOMAXPROCS(0) {
		o.done.Go(func() {
			for j := range o.jobs {
				j.done(s.answerPacket(j.packet, j.from))
			}
		})
	}
	return o
}

// take takes a packet unless too many wait, and reports whether it did.
func (o *ordinary) take(j job) bool {
	select {
	case o.jobs <- j:
		return true
	default:
		o.server.counts[overUDP].dropped.Add(1)
		return false
	}
}

// stop answers what waits and returns when that is done. Nothing may be taken
// any more.
func (o *ordinary) stop() {
	close(o.jobs)
	o.done.Wait()
}

// answerPacket returns the ordinary path's response to a message in wire
// format; nil where it gets none.
func (s *Server) answerPacket(packet []byte, from client) []byte {
	req, out := s.read(packet, &from)
	if req != nil {
		out = s.answerRequest(req, from)
	}
	return out
}

// read takes a message apart and checks its signature, which it notes in from.
// What is no query has what it gets in place of one, nil for nothing.
func (s *Server) read(packet []byte, from *client) (req *dns.Msg, refused []byte) {
	counts := &s.counts[from.transport]
	counts.left.Add(1)
	if len(packet) < headerSize {
		counts.dropped.Add(1)
		return nil, nil
	}
	h := parseHeader(packet)
	req = new(dns.Msg)
	switch action := accept(h); {
	case action == dns.MsgIgnore:
		counts.dropped.Add(1)
		return nil, nil
	case action == dns.MsgRejectNotImplemented:
		return nil, s.pack(refusal(h, dns.RcodeNotImplemented), dns.TypeNone, *from)
	case action != dns.MsgAccept || req.Unpack(packet) != nil || len(req.Question) != 1:
		return nil, s.pack(refusal(h, dns.RcodeFormatError), dns.TypeNone, *from)
	}
	from.sig = s.verify(packet, req)
	return req, nil
}

// answerRequest returns the response to a query that read has let through.
func (s *Server) answerRequest(req *dns.Msg, from client) []byte {
	return s.pack(s.respond(req, from), req.Question[0].Qtype, from)
}

// pack brings a response into wire format, signed where the query was, and
// counts it.
func (s *Server) pack(resp *dns.Msg, rrtype uint16, from client) []byte {
	counts := &s.counts[from.transport]
	b, err := from.sig.pack(resp)
	if err != nil {
		counts.dropped.Add(1)
		return nil // a name that can be unpacked and not packed: let it time out
	}
	counts.count(rrtype, resp.Rcode)
	if resp.Truncated {
		counts.truncated.Add(1)
	}
	return b
}

// refusal is a response with a header and nothing else.
func refusal(h dns.Header, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.Id = h.Id
	m.Response = true
	m.Opcode = int(h.Bits>>11) & 0xf
	m.RecursionDesired = h.Bits&flagRD != 0
	m.Rcode = rcode
	return m
}
