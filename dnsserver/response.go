package dnsserver

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// EDNS(0), sizes, truncation and the choice of what is left out live here only.

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
	limit  int      // octets
	stream bool     // over TCP: there is no larger transport to turn to
}

// reply begins the response to a query: with the flags, and where the client
// speaks EDNS, with the OPT record and what the client asked to have in it. Its
// response code is FORMERR where that makes no sense.
func (s *Server) reply(req *dns.Msg, from client) *response {
	r := &response{Msg: new(dns.Msg).SetReply(req), limit: plainSize, stream: from.stream()}
	r.Compress = true
	if asked := req.IsEdns0(); asked != nil {
		r.opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		r.opt.SetUDPSize(s.cfg.EDNSSize)
		r.opt.SetDo(asked.Do()) // RFC 3225 section 3
		r.limit = int(min(max(asked.UDPSize(), plainSize), s.cfg.EDNSSize))
		r.Extra = []dns.RR{r.opt}
		for _, o := range asked.Option {
			s.takeOption(r, o, from)
		}
	}
	if r.stream {
		r.limit = streamSize
	}
	r.limit -= from.sig.size()
	return r
}

// takeOption does what an option of the query asks for. Unknown ones are
// ignored (RFC 6891 section 6.1.2).
func (s *Server) takeOption(r *response, option dns.EDNS0, from client) {
	if o, ok := option.(*dns.EDNS0_COOKIE); ok {
		cookie, err := hex.DecodeString(o.Cookie)
		if err != nil || !cookieLen(len(cookie)) {
			r.Rcode = dns.RcodeFormatError // RFC 7873 section 5.2.2
			return
		}
		full, _ := s.cfg.CookieSecret.appendAnswer(nil, cookie, from.addr, uint32(time.Now().Unix()))
		r.opt.Option = append(r.opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(full)})
	}
}

// explain adds an Extended DNS Error (RFC 8914), where the client speaks EDNS.
func (r *response) explain(code uint16, text string) {
	if r.opt != nil {
		r.opt.Option = append(r.opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
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
