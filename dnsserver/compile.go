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
	members []store.Member // of the view
	a, aaaa rrset
	srv     rrset
	// protocol is the one that all instances speak, so that srv is also what
	// _web._tcp has; -1 where they speak both.
	protocol int8
	// why is what an empty answer says to people.
	why string
	// soonest is a moment before which no lease of the view ends.
	soonest atomic.Int64
}

// rrset is the records of one type, without owner and TTL filled in, and the
// leases that their one TTL hangs on.
type rrset struct {
	records []byte
	ends    []uint16 // where each record ends in records
	weights []int    // nil: all alike
	leases  []*store.Lease
	targets []target // of SRV records, one for each
	soonest atomic.Int64
}

// target is the additional data of one SRV record: the addresses of its
// instance, owners and TTLs not filled in.
type target struct {
	lease   *store.Lease
	records []byte
	a, aaaa int // how many of each
}

const (
	// compileMost is how many instances, and how many addresses in all, a
	// service may have to be compiled: with more of them hardly an answer fits
	// into a message over UDP. Those are for the ordinary path.
	compileMost = 256
	sizeA       = 2 + 10 + 4
	sizeAAAA    = 2 + 10 + 16
	sizeSRV     = 2 + 10 + 6 // and the target
	maxUDP      = 4096
)

// Compile returns a function for [store.Config]'s Derive that makes answers of
// the zone ready in wire format. Without it every query takes the ordinary
// path, which has the same answers.
func Compile(zone string) func(*store.View) any {
	zoneWire := wireName(zone)
	return func(v *store.View) any {
		if v.Count() > compileMost {
			return nil
		}
		addresses := 0
		for _, m := range v.All() {
			addresses += len(m.Addresses)
		}
		if addresses > compileMost {
			return nil
		}
		return compile(v, zoneWire)
	}
}

func compile(v *store.View, zoneWire []byte) *compiled {
	c := &compiled{members: v.All(), protocol: int8(v.All()[0].Protocol)}
	c.soonest.Store(math.MinInt64) // not known yet
	up := make([]store.Member, 0, len(c.members))
	for _, m := range c.members {
		if m.Status == store.Up {
			up = append(up, m)
		}
		if int8(m.Protocol) != c.protocol {
			c.protocol = -1
		}
	}
	if len(up) == 0 {
		c.why = fmt.Sprintf("%s: %d instances, 0 up", v.Service, len(c.members))
	} else {
		c.why = fmt.Sprintf("%s: %d instances, %d up, none with this type", v.Service, len(c.members), len(up))
	}
	c.a.compileAddresses(up, typeA)
	c.aaaa.compileAddresses(up, typeAAAA)
	c.srv.compileSRV(up, zoneWire)
	return c
}

// compileAddresses does what answerAddresses does, in wire format.
func (s *rrset) compileAddresses(up []store.Member, rrtype uint16) {
	s.soonest.Store(math.MinInt64)
	of := ofFamily(rrtype)
	best := math.MaxInt
	for _, m := range up {
		if slices.ContainsFunc(m.Addresses, of) {
			best = min(best, int(m.Priority))
		}
	}
	places := map[netip.Addr]int{}
	for _, m := range up {
		if int(m.Priority) != best || !slices.ContainsFunc(m.Addresses, of) {
			continue
		}
		if len(s.records) > maxUDP {
			return // it fits into no message over UDP
		}
		s.leases = append(s.leases, m.Lease)
		for _, addr := range m.Addresses {
			if of(addr) {
				s.addAddress(places, addr, int(m.Weight))
			}
		}
	}
	if !slices.ContainsFunc(s.weights, func(w int) bool { return w != s.weights[0] }) {
		s.weights = nil
	}
}

// addAddress adds a record, or its weight where the record is there already.
func (s *rrset) addAddress(places map[netip.Addr]int, addr netip.Addr, weight int) {
	if k, known := places[addr]; known {
		s.weights[k] += weight
		return
	}
	places[addr] = len(s.ends)
	s.records = appendAddress(s.records, addr, 0)
	s.ends = append(s.ends, uint16(len(s.records)))
	s.weights = append(s.weights, weight)
}

// compileSRV does what answerSRV does for the main ports.
func (s *rrset) compileSRV(up []store.Member, zoneWire []byte) {
	s.soonest.Store(math.MinInt64)
	for _, m := range up {
		if m.Port == 0 {
			continue
		}
		if len(s.records) > maxUDP { // it fits into no message over UDP
			s.targets = nil
			return
		}
		s.leases = append(s.leases, m.Lease)
		name := appendLabel(appendLabel(nil, m.Label), m.Service)
		s.records = appendSRV(s.records, m.Priority, m.Weight, m.Port, name, zoneWire)
		s.ends = append(s.ends, uint16(len(s.records)))
		s.targets = append(s.targets, compileTarget(m))
	}
}

func compileTarget(m store.Member) target {
	t := target{lease: m.Lease}
	for _, addr := range m.Addresses { // sorted: IPv4 first
		t.records = appendAddress(t.records, addr, 0)
		if addr.Is4() {
			t.a++
		} else {
			t.aaaa++
		}
	}
	return t
}

// record returns the kth record.
func (s *rrset) record(k int) []byte {
	if k == 0 {
		return s.records[:s.ends[0]]
	}
	return s.records[s.ends[k-1]:s.ends[k]]
}
