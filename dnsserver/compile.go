package dnsserver

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/rosterdns/roster/store"
)

// compiled is what a service's view says in wire format: it is made once for
// each view, when the service changes, and never for a query. What differs
// from query to query (ID, flags, TTLs, order) is filled in by fastpath.go.
type compiled struct {
	a    rrset
	srv  srvset
	aaaa *rrset // nil: there is none
	// protocol is the one that all instances speak, so that srv is also what
	// _web._tcp has; -1 where they speak both.
	protocol int8
	// why is what an empty answer says to people.
	why string
	// soonest is a moment before which no lease of the view ends.
	soonest atomic.Int64
}

// rrset is the records of one type, and the leases that their one TTL hangs
// on. What a query reads lies together: it is not in the processor's cache.
type rrset struct {
	n       int    // how many
	data    []byte // the addresses; or the SRV records, owner and TTL not filled in
	leases  []*store.Lease
	weights []int // nil: all alike
	soonest atomic.Int64

	many *crowd // in place of all that where they are too many
	left bool   // for the ordinary path, if all records fit: too much hangs on them
}

// srvset is the SRV records; each has its place in ends, leases and targets.
type srvset struct {
	rrset
	ends    []uint16 // where each ends in data
	targets []target
	addrs   []byte // of the targets
}

// target is the additional data of one SRV record: the addresses of its
// instance, IPv4 first, from start in addrs on.
type target struct {
	start, a, aaaa uint16 // a and aaaa are how many there are of each
}

const (
	// compileMost is how many instances, and how many addresses in all, a set
	// may have to be compiled: with more of them hardly an answer fits into a
	// message over UDP.
	compileMost = 256
	// leasesMost is how many leases may share the addresses of a set: each is
	// looked at for a TTL.
	leasesMost = 1024
	sizeHead   = 2 + 10       // of a record whose owner is a pointer
	sizeSRV    = sizeHead + 6 // and the target
	maxUDP     = 4096
)

// Compile returns a function for [store.Config]'s Derive that makes answers of
// the zone ready in wire format. Without it every query takes the ordinary
// path, which has the same answers.
func Compile(zone string) func(*store.View) any {
	zoneWire := wireName(zone)
	return func(v *store.View) any { return compile(v, zoneWire) }
}

func compile(v *store.View, zoneWire []byte) *compiled {
	members := v.All()
	c := &compiled{protocol: int8(members[0].Protocol)}
	c.soonest.Store(math.MinInt64) // not known yet
	up, ipv6 := 0, false
	for _, m := range members {
		if m.Status == store.Up {
			up++
			ipv6 = ipv6 || countFamily(m.Addresses, false) > 0
		}
		if int8(m.Protocol) != c.protocol {
			c.protocol = -1
		}
	}
	if up == 0 {
		c.why = fmt.Sprintf("%s: %d instances, 0 up", v.Service, len(members))
	} else {
		c.why = fmt.Sprintf("%s: %d instances, %d up, none with this type", v.Service, len(members), up)
	}
	c.srv.compile(members, zoneWire)
	c.a.compile(members, true)
	c.a.share(&c.srv.rrset)
	if ipv6 {
		c.aaaa = &rrset{}
		c.aaaa.compile(members, false)
		c.aaaa.share(&c.srv.rrset)
	}
	return c
}

// share has s use the leases of o where they are the same, as they nearly
// always are: a tenth of what a compiled service takes.
func (s *rrset) share(o *rrset) {
	if slices.Equal(s.leases, o.leases) {
		s.leases = o.leases
	}
}

// compile does what answerAddresses does, in wire format.
func (s *rrset) compile(members []store.Member, ipv4 bool) {
	s.soonest.Store(math.MinInt64)
	var from []uint32 // those of the best priority
	n, best := 0, math.MaxInt
	for k, m := range members {
		here := countFamily(m.Addresses, ipv4)
		if m.Status != store.Up || here == 0 || int(m.Priority) > best {
			continue
		}
		if int(m.Priority) < best {
			from, n, best = from[:0], 0, int(m.Priority)
		}
		if from == nil {
			from = make([]uint32, 0, len(members)-k)
		}
		from, n = append(from, uint32(k)), n+here
	}
	if n > compileMost && distinct(members, from, ipv4) > compileMost {
		s.many = newCrowd(members, from, func(m store.Member) uint64 {
			return tickets(int(m.Weight)) * uint64(countFamily(m.Addresses, ipv4))
		})
		return
	}
	if s.left = len(from) > leasesMost; s.left {
		return
	}
	places := make(map[netip.Addr]int, min(n, compileMost))
	s.leases = make([]*store.Lease, 0, len(from))
	for _, k := range from {
		s.leases = append(s.leases, members[k].Lease)
		for _, addr := range members[k].Addresses {
			if addr.Is4() == ipv4 {
				s.addAddress(places, addr, int(members[k].Weight))
			}
		}
	}
	if !slices.ContainsFunc(s.weights, func(w int) bool { return w != s.weights[0] }) {
		s.weights = nil
	}
	s.data = slices.Clone(s.data)
}

// distinct returns how many different addresses of the family these members
// have, or one more than compileMost where they have more.
func distinct(members []store.Member, from []uint32, ipv4 bool) int {
	seen := make(map[netip.Addr]bool, compileMost)
	for _, k := range from {
		for _, addr := range members[k].Addresses {
			if addr.Is4() == ipv4 {
				seen[addr] = true
			}
		}
		if len(seen) > compileMost {
			return compileMost + 1
		}
	}
	return len(seen)
}

// countFamily returns how many of the addresses are IPv4, or IPv6.
func countFamily(addrs []netip.Addr, ipv4 bool) int {
	n := 0
	for _, a := range addrs {
		if a.Is4() == ipv4 {
			n++
		}
	}
	return n
}

// addAddress adds a record, or its weight where the record is there already.
func (s *rrset) addAddress(places map[netip.Addr]int, addr netip.Addr, weight int) {
	if k, known := places[addr]; known {
		s.weights[k] += weight
		return
	}
	places[addr] = s.n
	s.data = append(s.data, addr.AsSlice()...)
	s.weights = append(s.weights, weight)
	s.n++
}

// compile does what answerSRV does for the main ports.
func (s *srvset) compile(members []store.Member, zoneWire []byte) {
	s.soonest.Store(math.MinInt64)
	from := make([]uint32, 0, len(members))
	addresses := 0
	for k, m := range members {
		if m.Status == store.Up && m.Port != 0 {
			from = append(from, uint32(k))
			addresses += len(m.Addresses)
		}
	}
	if len(from) > compileMost {
		s.many = newCrowd(members, from, func(store.Member) uint64 { return 1 })
		return
	}
	s.left = addresses > compileMost
	s.n = len(from)
	s.leases, s.ends, s.targets = make([]*store.Lease, 0, s.n), make([]uint16, 0, s.n), make([]target, 0, s.n)
	for _, k := range from {
		m := members[k]
		s.leases = append(s.leases, m.Lease)
		s.data = appendSRV(s.data, m.Instance, zoneWire)
		// Over 65,535 octets this wraps; then the set is over maxPointer as well,
		// and the fast path does not touch it.
		s.ends = append(s.ends, uint16(len(s.data)))
		if !s.left {
			s.addTarget(m)
		}
	}
	s.data, s.addrs = slices.Clone(s.data), slices.Clone(s.addrs)
}

func (s *srvset) addTarget(m store.Member) {
	ipv4 := countFamily(m.Addresses, true) // which stand first
	s.targets = append(s.targets, target{uint16(len(s.addrs)), uint16(ipv4), uint16(len(m.Addresses) - ipv4)})
	for _, addr := range m.Addresses {
		s.addrs = append(s.addrs, addr.AsSlice()...)
	}
}

// record returns the kth SRV record.
func (s *srvset) record(k int) []byte {
	if k == 0 {
		return s.data[:s.ends[0]]
	}
	return s.data[s.ends[k-1]:s.ends[k]]
}
