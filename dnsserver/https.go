package dnsserver

import (
	"net/netip"

	"github.com/miekg/dns"
)

// ExchangeHTTPS answers a message that came over HTTPS (RFC 8484), and says for
// how many seconds caches of HTTP may keep the response. It is nil for what is
// no query. It may be called concurrently, also when the server does not run.
func (s *Server) ExchangeHTTPS(msg []byte, from netip.Addr) (response []byte, ttl uint32) {
	c := client{addr: from, transport: overHTTPS}
	response = s.answerOnce(msg, c)
	if response == nil {
		return nil, 0
	}
	return response, freshness(response)
}

// answerOnce answers by whichever path takes the message.
func (s *Server) answerOnce(msg []byte, from client) []byte {
	b := s.batches.Get().(*streamBatch) //nolint:errcheck // the pool holds nothing else
	defer s.batches.Put(b)
	b.fast.begin()
	b.fast.counts = &s.counts[from.transport]
	if out, ok := b.fast.answer(b.out[:0], msg, from); ok {
		return append([]byte(nil), out...)
	}
	return s.answerPacket(msg, from)
}

// freshness is for how long a cache may keep the whole response: the smallest
// TTL in its answer, or where that is empty, of its SOA (RFC 8484 section 5.1).
func freshness(response []byte) uint32 {
	var m dns.Msg
	if m.Unpack(response) != nil || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	section := m.Answer
	if len(section) == 0 {
		section = m.Ns
	}
	if len(section) == 0 {
		return 0
	}
	ttl := section[0].Header().Ttl
	for _, rr := range section {
		ttl = min(ttl, rr.Header().Ttl)
	}
	return ttl
}
