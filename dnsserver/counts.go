package dnsserver

import (
	"strconv"
	"sync/atomic"

	"github.com/miekg/dns"
)

// counts are one goroutine's, or one path's, counts of what it did. A UDP loop
// has its own, so that counting costs it an addition in memory that nobody
// else touches; they are summed when somebody reads them.
type counts struct {
	queries [typeCells][rcodeCells]atomic.Uint64

	truncated atomic.Uint64 // answers with TC
	left      atomic.Uint64 // queries that the fast path left to the ordinary one
	dropped   atomic.Uint64 // packets without an answer: responses, or more than could be answered
	cut       atomic.Uint64 // answers that no message holds whole (P4)
	refused   atomic.Uint64 // connections over the limit
	limited   atomic.Uint64 // responses over the rate limit, slipped

	_ [64]byte // the next one's are on other cache lines
}

const (
	typeCells  = 13
	rcodeCells = 24
)

// typeCell gives the common types a cell each; cell 0 is for all others.
var typeCell = [256]uint8{
	dns.TypeA: 1, dns.TypeAAAA: 2, dns.TypeSRV: 3, dns.TypeTXT: 4, dns.TypePTR: 5, dns.TypeSOA: 6, dns.TypeNS: 7,
	dns.TypeCNAME: 8, dns.TypeMX: 9, dns.TypeANY: 10, dns.TypeAXFR: 11, dns.TypeIXFR: 12,
}

// count counts one response.
func (c *counts) count(rrtype uint16, rcode int) {
	cell := uint8(0)
	if int(rrtype) < len(typeCell) {
		cell = typeCell[rrtype]
	}
	c.queries[cell][min(rcode, rcodeCells-1)].Add(1)
}

// Count is how many queries of one kind have been answered.
type Count struct {
	Transport string // udp, tcp, tls, https
	Type      string // A, AAAA, ...; "other" for the rare ones
	Rcode     string // NOERROR, NXDOMAIN, ...
	N         uint64
}

// Totals are the server's other counts since it was made.
type Totals struct {
	Truncated uint64 // answers over UDP that did not fit and said so (TC)
	Cut       uint64 // answers too large for any message: a stable part was given
	Ordinary  uint64 // queries that the fast path left to the ordinary one
	Dropped   uint64 // packets that got no answer
	Refused   uint64 // connections over the limits
	Limited   uint64 // responses over the rate limit: TC or BADCOOKIE stood for them
	Conns     int    // connections that are open
}

// Counts returns how many queries have been answered, by kind, without those
// kinds that there were none of. It may be called at any time.
func (s *Server) Counts() []Count {
	var list []Count
	for t := range transports {
		for cell := range typeCells {
			for rcode := range rcodeCells {
				n := uint64(0)
				for _, c := range s.countsOf(t) {
					n += c.queries[cell][rcode].Load()
				}
				if n > 0 {
					list = append(list, Count{t.String(), cellName(cell), rcodeName(rcode), n})
				}
			}
		}
	}
	return list
}

// Totals returns the server's other counts. It may be called at any time.
func (s *Server) Totals() Totals {
	var sum Totals
	for t := range transports {
		for _, c := range s.countsOf(t) {
			sum.Truncated += c.truncated.Load()
			sum.Cut += c.cut.Load()
			sum.Ordinary += c.left.Load()
			sum.Dropped += c.dropped.Load()
			sum.Refused += c.refused.Load()
			sum.Limited += c.limited.Load()
		}
	}
	for _, l := range s.streams {
		sum.Conns += int(l.open.Load())
	}
	return sum
}

// countsOf returns all counts of a transport: the ordinary path's, and those
// of the UDP loops.
func (s *Server) countsOf(t transport) []*counts {
	all := []*counts{&s.counts[t]}
	if t == overUDP {
		all = append(all, s.loopCounts...)
	}
	return all
}

func cellName(cell int) string {
	if cell > 0 {
		for rrtype, c := range typeCell {
			if int(c) == cell {
				return dns.TypeToString[uint16(rrtype)]
			}
		}
	}
	return "other"
}

func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok && rcode < rcodeCells-1 {
		return name
	}
	return "RCODE" + strconv.Itoa(rcode)
}
