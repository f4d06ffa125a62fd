package dnsserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/rosterdns/roster/store"
)

// A node is what the zone holds at one name: which instances the name stands
// for, and what of them it shows. docs/dns.md has the table of names.
type node struct {
	exists bool // something is at the name or below it (RFC 8020)

	view    *store.View
	members []store.Member // live ones, by label; only those that are up unless own
	total   int            // live ones whatever their status
	up      int            // of these, how many are up

	apex  bool
	hosts []NameServer // the name servers of that name
	own   bool         // an instance's own name
	addrs bool         // A and AAAA are here
	ports func(*store.Instance) uint16

	browse  bool       // PTR to the DNS-SD names of the members
	types   bool       // PTR to the DNS-SD names of all services
	domain  bool       // PTR to the zone, which is the domain to browse
	address netip.Addr // PTR to the names of the instances that have it; in reverse zones
}

var nothing = node{}

// find returns the node at the name that the labels, in lower case, give below
// the zone. What it returns depends on its arguments only.
func (z *zone) find(reg registry, labels []string, now store.Instant) node {
	if z.prefix.IsValid() {
		return z.findReverse(reg, labels, now)
	}
	if len(labels) == 0 {
		return node{exists: true, apex: true}
	}
	if n, ok := z.findHost(labels); ok {
		return n
	}
	last := labels[len(labels)-1]
	if group, ok := strings.CutPrefix(last, "_"); ok {
		return findGroup(reg, labels[:len(labels)-1], group, now)
	}
	v := reg.Service(last)
	if v == nil {
		return nothing
	}
	return findInService(v, labels[:len(labels)-1], now)
}

// findHost finds the name servers inside the zone, and the empty names above
// them where they stand deeper than one label.
func (z *zone) findHost(labels []string) (node, bool) {
	name := strings.Join(labels, ".") + "." + z.name
	var n node
	for _, s := range z.servers {
		switch {
		case strings.EqualFold(s.Name, name):
			n.exists = true
			n.hosts = append(n.hosts, s)
		case strings.HasSuffix(strings.ToLower(s.Name), "."+name):
			n.exists = true
		}
	}
	return n, n.exists
}

// findGroup finds _tcp, _udp and _tag directly below the zone, and the
// services below them.
func findGroup(reg registry, labels []string, group string, now store.Instant) node {
	if protocol, err := store.ParseProtocol(group); err == nil {
		return findProtocol(reg, labels, protocol, now)
	}
	if len(labels) == 0 {
		// Nothing is at this name, but resolvers that minimise names
		// (RFC 9156) ask for it on the way to what is below.
		return node{exists: reg.HasTag(group)}
	}
	service, ok := strings.CutPrefix(labels[0], "_")
	if !ok || len(labels) > 1 {
		return nothing
	}
	v := reg.Service(service)
	if v == nil {
		return nothing
	}
	n := pick(v, now, func(i *store.Instance) bool { return i.HasTags(group) })
	n.ports = mainPort
	return n
}

// findInService finds a service's own name and what stands below it.
func findInService(v *store.View, labels []string, now store.Instant) node {
	if len(labels) == 0 {
		n := pick(v, now, func(*store.Instance) bool { return true })
		n.addrs, n.ports = true, mainPort
		return n
	}
	last := labels[len(labels)-1]
	if group, ok := strings.CutPrefix(last, "_"); ok {
		return findNamedPort(v, labels[:len(labels)-1], group, now)
	}
	if len(labels) == 1 {
		// Where a label is both an instance's and a tag's, it is the instance.
		if m, ok := v.ByLabel(last, now); ok {
			n := ownNode(v, m)
			n.addrs = true
			return n
		}
	}
	if repeated(labels) {
		return nothing // or names would go on for ever: v2.v2.v2.web
	}
	n := pick(v, now, func(i *store.Instance) bool { return i.HasTags(labels...) })
	n.addrs, n.ports = true, mainPort
	return n
}

// findNamedPort finds _tcp and _udp below a service, and the named ports of
// its instances below those.
func findNamedPort(v *store.View, labels []string, group string, now store.Instant) node {
	protocol, err := store.ParseProtocol(group)
	if err != nil || len(labels) > 1 {
		return nothing
	}
	if len(labels) == 0 {
		n := pick(v, now, func(i *store.Instance) bool { return i.Protocol == protocol && len(i.Ports) > 0 })
		return node{exists: n.exists}
	}
	name, ok := strings.CutPrefix(labels[0], "_")
	if !ok {
		return nothing
	}
	n := pick(v, now, func(i *store.Instance) bool { return i.Protocol == protocol && i.PortNamed(name) != 0 })
	n.ports = func(i *store.Instance) uint16 { return i.PortNamed(name) }
	return n
}

// pick makes the node of those live instances that match. The name exists
// where any does, whatever its status; only those that are up are in answers.
func pick(v *store.View, now store.Instant, match func(*store.Instance) bool) node {
	n := node{view: v}
	for m := range v.Members(now) {
		if !match(m.Instance) {
			continue
		}
		n.exists = true
		n.total++
		if m.Status == store.Up {
			n.up++
			n.members = append(n.members, m)
		}
	}
	return n
}

// ownNode makes the node of an instance's own name.
func ownNode(v *store.View, m store.Member) node {
	n := node{exists: true, view: v, members: []store.Member{m}, total: 1, own: true, ports: mainPort}
	if m.Status == store.Up {
		n.up = 1
	}
	return n
}

func mainPort(i *store.Instance) uint16 { return i.Port }

func repeated(labels []string) bool {
	sorted := slices.Sorted(slices.Values(labels))
	return len(slices.Compact(sorted)) < len(labels)
}

// hasRecords reports whether the name may have records, or is only above some.
func (n *node) hasRecords() bool {
	return n.view != nil || n.types || n.domain || n.address.IsValid()
}

// emptyBecause says, for people, why an answer from the node has no records.
func (n *node) emptyBecause() string {
	switch {
	case !n.exists:
		return "nothing is registered at this name"
	case n.view == nil:
		return "no record of this type is here"
	case len(n.members) == 0:
		return fmt.Sprintf("%s: %d instances, 0 up", n.view.Service, n.total)
	}
	return fmt.Sprintf("%s: %d instances, %d up, none with this type", n.view.Service, n.total, n.up)
}
