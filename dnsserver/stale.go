package dnsserver

import (
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// A server whose backend several share may be cut off from it: the others may
// have seen leases end that last here. Its answers say so and may hardly be
// cached, and after a while it gives none. What stands in the configuration is
// as true as ever: it has no part in that.

// staleTTL is the largest TTL of what the registry says while that is stale, in
// seconds.
const staleTTL = 1

// whenStale returns the zone as it is while the registry is stale.
func (z *zone) whenStale() *zone {
	stale := *z
	stale.maxTTL, stale.emptyTTL = min(z.maxTTL, staleTTL), min(z.emptyTTL, staleTTL)
	return &stale
}

// markStale says of a response that it is made from a stale registry (RFC 8914
// sections 4.4 and 4.20).
func (s *Server) markStale(r *response, rcode int, since time.Duration) {
	code := dns.ExtendedErrorCodeStaleAnswer
	if rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	r.explain(code, s.cutOff(since))
}

// refuseStale makes the response to what is not answered from a stale registry:
// the client is to ask another server (RFC 8914 section 4.15).
func (s *Server) refuseStale(r *response, since time.Duration) {
	r.Rcode, r.Authoritative = dns.RcodeServerFailure, false
	r.explain(dns.ExtendedErrorCodeNotReady, s.cutOff(since)+": ask another server")
}

// cutOff says, for people, what is wrong.
func (s *Server) cutOff(since time.Duration) string {
	return "cut off from " + s.cfg.Backend + " for " + roughly(since)
}

// roughly is a duration in whole seconds, minutes or hours, rounded down, so
// that the text of an answer does not change with each of them.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return strconv.Itoa(int(d/time.Hour)) + "h"
}
