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
				j.done(s.answerPacket(j.packet))
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
		return false
	}
}

// stop answers what waits and returns when that is done. Nothing may be taken
// any more.
func (o *ordinary) stop() {
	close(o.jobs)
	o.done.Wait()
}

// answerPacket returns the response to a packet over UDP in wire format; nil
// where it gets none.
func (s *Server) answerPacket(packet []byte) []byte {
	if len(packet) < headerSize {
		return nil
	}
	h := parseHeader(packet)
	action := accept(h)
	if action == dns.MsgIgnore {
		return nil
	}
	req := new(dns.Msg)
	resp := new(dns.Msg)
	switch {
	case action == dns.MsgRejectNotImplemented:
		resp = refusal(h, dns.RcodeNotImplemented)
	case action != dns.MsgAccept || req.Unpack(packet) != nil || len(req.Question) != 1:
		resp = refusal(h, dns.RcodeFormatError)
	default:
		resp = s.respond(req, false)
	}
	b, err := resp.Pack()
	if err != nil {
		return nil // a name that can be unpacked and not packed: let it time out
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
