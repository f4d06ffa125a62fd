package dnsserver

import (
	"math/bits"
	"net/netip"
	"slices"
	"sort"

	"github.com/rosterdns/roster/store"
)

// crowd stands for a set of more records than are compiled: an answer with all
// of them fits into no message over UDP. So it says only who is in the draw for
// the part that goes into an answer with TC; what that costs does not hang on
// how many they are. Over TCP it is for the ordinary path.
type crowd struct {
	members []store.Member // the view's
	from    []uint32       // which of them
	sums    []uint64       // of the tickets of these, up to and with each; nil where all have as many
}

// newCrowd makes the crowd of those members; each has so many tickets.
func newCrowd(members []store.Member, from []uint32, tickets func(store.Member) uint64) *crowd {
	c := &crowd{members: members, from: from}
	first := tickets(members[from[0]])
	if !slices.ContainsFunc(from, func(i uint32) bool { return tickets(members[i]) != first }) {
		return c
	}
	c.sums = make([]uint64, len(from))
	sum := uint64(0)
	for k, i := range from {
		sum += tickets(members[i])
		c.sums[k] = sum
	}
	return c
}

// draw draws one of them, and returns which.
func (f *fastPath) draw(c *crowd) uint32 {
	if c.sums == nil {
		return c.from[f.below32(uint32(len(c.from)))]
	}
	ticket, _ := bits.Mul64(f.rnd.Uint64(), c.sums[len(c.sums)-1])
	return c.from[sort.Search(len(c.sums), func(k int) bool { return c.sums[k] > ticket })]
}

// drawMost bounds the draws for one answer: beyond it too many were ended, or
// drawn twice.
const drawMost = 1024

// drawAddresses answers with as many addresses as fit, and TC.
func (f *fastPath) drawAddresses(dst, msg []byte, v *store.View, c *crowd) ([]byte, bool) {
	if f.stream {
		return dst, false
	}
	dst = appendHead(dst, msg, &f.q, 0)
	first, n, ttl := len(dst), 0, f.maxTTL
	for range drawMost {
		m := c.members[f.draw(c)]
		if !m.Lease.Alive(f.now) {
			continue
		}
		at := len(dst)
		dst = appendAddress(dst, f.drawAddress(m), 0)
		if hasRecord(dst[first:at], dst[at:]) {
			dst = dst[:at]
			continue
		}
		if !f.fits(dst) {
			setTTLs(dst[first:at], len(dst)-at, ttl)
			return f.truncate(dst[:at], n, v, ttl)
		}
		ttl = min(ttl, m.Lease.TTL(f.now, f.maxTTL))
		n++
	}
	return dst, false
}

// drawSRV answers with as many SRV records as fit, and TC.
func (f *fastPath) drawSRV(dst, msg []byte, v *store.View, c *crowd) ([]byte, bool) {
	if f.stream {
		return dst, false
	}
	dst = appendHead(dst, msg, &f.q, 0)
	drawn, ends, ttl := f.drawn[:0], f.order[:0], f.maxTTL
	first := len(dst)
	for range drawMost {
		k := f.draw(c)
		m := c.members[k]
		if slices.Contains(drawn, k) || !m.Lease.Alive(f.now) {
			continue
		}
		at := len(dst)
		dst = appendSRV(dst, m.Instance, f.zone)
		if !f.fits(dst) {
			for _, end := range ends {
				setTTL(dst[first:], ttl)
				first = int(end)
			}
			return f.truncate(dst[:at], len(ends), v, ttl)
		}
		ttl = min(ttl, m.Lease.TTL(f.now, f.maxTTL))
		drawn, ends = append(drawn, k), append(ends, uint16(len(dst)))
	}
	return dst, false
}

// drawAddress draws one of an instance's addresses of the family asked for.
func (f *fastPath) drawAddress(m store.Member) netip.Addr {
	of := m.Addresses
	ipv4 := countFamily(of, true) // which stand first
	if f.q.rrtype == typeA {
		of = of[:ipv4]
	} else {
		of = of[ipv4:]
	}
	return of[f.below32(uint32(len(of)))]
}
