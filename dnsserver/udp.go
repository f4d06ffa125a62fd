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
	req = new(dns.Msg)
	switch action := accept(parseHeader(packet)); {
	case action == dns.MsgIgnore:
		counts.dropped.Add(1)
		return nil, nil
	case action == dns.MsgRejectNotImplemented:
		return nil, s.pack(s.refusal(packet, dns.RcodeNotImplemented), dns.TypeNone, *from)
	case action != dns.MsgAccept || !plainQuestion(packet) || unpack(req, packet) != nil || len(req.Question) != 1:
		return nil, s.pack(s.refusal(packet, dns.RcodeFormatError), dns.TypeNone, *from)
	}
	from.opt = readOPT(packet)
	from.sig = s.verify(packet, req)
	return req, nil
}

// answerRequest returns the response to a query that read has let through.
func (s *Server) answerRequest(req *dns.Msg, from client) []byte {
	return s.pack(s.respond(req, from), req.Question[0].Qtype, from)
}

// pack brings a response into wire format, signed where the query was, and
// counts it.
func (s *Server) pack(r *response, rrtype uint16, from client) []byte {
	counts := &s.counts[from.transport]
	b, err := from.sig.pack(r.Msg)
	if err != nil {
		counts.dropped.Add(1)
		return nil // a name that can be unpacked and not packed: let it time out
	}
	counts.count(rrtype, r.Rcode)
	if r.Truncated {
		counts.truncated.Add(1)
	}
	return s.limited(b, r, from)
}

// unpack has the library take a message apart. It knows more options of EDNS
// than are answered here, and refuses a message for what is wrong in one of
// them; such options are to be ignored.
func unpack(m *dns.Msg, packet []byte) error {
	err := m.Unpack(packet)
	if err == nil {
		return nil
	}
	plain := append([]byte(nil), packet...)
	if o := readOPT(plain); o == nil || o.broken || !maskOptions(o.options) {
		return err
	}
	return m.Unpack(plain)
}
