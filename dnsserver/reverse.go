package dnsserver

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file has the reverse zones: names made of addresses, below in-addr.arpa
// (RFC 1035 section 3.5) and ip6.arpa (RFC 3596 section 2.5), which point to
// the instances that have them.

const (
	// maxReverse bounds the reverse zones: each has its own SOA and NS.
	maxReverse = 1024
	// The widest prefixes that have a zone: wider ones are not one zone's.
	widest4, widest6 = 8, 4
)

// Reverse checks prefixes in CIDR form and returns those of the zones that
// hold their reverse names, beside the given zone. Zones are cut at octets of
// IPv4 and at nibbles of IPv6, so a prefix that ends elsewhere has several.
// One that is within another has none of its own. An error names the flag.
func Reverse(cidrs []string, zone string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range cidrs {
		p, err := parseReverse(text)
		if err != nil {
			return nil, fmt.Errorf("--reverse %s: %w", text, err)
		}
		for _, cut := range cutAtLabels(p) {
			if name := reverseZone(cut); dns.IsSubDomain(zone, name) || dns.IsSubDomain(name, zone) {
				return nil, fmt.Errorf("--reverse %s: its zone %s and --zone %s are one within the other; they must be apart", text, name, zone)
			}
			all = append(all, cut)
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var zones []netip.Prefix
	known := map[netip.Prefix]bool{}
	for _, p := range all {
		if !within(known, p) {
			known[p] = true
			zones = append(zones, p)
		}
	}
	if len(zones) > maxReverse {
		return nil, fmt.Errorf("--reverse: these prefixes take %d zones; allowed are %d: give prefixes that end at whole octets of IPv4, nibbles of IPv6", len(zones), maxReverse)
	}
	return zones, nil
}

func parseReverse(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("it is no prefix such as 10.1.0.0/16 or 2001:db8::/32: %w", err)
	}
	widest := widest4
	if p.Addr().Is6() {
		widest = widest6
	}
	switch {
	case p.Addr().Is4In6():
		return p, fmt.Errorf("write an IPv4 prefix as such, %s/%d", p.Addr().Unmap(), max(p.Bits()-96, widest4))
	case p != p.Masked():
		return p, fmt.Errorf("the address has bits behind the prefix; write %s", p.Masked())
	case p.Bits() < widest:
		return p, fmt.Errorf("it is too wide; allowed are /%d to /32 of IPv4, /%d to /128 of IPv6", widest4, widest6)
	}
	return p, nil
}

// labelBits is how many bits of an address one label of its reverse name has.
func labelBits(a netip.Addr) int {
	if a.Is4() {
		return 8
	}
	return 4
}

// cutAtLabels returns the prefixes that end with a label and make up p.
func cutAtLabels(p netip.Prefix) []netip.Prefix {
	unit := labelBits(p.Addr())
	bits := (p.Bits() + unit - 1) / unit * unit
	cut := make([]netip.Prefix, 1<<(bits-p.Bits()))
	for k := range cut {
		octets := p.Addr().AsSlice()
		octets[(bits-1)/8] |= byte(k) << (-bits & 7) // what p leaves open is within one label
		a, _ := netip.AddrFromSlice(octets)
		cut[k] = netip.PrefixFrom(a, bits)
	}
	return cut
}

// within reports whether a prefix, or a wider one that it is in, is known.
func within(known map[netip.Prefix]bool, p netip.Prefix) bool {
	for bits := p.Bits(); bits > 0; bits-- {
		if wider, _ := p.Addr().Prefix(bits); known[wider] {
			return true
		}
	}
	return false
}

// reverseZone returns the zone's name of a prefix that ends with a label.
func reverseZone(p netip.Prefix) string {
	name := reverseName(p.Addr())
	off := 0
	for range (p.Addr().BitLen() - p.Bits()) / labelBits(p.Addr()) {
		off, _ = dns.NextLabel(name, off)
	}
	return name[off:]
}

// reverseName returns the reverse name of an address.
func reverseName(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic("dnsserver: internal error: an address without a reverse name: " + err.Error())
	}
	return name
}

// reverse makes the reverse zone of a prefix, beside the zone z that instances
// have their names in.
func (z *zone) reverse(p netip.Prefix) *zone {
	r := *z
	r.name, r.prefix = reverseZone(p), p
	r.servers = withGlue(z.servers, r.name, nil)
	return &r
}

// findReverse returns the node of a reverse zone at the name that the labels
// give below it.
func (z *zone) findReverse(reg registry, labels []string, now store.Instant) node {
	n := node{apex: len(labels) == 0}
	p, ok := z.prefixOf(labels)
	switch {
	case !ok:
		return nothing
	case p.IsSingleIP():
		n.address = p.Addr()
		reg.Holders(n.address, func(_ *store.View, m store.Member) bool {
			n.exists = m.Lease.Alive(now)
			return !n.exists
		})
	default:
		n.exists = reg.HasAddress(p)
	}
	n.exists = n.exists || n.apex
	return n
}

// prefixOf returns the addresses whose reverse names are at or below the name
// that the labels give below the zone.
func (z *zone) prefixOf(labels []string) (netip.Prefix, bool) {
	unit, bits := labelBits(z.prefix.Addr()), z.prefix.Bits()
	octets := z.prefix.Addr().AsSlice()
	for _, label := range slices.Backward(labels) {
		value, ok := reverseLabel(label, unit)
		if !ok || bits == 8*len(octets) {
			return netip.Prefix{}, false
		}
		bits += unit
		octets[(bits-1)/8] |= value << (-bits & 7)
	}
	a, _ := netip.AddrFromSlice(octets)
	return netip.PrefixFrom(a, bits), true
}

// reverseLabel reads a label of a reverse name: an octet in decimal, or a
// nibble in hexadecimal, written as it is written there and not otherwise.
func reverseLabel(label string, bits int) (byte, bool) {
	base := 10
	if bits == 4 {
		base = 16
	}
	value, err := strconv.ParseUint(label, base, bits)
	return byte(value), err == nil && strconv.FormatUint(value, base) == label
}

// answerReverse points to every live instance that has the address, whatever
// its status: it is the instance's own name.
func (z *zone) answerReverse(a *answer, reg registry, q question, addr netip.Addr, now store.Instant) {
	var holders []holder
	reg.Holders(addr, func(v *store.View, m store.Member) bool {
		if m.Lease.Alive(now) {
			holders = append(holders, holder{m, v})
		}
		return q.most == 0 || len(holders) < q.most
	})
	slices.SortFunc(holders, func(x, y holder) int {
		return cmp.Or(strings.Compare(x.Service, y.Service), strings.Compare(x.Label, y.Label))
	})
	ttl := z.maxTTL
	for _, h := range holders {
		ttl = min(ttl, h.Lease.TTL(now, z.maxTTL))
	}
	for _, h := range holders {
		a.records = append(a.records, record{rr: z.pointer(q.name, z.instanceName(h.Instance), ttl)})
		if last := len(a.views) - 1; last < 0 || a.views[last] != h.view {
			a.views = append(a.views, h.view)
		}
	}
	a.keep = ttl
}

// holder is an instance that has an address, and the view that it is in.
type holder struct {
	store.Member
	view *store.View
}
