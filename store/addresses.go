package store

import (
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
)

// addresses finds instances by address, of those addresses that are in the
// configured prefixes. Without prefixes it costs nothing. Lookups take no
// lock; only restore and apply, which never run at the same time, change it.
type addresses struct {
	within []netip.Prefix
	roots  [2]atomic.Pointer[addressNode] // of IPv4 and of IPv6
}

// addressNode is a node of a binary tree by the bits of addresses, in which no
// node has a single child. It is immutable: a change copies the nodes above it.
type addressNode struct {
	prefix netip.Prefix    // all addresses below are in it
	kids   [2]*addressNode // by the first bit behind the prefix; nil in a leaf
	leases []*Lease        // in a leaf: of the instances that have the address
}

// HasAddress reports whether any registered instance has an address in the
// prefix, which must be within one of [Config.Addresses].
func (r *Registry) HasAddress(in netip.Prefix) bool { return r.holders.any(in) }

// Holders calls yield with every registered instance that has the address,
// and the view that it is in, until yield returns false. The address must be
// in one of [Config.Addresses]. Leases may have ended; the order is that of
// registration.
func (r *Registry) Holders(a netip.Addr, yield func(*View, Member) bool) {
	seen := map[*Lease]bool{} // a list that is being changed may have one twice
	for _, l := range r.holders.at(a) {
		v := r.Service(l.slot.service)
		if v == nil || seen[l] {
			continue
		}
		m, ok := v.at(l.slot.label)
		if !ok || m.Lease != l || !slices.Contains(m.Addresses, a) {
			continue
		}
		seen[l] = true
		if !yield(v, m) {
			return
		}
	}
}

// movedLease is a lease whose instance had addresses before that it may have
// no longer.
type movedLease struct {
	lease         *Lease
	before, after *Instance
}

// move makes an instance found by its new addresses now, and no longer by its
// old ones when the views are published: between the two, readers of the views
// before find it by the old ones.
func (b *batch) move(l *Lease, e *Event) {
	if len(b.holders.within) == 0 {
		return
	}
	b.holders.add(e.Before, e.After, l)
	if e.Before != nil {
		b.moved = append(b.moved, movedLease{l, e.Before, e.After})
	}
}

func (x *addresses) root(a netip.Addr) *atomic.Pointer[addressNode] {
	if a.Is4() {
		return &x.roots[0]
	}
	return &x.roots[1]
}

// add notes the addresses that after has and before has not; either may be nil.
func (x *addresses) add(before, after *Instance, l *Lease) {
	for a := range x.gained(before, after) {
		root := x.root(a)
		root.Store(root.Load().with(a, l))
	}
}

// remove forgets the addresses that before has and after has not.
func (x *addresses) remove(before, after *Instance, l *Lease) {
	for a := range x.gained(after, before) {
		root := x.root(a)
		root.Store(root.Load().without(a, l))
	}
}

// gained calls yield with the addresses that i has and other has not.
func (x *addresses) gained(other, i *Instance) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		if i == nil || len(x.within) == 0 {
			return
		}
		for _, a := range i.Addresses {
			if other != nil && slices.Contains(other.Addresses, a) {
				continue
			}
			in := func(p netip.Prefix) bool { return p.Contains(a) }
			if slices.ContainsFunc(x.within, in) && !yield(a) {
				return
			}
		}
	}
}

// at returns the leases of the instances that have the address. One may be in
// it twice, or have lost the address just now.
func (x *addresses) at(a netip.Addr) []*Lease {
	n := x.root(a).Load()
	for n != nil && n.prefix.Contains(a) {
		if n.leaf() {
			return n.leases
		}
		n = n.kids[bitOf(a, n.prefix.Bits())]
	}
	return nil
}

// any reports whether there is an address in the prefix.
func (x *addresses) any(p netip.Prefix) bool {
	n := x.root(p.Addr()).Load()
	for n != nil && n.prefix.Bits() < p.Bits() {
		if !n.prefix.Contains(p.Addr()) {
			return false
		}
		n = n.kids[bitOf(p.Addr(), n.prefix.Bits())]
	}
	return n != nil && p.Contains(n.prefix.Addr())
}

func (n *addressNode) leaf() bool { return n.prefix.IsSingleIP() }

// with returns the tree at n with one more lease at the address.
func (n *addressNode) with(a netip.Addr, l *Lease) *addressNode {
	switch {
	case n == nil:
		return &addressNode{prefix: netip.PrefixFrom(a, a.BitLen()), leases: []*Lease{l}}
	case !n.prefix.Contains(a):
		common := commonBits(n.prefix.Addr(), a)
		parent := &addressNode{}
		parent.prefix, _ = a.Prefix(common)
		parent.kids[bitOf(a, common)] = (*addressNode)(nil).with(a, l)
		parent.kids[bitOf(n.prefix.Addr(), common)] = n
		return parent
	}
	c := *n
	if n.leaf() {
		// Into spare room if there is any: readers of n see no further than
		// n's length, and n is never appended to again.
		c.leases = append(n.leases, l)
		return &c
	}
	kid := bitOf(a, n.prefix.Bits())
	c.kids[kid] = n.kids[kid].with(a, l)
	return &c
}

// without returns the tree at n with one lease less at the address, nil where
// nothing is left.
func (n *addressNode) without(a netip.Addr, l *Lease) *addressNode {
	if n == nil || !n.prefix.Contains(a) {
		return n
	}
	c := *n
	if n.leaf() {
		k := slices.Index(n.leases, l)
		switch {
		case k < 0:
			return n
		case len(n.leases) == 1:
			return nil
		}
		c.leases = slices.Concat(n.leases[:k], n.leases[k+1:])
		return &c
	}
	kid := bitOf(a, n.prefix.Bits())
	if c.kids[kid] = n.kids[kid].without(a, l); c.kids[kid] == nil {
		return c.kids[1-kid]
	}
	return &c
}

// bitOf returns the bit of the address that k others stand before.
func bitOf(a netip.Addr, k int) int {
	if a.Is4() {
		k += 96
	}
	octets := a.As16()
	return int(octets[k/8]>>(7-k%8)) & 1
}

// commonBits returns how many first bits two different addresses of one family
// share.
func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	k := 0
	for x[k] == y[k] {
		k++
	}
	n := 8*k + bits.LeadingZeros8(x[k]^y[k])
	if a.Is4() {
		n -= 96
	}
	return n
}
