package dnsserver

import (
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// Sizes, truncation and the choice of what is left out live here only; the
// options of EDNS(0) are in edns.go.

const (
	// plainSize is what a client takes over UDP without EDNS (RFC 1035 4.2.1).
	plainSize = dns.MinMsgSize
	// streamSize is what TCP's length field can say.
	streamSize = dns.MaxMsgSize
	// smallestRecord is an A record whose owner is a compression pointer: it
	// bounds how many records can be worth a try.
	smallestRecord = 2 + 10 + 4
)

// response is one message being made for one query.
type response struct {
	*dns.Msg
	opt    *dns.OPT // nil: the client did not speak EDNS
	asks   options  // what the OPT record of the query asks for
	limit  int      // octets
	stream bool     // over TCP: there is no larger transport to turn to
	zone   string   // that the name is in; "" while it is in none
}

// reply begins the response to a query: with the flags, and where the client
// speaks EDNS, with the OPT record and what the client asked to have in it. Its
// response code is FORMERR where that makes no sense.
func (s *Server) reply(req *dns.Msg, from client) *response {
	r := &response{Msg: new(dns.Msg).SetReply(req), limit: plainSize, stream: from.stream()}
	r.Compress = true
	if from.opt != nil {
		r.limit = int(min(max(from.opt.size, plainSize), s.cfg.EDNSSize))
		s.speakEDNS(r, from.opt)
		s.takeOptions(r, from.opt, from)
	}
	if r.stream {
		r.limit = streamSize
	}
	r.limit -= from.sig.size()
	return r
}

// refusal is the response to a message that is not looked into: a header, and
// the OPT record where the message has one that can be read. Without it the
// client would take us for a server that does not speak EDNS.
func (s *Server) refusal(packet []byte, rcode int) *response {
	h := parseHeader(packet)
	r := &response{Msg: new(dns.Msg), limit: plainSize}
	r.Id = h.Id
	r.Response = true
	r.Opcode = int(h.Bits>>11) & 0xf
	r.RecursionDesired = h.Bits&flagRD != 0
	r.Rcode = rcode
	if o := readOPT(packet); o != nil {
		s.speakEDNS(r, o)
	}
	return r
}

// end brings the response to its end: it is within the limit, and padded where
// that was asked for.
func (r *response) end(from client) {
	r.bound()
	if r.asks.padding && from.encrypted() {
		r.pad()
	}
}

// bound holds to its limit a response whose question, authority and options
// alone are over it: long names of name servers do that. What is for people
// goes first.
func (r *response) bound() {
	for _, code := range []uint16{dns.EDNS0EDE, dns.EDNS0NSID} {
		if r.Len() <= r.limit {
			return
		}
		if r.opt != nil {
			r.opt.Option = slices.DeleteFunc(r.opt.Option, func(o dns.EDNS0) bool { return o.Option() == code })
		}
	}
	if r.Len() <= r.limit {
		return
	}
	r.Truncated = true
	r.Answer, r.Ns, r.Extra = nil, nil, nil
	if r.opt != nil {
		r.Extra = []dns.RR{r.opt}
	}
}

// fill puts an answer into the message, in random order. Where not everything
// fits, additional records go first: they save a query, no more. If the answer
// section itself does not fit, then over UDP TC says so and TCP has it all
// (RFC 2181 section 9). Over TCP a set that no message holds is cut to the
// best priority and the first labels, the same each time, and an Extended DNS
// Error has the numbers; then whole is false.
func (r *response) fill(z *zone, a answer) (whole bool) {
	r.Rcode = a.rcode
	r.Ns = a.authority
	if a.why != "" {
		r.explain(dns.ExtendedErrorCodeOther, a.why)
	}
	if !r.stream {
		shuffle(a.records, a.weighted)
	}
	n := r.fit(len(a.records), func(n int) { r.Answer = rrs(a.records[:n]) })
	if n < len(a.records) && !r.stream {
		r.Truncated = true
		return true
	}
	whole = n == len(a.records)
	if !whole {
		n = r.cut(a.records)
	}
	if r.stream {
		shuffle(a.records[:n], a.weighted)
		r.Answer = rrs(a.records[:n])
	}
	r.fillAdditional(z, a, a.records[:n])
	return whole
}

// cut leaves the first records that a message over TCP holds, says so, and
// returns how many they are.
func (r *response) cut(records []record) int {
	const room = 128 // for the Extended DNS Error
	r.limit -= room
	n := r.fit(len(records), func(n int) { r.Answer = rrs(records[:n]) })
	r.limit += room
	r.explain(dns.ExtendedErrorCodeOther,
		fmt.Sprintf("%d of %d records, best priority first: a message holds no more", n, len(records)))
	return n
}

// fillAdditional adds whole RRsets as far as they fit: a part of one would be
// taken for all of it (RFC 2181 section 5).
func (r *response) fillAdditional(z *zone, a answer, records []record) {
	sets, most := a.glue, (r.limit-r.Len())/smallestRecord
	for _, rec := range records {
		if len(sets) >= most {
			break
		}
		sets = append(sets, z.additional(rec)...)
	}
	if len(sets) == 0 {
		return
	}
	opt := r.Extra
	r.fit(len(sets), func(n int) {
		r.Extra = append(slices.Concat(sets[:n]...), opt...)
	})
}

// fit calls set with the largest number up to most with which the message
// keeps to its limit, and returns it.
func (r *response) fit(most int, set func(n int)) int {
	set(0)
	low, high := 0, min(most, r.limit/smallestRecord)
	if high == most {
		if set(most); r.Len() <= r.limit {
			return most
		}
		high = most - 1
	}
	for low < high {
		mid := (low + high + 1) / 2
		if set(mid); r.Len() <= r.limit {
			low = mid
		} else {
			high = mid - 1
		}
	}
	set(low)
	return low
}

func rrs(records []record) []dns.RR {
	list := make([]dns.RR, len(records))
	for k, r := range records {
		list[k] = r.rr
	}
	return list
}
