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
	counts := &s.counts[from.transport]
	counts.left.Add(1)
	if len(packet) < headerSize {
		counts.dropped.Add(1)
		return nil
	}
	h := parseHeader(packet)
	action := accept(h)
	if action == dns.MsgIgnore {
		counts.dropped.Add(1)
		return nil
	}
	req := new(dns.Msg)
	resp := new(dns.Msg)
	rrtype := dns.TypeNone
	switch {
	case action == dns.MsgRejectNotImplemented:
		resp = refusal(h, dns.RcodeNotImplemented)
	case action != dns.MsgAccept || req.Unpack(packet) != nil || len(req.Question) != 1:
		resp = refusal(h, dns.RcodeFormatError)
	default:
		resp = s.respond(req, from)
		rrtype = req.Question[0].Qtype
	}
	b, err := resp.Pack()
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
