package dnsserver

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file alone knows where in a message which octet stands. The header (RFC 1035 4.1.1):
//
//	 0       2       4       6       8       10      12
//	+-------+-------+-------+-------+-------+-------+
//	|  ID   | flags |QDCOUNT|ANCOUNT|NSCOUNT|ARCOUNT|
//	+-------+-------+-------+-------+-------+-------+
//
// The flags: QR 1, opcode 4, AA, TC, RD, RA, Z, AD, CD 1 each, rcode 4.
const (
	headerSize = 12

	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagAD = 1 << 5 // RFC 4035 3.1.6
	flagCD = 1 << 4

	typeA    = 1
	typeSOA  = 6
	typeAAAA = 28
	typeSRV  = 33
	typeOPT  = 41
	classIN  = 1

	optSize      = 11      // an OPT record without options (RFC 6891 6.1.2)
	optionHead   = 4       // an option's code and length
	flagDO       = 1 << 15 // in the OPT record's TTL
	optionCookie = 10      // RFC 7873
	optionEDE    = 15      // RFC 8914
	rcodeNX      = 3
	rcodeMask    = 0xf // of the header's flags

	badCookieLow, badCookieHigh = dns.RcodeBadCookie & rcodeMask, dns.RcodeBadCookie >> 4

	maxName    = 255
	maxPointer = 1<<14 - 1 // the largest offset that a compression pointer holds
	maxLabels  = 4         // before the zone; names with more are for the ordinary path
)

// parseHeader reads the header of a message that is long enough to have one.
func parseHeader(msg []byte) dns.Header {
	u := func(at int) uint16 { return binary.BigEndian.Uint16(msg[at:]) }
	return dns.Header{Id: u(0), Bits: u(2), Qdcount: u(4), Ancount: u(6), Nscount: u(8), Arcount: u(10)}
}

// wireQuery is a query of the plain shape: one question in class IN, with or
// without an OPT record that has no option or a cookie. It refers to the message.
type wireQuery struct {
	flags  uint16
	name   []byte // the question's, with the root label
	rrtype uint16
	edns   bool
	size   uint16 // that the client takes over UDP, as it says; without EDNS 512
	do     bool
	cookie []byte // the COOKIE option's data, nil without

	lower  [maxName]byte // the name in lower case
	labels [maxLabels]struct{ start, end uint8 }
	n      int // labels before the zone
}

// parse takes a query apart, and reports whether it is of the plain shape and
// in the zone, whose name in wire format and lower case is given. What it
// takes the library takes as well, and finds the same in it.
func (q *wireQuery) parse(msg, zone []byte) bool {
	if len(msg) < headerSize+5 {
		return false
	}
	q.flags = binary.BigEndian.Uint16(msg[2:])
	counts := binary.BigEndian.Uint64(msg[4:]) // all four
	if q.flags&^(flagRD|flagAD|flagCD) != 0 || counts&^1 != 1<<48 {
		return false
	}
	end, ok := q.parseName(msg, zone)
	if !ok || len(msg) < end+4 || binary.BigEndian.Uint16(msg[end+2:]) != classIN {
		return false
	}
	q.rrtype = binary.BigEndian.Uint16(msg[end:])
	q.edns, q.size, q.do, q.cookie = false, plainSize, false, nil
	if counts&1 == 0 {
		return len(msg) == end+4
	}
	return q.parseOPT(msg[end+4:])
}

// parseOPT reads what must be all that is left of the message.
func (q *wireQuery) parseOPT(b []byte) bool {
	if len(b) < optSize || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != typeOPT || len(b)-optSize != int(binary.BigEndian.Uint16(b[9:])) {
		return false
	}
	ttl := binary.BigEndian.Uint32(b[5:]) // extended rcode, version, DO, Z
	if ttl&^flagDO != 0 {
		return false
	}
	q.edns, q.size, q.do = true, max(binary.BigEndian.Uint16(b[3:]), plainSize), ttl&flagDO != 0
	options := b[optSize:]
	if len(options) == 0 {
		return true
	}
	if len(options) < optionHead || binary.BigEndian.Uint16(options) != optionCookie || int(binary.BigEndian.Uint16(options[2:])) != len(options)-optionHead {
		return false
	}
	q.cookie = options[optionHead:]
	return cookieLen(len(q.cookie))
}

// wireOPT is the OPT record of any query. It refers to the message.
type wireOPT struct {
	size    uint16
	version uint8
	do      bool
	options []byte
	broken  bool // it is not the only one, not the root's, or not in the additional section
}

// readOPT finds a message's OPT record as far as the message can be read; nil
// where it finds none (RFC 6891 6.1.1, 6.1.2).
func readOPT(msg []byte) *wireOPT {
	h := parseHeader(msg)
	at := headerSize
	for range h.Qdcount {
		end, ok := skipName(msg, at)
		if !ok || end+4 > len(msg) {
			return nil
		}
		at = end + 4
	}
	var o *wireOPT
	before := int(h.Ancount) + int(h.Nscount)
	for k := range before + int(h.Arcount) {
		rrtype, fixed, end, ok := nextRecord(msg, at)
		switch {
		case !ok:
			return o
		case rrtype == typeOPT && o != nil:
			o.broken = true
		case rrtype == typeOPT:
			o = takeOPT(fixed)
			o.broken = msg[at] != 0 || k < before
		}
		at = end
	}
	return o
}

// nextRecord returns the record at an offset, from its type on, and where it ends.
func nextRecord(msg []byte, at int) (rrtype uint16, record []byte, end int, ok bool) {
	at, ok = skipName(msg, at)
	if !ok || at+10 > len(msg) {
		return 0, nil, 0, false
	}
	end = at + 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	if end > len(msg) {
		return 0, nil, 0, false
	}
	return binary.BigEndian.Uint16(msg[at:]), msg[at:end], end, true
}

// takeOPT reads an OPT record from its type on (RFC 6891 6.1.2 and 6.1.3).
func takeOPT(record []byte) *wireOPT {
	return &wireOPT{
		size:    binary.BigEndian.Uint16(record[2:]),
		version: record[5],
		do:      binary.BigEndian.Uint16(record[6:])&flagDO != 0,
		options: record[10:],
	}
}

// plainQuestion reports whether the question's name is written out. A pointer
// there can only point into the header, or at itself, and would make the
// response larger than the query.
func plainQuestion(msg []byte) bool {
	for at := headerSize; at < len(msg) && msg[at] <= 63; at += 1 + int(msg[at]) {
		if msg[at] == 0 {
			return true
		}
	}
	return false
}

// skipName returns where the name that begins at an offset ends.
func skipName(msg []byte, at int) (end int, ok bool) {
	for at < len(msg) {
		switch size := int(msg[at]); {
		case size == 0:
			return at + 1, true
		case size >= 0xc0:
			return at + 2, at+2 <= len(msg)
		case size > 63:
			return 0, false
		default:
			at += 1 + size
		}
	}
	return 0, false
}

// nextOption takes the first of an OPT record's options.
func nextOption(b []byte) (code uint16, data, rest []byte, ok bool) {
	if len(b) < optionHead {
		return 0, nil, nil, false
	}
	end := optionHead + int(binary.BigEndian.Uint16(b[2:]))
	if end > len(b) {
		return 0, nil, nil, false
	}
	return binary.BigEndian.Uint16(b), b[optionHead:end], b[end:], true
}

// maskOptions gives all options the code of one for local use, which nobody
// looks into, and reports whether they are well formed.
func maskOptions(b []byte) bool {
	for len(b) > 0 {
		_, _, rest, ok := nextOption(b)
		if !ok {
			return false
		}
		binary.BigEndian.PutUint16(b, dns.EDNS0LOCALSTART)
		b = rest
	}
	return true
}

// parseName reads the question's name up to its root label, folds it, and
// finds the labels before the zone.
func (q *wireQuery) parseName(msg, zone []byte) (end int, ok bool) {
	if end, ok = q.readLabels(msg); !ok {
		return 0, false
	}
	q.name = msg[headerSize:end]
	for k, c := range q.name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		q.lower[k] = c
	}
	zoneAt := len(q.name) - len(zone)
	if zoneAt < 0 || string(q.lower[zoneAt:len(q.name)]) != string(zone) {
		return 0, false
	}
	// Does the zone begin with a label there, and not inside of one?
	q.n = 0
	for p := 0; p < zoneAt; p += 1 + int(q.name[p]) {
		q.n++
	}
	if q.n > maxLabels || q.n > 0 && int(q.labels[q.n-1].end) != zoneAt {
		return 0, false
	}
	return end, true
}

// readLabels walks the labels of the question's name, notes where the first
// stand, and returns where the name ends.
func (q *wireQuery) readLabels(msg []byte) (end int, ok bool) {
	at := headerSize
	for n := 0; at < len(msg) && at-headerSize < maxName; n++ {
		size := int(msg[at])
		if size == 0 {
			return at + 1, true
		}
		if size > 63 { // a pointer, or nothing that is defined
			return 0, false
		}
		next := at + 1 + size
		if n < maxLabels && next-headerSize < maxName {
			q.labels[n] = struct{ start, end uint8 }{uint8(at + 1 - headerSize), uint8(next - headerSize)}
		}
		at = next
	}
	return 0, false
}

// label returns the kth label before the zone, in lower case.
func (q *wireQuery) label(k int) []byte { return q.lower[q.labels[k].start:q.labels[k].end] }

// zoneOffset returns where in the message the zone's own name stands in the
// question, and whether it is there in lower case, as answers have it.
func (q *wireQuery) zoneOffset(zone []byte) (int, bool) {
	at := len(q.name) - len(zone)
	return headerSize + at, string(q.name[at:]) == string(zone)
}

// frameState is what stands at the beginning of what a stream has brought.
type frameState int

const (
	frameWhole   frameState = iota
	framePartial            // more of it is to come
	frameBroken             // no message can be that short
)

// nextFrame takes the next message from a stream: two octets of length, and
// then the message (RFC 1035 4.2.2).
func nextFrame(in []byte) (msg, rest []byte, state frameState) {
	end := frameSize(in)
	switch {
	case len(in) >= 2 && end < 2+headerSize:
		return nil, in, frameBroken
	case len(in) < end:
		return nil, in, framePartial
	}
	return in[2:end], in[end:], frameWhole
}

// frameSize returns how long the message that begins there is with its length,
// as far as that is known.
func frameSize(in []byte) int {
	if len(in) < 2 {
		return 2
	}
	return 2 + int(binary.BigEndian.Uint16(in))
}

// beginFrame makes room for a message's length; the message follows.
func beginFrame(dst []byte) []byte { return append(dst, 0, 0) }

// frame returns a message with its length before it.
func frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
}

// endFrame takes the n octets behind dst in, as a message.
func endFrame(dst []byte, n int) []byte {
	binary.BigEndian.PutUint16(dst[len(dst)-2:], uint16(n))
	return dst[:len(dst)+n]
}

// appendHead begins a response, which stands at the beginning of dst: the
// query's ID, flags and question.
func appendHead(dst, msg []byte, q *wireQuery, rcode uint16) []byte {
	dst = append(dst, msg[:headerSize+len(q.name)+4]...)
	binary.BigEndian.PutUint16(dst[2:], flagQR|flagAA|q.flags&(flagRD|flagCD)|rcode)
	binary.BigEndian.PutUint64(dst[4:], 1<<48)
	return dst
}

// setCounts writes the counts of the answer, authority and additional section.
func setCounts(msg []byte, answer, authority, additional int) {
	binary.BigEndian.PutUint16(msg[6:], uint16(answer))
	binary.BigEndian.PutUint16(msg[8:], uint16(authority))
	binary.BigEndian.PutUint16(msg[10:], uint16(additional))
}

// The sizes of addresses.
const (
	sizeIPv4 = 4
	sizeIPv6 = 16
)

// appendOwned appends the A or AAAA record of an address whose owner is a
// pointer to offset owner. It is on the way of most queries: it writes words,
// not octets.
func appendOwned(dst []byte, owner int, ttl uint32, addr []byte) []byte {
	at := len(dst)
	if len(addr) == sizeIPv4 {
		dst = append(dst, make([]byte, sizeHead+sizeIPv4)...)
		r := dst[at : at+sizeHead+sizeIPv4]
		binary.BigEndian.PutUint64(r, uint64(0xc000|owner)<<48|typeA<<32|classIN<<16|uint64(ttl>>16))
		binary.BigEndian.PutUint64(r[8:], uint64(ttl)<<48|sizeIPv4<<32|uint64(binary.BigEndian.Uint32(addr)))
		return dst
	}
	dst = append(dst, make([]byte, sizeHead)...)
	r := dst[at : at+sizeHead]
	binary.BigEndian.PutUint64(r, uint64(0xc000|owner)<<48|typeAAAA<<32|classIN<<16|uint64(ttl>>16))
	binary.BigEndian.PutUint32(r[8:], ttl<<16|sizeIPv6)
	return append(dst, addr...)
}

// appendAddress does so for an address whose owner is the question's name.
func appendAddress(dst []byte, a netip.Addr, ttl uint32) []byte {
	if a.Is4() {
		b := a.As4()
		return appendOwned(dst, headerSize, ttl, b[:])
	}
	b := a.As16()
	return appendOwned(dst, headerSize, ttl, b[:])
}

// appendSRV appends the SRV record of an instance's port, with the question's
// name as the owner and a TTL to be filled in.
func appendSRV(dst []byte, i *store.Instance, zone []byte) []byte {
	dst = append(dst, 0xc0, headerSize, 0, typeSRV, 0, classIN, 0, 0, 0, 0)
	for _, n := range []uint16{uint16(6 + 1 + len(i.Label) + 1 + len(i.Service) + len(zone)), i.Priority, i.Weight, i.Port} {
		dst = binary.BigEndian.AppendUint16(dst, n)
	}
	return append(appendLabel(appendLabel(dst, i.Label), i.Service), zone...)
}

// appendLabel appends one label.
func appendLabel(dst []byte, label string) []byte {
	return append(append(dst, byte(len(label))), label...)
}

// wireName returns a name, which is fully qualified and needs no escapes.
func wireName(name string) []byte {
	var dst []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		dst = appendLabel(dst, label)
	}
	return append(dst, 0)
}

// appendRecord appends a record whose owner is a pointer to offset owner.
func appendRecord(dst, record []byte, owner int, ttl uint32) []byte {
	at := len(dst)
	dst = append(dst, record...)
	binary.BigEndian.PutUint16(dst[at:], 0xc000|uint16(owner))
	binary.BigEndian.PutUint32(dst[at+6:], ttl)
	return dst
}

// appendOPT appends the response's OPT record, with the cookie unless it is
// nil, and with an Extended DNS Error of that text unless it is "".
func appendOPT(dst []byte, size uint16, do bool, cookie []byte, why string) []byte {
	dst = append(dst, 0, 0, typeOPT, byte(size>>8), byte(size), 0, 0, 0, 0, 0, 0)
	if do {
		dst[len(dst)-4] |= flagDO >> 8
	}
	start := len(dst)
	if cookie != nil {
		dst = append(append(dst, 0, optionCookie, 0, byte(len(cookie))), cookie...)
	}
	if why != "" {
		dst = append(dst, 0, optionEDE)
		dst = binary.BigEndian.AppendUint16(dst, uint16(2+len(why)))
		dst = append(append(dst, 0, 0), why...)
	}
	binary.BigEndian.PutUint16(dst[start-2:], uint16(len(dst)-start))
	return dst
}

// slip cuts a response to header and question, and has it say TC. The OPT
// record is to be appended.
func slip(b []byte) []byte {
	b = b[:questionEnd(b)]
	setCounts(b, 0, 0, 0)
	setTruncated(b)
	return b
}

// appendBadCookie makes of a slipped response one that has the client come
// again with its cookie (RFC 7873 section 5.2.3).
func appendBadCookie(b []byte, size uint16, do bool, cookie []byte) []byte {
	flags := binary.BigEndian.Uint16(b[2:])
	binary.BigEndian.PutUint16(b[2:], flags&^(flagTC|flagAA|rcodeMask)|badCookieLow)
	at := len(b)
	b = appendOPT(b, size, do, cookie, "")
	b[at+5] = badCookieHigh
	setCounts(b, 0, 0, 1)
	return b
}

// appendSlipOPT ends a slipped response to a client that speaks EDNS.
func appendSlipOPT(b []byte, size uint16, do bool) []byte {
	b = appendOPT(b, size, do, nil, "")
	setCounts(b, 0, 0, 1)
	return b
}

// questionEnd returns where a response's question ends; it may have none.
func questionEnd(b []byte) int {
	if binary.BigEndian.Uint16(b[4:]) == 0 {
		return headerSize
	}
	end, _ := skipName(b, headerSize) // it was written here
	return end + 4
}

// appendKind appends what makes a response one of its kind (see rrl.go): the
// response code, and for an answer the question in lower case, for NXDOMAIN
// the zone.
func appendKind(dst, b, zone []byte) []byte {
	rcode := b[3] & rcodeMask
	dst = append(dst, rcode)
	switch rcode {
	case dns.RcodeSuccess:
		at := len(dst)
		dst = append(dst, b[headerSize:questionEnd(b)]...)
		for k := at; k < len(dst)-4; k++ {
			if c := dst[k]; 'A' <= c && c <= 'Z' {
				dst[k] = c + 'a' - 'A'
			}
		}
	case rcodeNX:
		dst = append(dst, zone...)
	default:
		dst[len(dst)-1] = 0xff // all errors are of one kind
	}
	return dst
}

// appendCookie appends a COOKIE option's data: the client's cookie, version 1,
// three reserved octets, the time, and the hash (RFC 9018 section 4).
func appendCookie(dst, clientCookie []byte, unix uint32) []byte {
	dst = append(append(dst, clientCookie...), 1, 0, 0, 0)
	return binary.BigEndian.AppendUint32(dst, unix)
}

// cookieTime returns when a whole cookie of our form was made.
func cookieTime(cookie []byte) (unix uint32, ok bool) {
	if len(cookie) != cookieSize || binary.BigEndian.Uint32(cookie[clientCookieSize:]) != 1<<24 {
		return 0, false
	}
	return binary.BigEndian.Uint32(cookie[clientCookieSize+4:]), true
}

// setTruncated sets TC.
func setTruncated(msg []byte) { msg[2] |= flagTC >> 8 }

// setTTL gives a record, which begins with a pointer, another TTL.
func setTTL(record []byte, ttl uint32) { binary.BigEndian.PutUint32(record[6:], ttl) }

// setTTLs does so for records that all have the same size.
func setTTLs(records []byte, size int, ttl uint32) {
	for at := 0; at < len(records); at += size {
		setTTL(records[at:], ttl)
	}
}

// hasRecord reports whether the record is among others of its size.
func hasRecord(records, record []byte) bool {
	for at := 0; at < len(records); at += len(record) {
		if string(records[at:at+len(record)]) == string(record) {
			return true
		}
	}
	return false
}

// soaWire is the zone's SOA record in wire format, but for its owner and
// serial: names inside the zone end in a pointer to it.
type soaWire struct {
	ttl    uint32
	names  [2]partName // MNAME and RNAME
	timers [20]byte    // serial, refresh, retry, expire, minimum
}

// partName is a name: labels, and then the zone, or where it is elsewhere the
// root that is in the labels.
type partName struct {
	labels []byte
	inZone bool
}

// newSOAWire compiles the zone's SOA record.
func newSOAWire(z *zone, zoneWire []byte) *soaWire {
	soa := z.soa(0)
	w := &soaWire{ttl: soa.Hdr.Ttl}
	for k, name := range []string{soa.Ns, soa.Mbox} {
		wire := wireName(name)
		w.names[k] = partName{labels: wire}
		if head := len(wire) - len(zoneWire); dns.IsSubDomain(z.name, name) && string(wire[head:]) == string(zoneWire) {
			w.names[k] = partName{wire[:head], true}
		}
	}
	for k, v := range []uint32{0, soa.Refresh, soa.Retry, soa.Expire, soa.Minttl} {
		binary.BigEndian.PutUint32(w.timers[4*k:], v)
	}
	return w
}

// append appends the record to a response for q.
func (s *soaWire) append(dst []byte, q *wireQuery, zone []byte, serial uint32) []byte {
	at, same := q.zoneOffset(zone)
	if same {
		dst = append(dst, 0xc0|byte(at>>8), byte(at))
	} else { // the question has it in another case: write it as it is
		at = len(dst)
		dst = append(dst, zone...)
	}
	dst = append(dst, 0, typeSOA, 0, classIN)
	dst = binary.BigEndian.AppendUint32(dst, s.ttl)
	dst = append(dst, 0, 0)
	start := len(dst)
	for _, n := range s.names {
		dst = append(dst, n.labels...)
		if n.inZone {
			dst = append(dst, 0xc0|byte(at>>8), byte(at))
		}
	}
	timers := len(dst)
	dst = append(dst, s.timers[:]...)
	binary.BigEndian.PutUint32(dst[timers:], serial)
	binary.BigEndian.PutUint16(dst[start-2:], uint16(len(dst)-start))
	return dst
}
