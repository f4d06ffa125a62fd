package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
	"time"
)

// A record is one instance as bytes: what every backend that keeps instances
// writes. docs/storage.md has the layout.

// The version stands at the start of each record. A record of version 2 goes
// on, after what one of version 1 has, with fields that are each a number and a
// text; it is written only where there is such a field, so that what needs none
// can still be read by what came before.
const (
	recordVersion       = 1
	recordVersionFields = 2
)

// The numbers of the fields.
const (
	recordCheck   = 1
	recordLeaving = 2 // there where the instance is leaving; its text is empty
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Why a record is not taken.
var (
	ErrDamagedRecord = errors.New("record is damaged")
	ErrNewerRecord   = errors.New("record was written by a newer version of roster")
)

// RecordKey returns the key under which an instance is stored: service, a zero
// octet, ID. Neither can contain a zero, so keys sort by service.
func RecordKey(service, id string) []byte {
	return append(append([]byte(service), 0), id...)
}

// AppendRecord appends the stored form of i to dst. Its checksum covers the
// key as well, so that a record that has come under another key is found.
func AppendRecord(dst []byte, i *Instance) []byte {
	start := len(dst)
	version := byte(recordVersion)
	if i.Check != nil || i.Leaving {
		version = recordVersionFields
	}
	dst = append(dst, version, byte(i.Protocol), byte(i.Status))
	for _, n := range []uint64{
		uint64(i.Revision), uint64(i.TTL / time.Second), uint64(i.Port), uint64(i.Priority), uint64(i.Weight),
	} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = binary.AppendUvarint(dst, uint64(len(i.Addresses)))
	for _, a := range i.Addresses {
		dst = appendText(dst, string(a.AsSlice()))
	}
	dst = binary.AppendUvarint(dst, uint64(len(i.Ports)))
	for _, p := range i.Ports {
		dst = appendText(dst, p.Name)
		dst = binary.AppendUvarint(dst, uint64(p.Port))
	}
	dst = binary.AppendUvarint(dst, uint64(len(i.Tags)))
	for _, t := range i.Tags {
		dst = appendText(dst, t)
	}
	dst = binary.AppendUvarint(dst, uint64(len(i.Meta)))
	for _, p := range i.Meta {
		dst = appendText(appendText(dst, p.Key), p.Value)
	}
	dst = appendText(dst, i.Given)
	if i.Check != nil {
		dst = binary.AppendUvarint(dst, recordCheck)
		dst = appendText(dst, string(appendCheck(nil, i)))
	}
	if i.Leaving {
		dst = binary.AppendUvarint(dst, recordLeaving)
		dst = appendText(dst, "")
	}
	return binary.BigEndian.AppendUint32(dst, recordSum(RecordKey(i.Service, i.ID), dst[start:]))
}

// appendCheck appends the check and whether it is what has i down.
func appendCheck(dst []byte, i *Instance) []byte {
	c := i.Check
	dst = append(dst, byte(c.Type), flag(c.Removes)|flag(i.Failing)<<1, c.Rise, c.Fall)
	dst = binary.AppendUvarint(dst, uint64(c.Interval/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(c.Timeout/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(c.Port))
	dst = appendText(dst, c.Path)
	return appendText(dst, string(c.Peer.AsSlice()))
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func recordSum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

// ParseRecord reads back what AppendRecord wrote under RecordKey. It copies
// what it keeps. An error wraps ErrDamagedRecord or ErrNewerRecord.
func ParseRecord(key, value []byte) (*Instance, error) {
	if len(value) < 5 {
		return nil, fmt.Errorf("%d octets: %w", len(value), ErrDamagedRecord)
	}
	body, sum := value[:len(value)-4], binary.BigEndian.Uint32(value[len(value)-4:])
	if recordSum(key, body) != sum {
		return nil, fmt.Errorf("checksum does not match: %w", ErrDamagedRecord)
	}
	if body[0] != recordVersion && body[0] != recordVersionFields {
		return nil, fmt.Errorf("record version %d: %w", body[0], ErrNewerRecord)
	}
	service, id, ok := strings.Cut(string(key), "\x00")
	if !ok {
		return nil, fmt.Errorf("key %q: %w", key, ErrDamagedRecord)
	}
	i := &Instance{Service: service, ID: id, Label: Label(id)}
	p := recordParser{rest: string(body[1:])}
	p.instance(i)
	if err := p.fields(i, body[0]); err != nil {
		return nil, err
	}
	if p.bad || p.rest != "" {
		return nil, fmt.Errorf("fields do not fit: %w", ErrDamagedRecord)
	}
	return i, nil
}

// recordParser takes fields from the front of rest; once one does not fit, bad
// is set and every further field is zero. All strings share one copy of the
// record's text.
type recordParser struct {
	rest string
	bad  bool
}

func (p *recordParser) instance(i *Instance) {
	i.Protocol = Protocol(p.octet(byte(UDP)))
	i.Status = Status(p.octet(byte(Draining)))
	i.Revision = Revision(p.number(1<<64 - 1))
	i.TTL = time.Duration(p.number(uint64(MaxTTL/time.Second))) * time.Second
	i.Port = uint16(p.number(1<<16 - 1))
	i.Priority = uint16(p.number(1<<16 - 1))
	i.Weight = uint16(p.number(1<<16 - 1))
	i.Addresses = list(p, func() netip.Addr {
		a, ok := netip.AddrFromSlice([]byte(p.text()))
		p.bad = p.bad || !ok
		return a
	})
	i.Ports = list(p, func() NamedPort { return NamedPort{p.text(), uint16(p.number(1<<16 - 1))} })
	i.Tags = list(p, p.text)
	i.Meta = list(p, func() Pair { return Pair{p.text(), p.text()} })
	i.Given = p.text()
}

// fields reads what a record of version 2 has beyond one of version 1. A
// number that is not known is of a newer version.
func (p *recordParser) fields(i *Instance, version byte) error {
	for version == recordVersionFields && !p.bad && p.rest != "" {
		switch n := p.number(1<<64 - 1); {
		case p.bad:
		case n == recordCheck:
			q := recordParser{rest: p.text(), bad: i.Check != nil || p.bad}
			q.check(i)
			p.bad = q.bad || q.rest != ""
		case n == recordLeaving:
			p.bad = p.text() != "" || i.Leaving || i.Status != Draining || p.bad
			i.Leaving = true
		default:
			return fmt.Errorf("record field %d: %w", n, ErrNewerRecord)
		}
	}
	return nil
}

func (p *recordParser) check(i *Instance) {
	c := &Check{Type: CheckType(p.octet(byte(CheckGRPC)))}
	flags := p.octet(3)
	c.Removes, i.Failing = flags&1 != 0, flags&2 != 0
	c.Rise, c.Fall = p.octet(MaxRise), p.octet(MaxRise)
	c.Interval = time.Duration(p.number(uint64(MaxInterval/time.Millisecond))) * time.Millisecond
	c.Timeout = time.Duration(p.number(uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
	c.Port = uint16(p.number(1<<16 - 1))
	c.Path = p.text()
	if peer := p.text(); peer != "" {
		var ok bool
		c.Peer, ok = netip.AddrFromSlice([]byte(peer))
		p.bad = p.bad || !ok
	}
	i.Check = c
}

// list reads a count and that many items.
func list[T any](p *recordParser, item func() T) []T {
	n := p.number(uint64(len(p.rest))) // each item takes an octet at least
	if n == 0 {
		return nil
	}
	items := make([]T, 0, n)
	for range n {
		if p.bad {
			return nil
		}
		items = append(items, item())
	}
	return items
}

func (p *recordParser) octet(limit byte) byte {
	if p.bad || p.rest == "" || p.rest[0] > limit {
		p.bad = true
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

func (p *recordParser) number(limit uint64) uint64 {
	var n uint64
	for k := 0; k < len(p.rest) && k < binary.MaxVarintLen64; k++ {
		b := p.rest[k]
		n |= uint64(b&0x7f) << (7 * k)
		if b < 0x80 {
			p.rest = p.rest[k+1:]
			if n > limit {
				break
			}
			return n
		}
	}
	p.bad = true
	return 0
}

func (p *recordParser) text() string {
	n := p.number(uint64(len(p.rest)))
	if p.bad || n > uint64(len(p.rest)) {
		p.bad = true
		return ""
	}
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s
}
