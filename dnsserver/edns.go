package dnsserver

import (
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/miekg/dns"
)

// EDNS(0) (RFC 6891): the OPT record of a response, and which options of a
// query it answers. Unknown options are ignored (section 6.1.2).

// options are what the options of a query ask for.
type options struct {
	zoneVersion bool   // RFC 9660
	expire      bool   // RFC 7314
	padding     bool   // RFC 7830
	cookie      []byte // what the response has in COOKIE; nil: the query has none
	known       bool   // the client has shown a good server cookie
}

// speakEDNS gives the response an OPT record.
func (s *Server) speakEDNS(r *response, o *wireOPT) {
	r.opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	r.opt.SetUDPSize(s.cfg.EDNSSize)
	r.opt.SetDo(o.do) // RFC 3225 section 3; the other bits are 0
	r.Extra = []dns.RR{r.opt}
}

// takeOptions does what the options of the query ask for. Options of another
// version may mean anything, so its query gets none.
func (s *Server) takeOptions(r *response, o *wireOPT, from client) {
	if o.broken || o.version != 0 {
		return // and the query is refused
	}
	seen := map[uint16]bool{}
	for b := o.options; len(b) > 0; {
		code, data, rest, ok := nextOption(b)
		if !ok {
			r.Rcode = dns.RcodeFormatError
			return
		}
		b = rest
		if !seen[code] { // of two alike the first counts (RFC 7873 section 5.2 of cookies)
			s.takeOption(r, code, data, from)
		}
		seen[code] = true
	}
}

// takeOption does what one option of the query asks for.
func (s *Server) takeOption(r *response, code uint16, data []byte, from client) {
	switch code {
	case dns.EDNS0COOKIE:
		if !cookieLen(len(data)) {
			r.Rcode = dns.RcodeFormatError // RFC 7873 section 5.2.2
			return
		}
		r.asks.cookie, r.asks.known = s.cfg.CookieSecret.appendAnswer(nil, data, from.addr, uint32(time.Now().Unix()))
		r.add(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(r.asks.cookie)})
	case dns.EDNS0NSID: // with whatever data in it (RFC 5001 section 2.1)
		if s.cfg.NSID != "" {
			r.add(&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte(s.cfg.NSID))})
		}
	case dns.EDNS0TCPKEEPALIVE: // over UDP it is ignored (RFC 7828 section 3.2.1)
		if tenths := from.idle / (100 * time.Millisecond); tenths > 0 {
			r.add(&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE, Timeout: uint16(tenths)})
		}
	case dns.EDNS0ZONEVERSION:
		if len(data) > 0 {
			r.Rcode = dns.RcodeFormatError // in a query it is empty (RFC 9660 section 2)
			return
		}
		r.asks.zoneVersion = true
	case dns.EDNS0EXPIRE:
		r.asks.expire = true
	case dns.EDNS0PADDING:
		r.asks.padding = true
	}
}

// add adds an option.
func (r *response) add(o dns.EDNS0) { r.opt.Option = append(r.opt.Option, o) }

// explain adds an Extended DNS Error (RFC 8914), where the client speaks EDNS.
func (r *response) explain(code uint16, text string) {
	if r.opt != nil {
		r.add(&dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// addVersion adds what the client asked to know of the zone: the serial that
// the answer was made at, and with the SOA when a secondary gives it up.
func (r *response) addVersion(soa *dns.SOA, q question) {
	if r.asks.zoneVersion {
		const serialType = 0
		r.add(&dns.EDNS0_ZONEVERSION{
			Code:       dns.EDNS0ZONEVERSION,
			LabelCount: uint8(dns.CountLabel(soa.Hdr.Name)),
			Type:       serialType,
			Version:    string(binary.BigEndian.AppendUint32(nil, soa.Serial)),
		})
	}
	if len(q.labels) == 0 && q.rrtype == dns.TypeSOA {
		r.addExpire(soa)
	}
}

// addExpire says, where that was asked for, for how long a secondary that gets
// the zone now may answer from it.
func (r *response) addExpire(soa *dns.SOA) {
	if r.asks.expire {
		r.add(&dns.EDNS0_EXPIRE{Code: dns.EDNS0EXPIRE, Expire: soa.Expire})
	}
}

// padBlock is what padded responses are a multiple of (RFC 8467 section 4.1).
const padBlock = 468

// pad pads the response to whole blocks. It is the last thing done to it.
func (r *response) pad() {
	b, err := r.Pack()
	if err != nil {
		return // which the caller will find as well
	}
	size := len(b) + optionHead
	if size > r.limit {
		return
	}
	padded := min((size+padBlock-1)/padBlock*padBlock, r.limit)
	r.add(&dns.EDNS0_PADDING{Padding: make([]byte, padded-size)})
}
