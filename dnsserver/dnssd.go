package dnsserver

import (
	"cmp"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file has the names of DNS-based service discovery (RFC 6763): what can
// be browsed stands below _tcp and _udp, and _dns-sd._udp says where to begin.

// findProtocol finds _tcp or _udp directly below the zone and what stands
// below it. A service may be called dns-sd itself: then its names and those by
// which the zone is browsed are one node.
func findProtocol(reg registry, labels []string, protocol store.Protocol, now store.Instant) node {
	n := findServiceType(reg, labels, protocol, now)
	if protocol != store.UDP {
		return n
	}
	switch strings.Join(labels, ".") {
	case "", "_dns-sd":
		n.exists = true
	case "_services._dns-sd": // section 9
		n.exists, n.types = true, true
	case "b._dns-sd", "lb._dns-sd": // section 11
		n.exists, n.domain = true, true
	}
	return n
}

// findServiceType finds the names of a service's instances that speak the
// protocol: _web._tcp, the subtypes below it, and the instances.
func findServiceType(reg registry, labels []string, protocol store.Protocol, now store.Instant) node {
	if len(labels) == 0 {
		return node{exists: reg.HasProtocol(protocol)}
	}
	last := len(labels) - 1
	service, ok := strings.CutPrefix(labels[last], "_")
	if !ok {
		return nothing
	}
	v := reg.Service(service)
	if v == nil {
		return nothing
	}
	switch {
	case last == 0:
		n := pick(v, now, func(i *store.Instance) bool { return i.Protocol == protocol })
		n.ports, n.browse = mainPort, true
		return n
	case labels[last-1] == "_sub":
		return findSubtype(v, labels[:last-1], protocol, now)
	case last == 1:
		if m, ok := v.ByLabel(labels[0], now); ok && m.Protocol == protocol {
			return ownNode(v, m)
		}
	}
	return nothing
}

// findSubtype finds _sub below a service type, and the tags below that
// (section 7.1).
func findSubtype(v *store.View, labels []string, protocol store.Protocol, now store.Instant) node {
	if len(labels) == 0 {
		n := pick(v, now, func(i *store.Instance) bool { return i.Protocol == protocol && hasSubtype(i) })
		return node{exists: n.exists}
	}
	tag, ok := strings.CutPrefix(labels[0], "_")
	if !ok || len(labels) > 1 {
		return nothing
	}
	n := pick(v, now, func(i *store.Instance) bool { return i.Protocol == protocol && i.HasTags(tag) })
	n.browse = true
	return n
}

// hasSubtype returns whether a tag of the instance can be a label with an
// underscore before it.
func hasSubtype(i *store.Instance) bool {
	return slices.ContainsFunc(i.Tags, func(t string) bool {
		l, ok := store.TagLabel(t)
		return ok && underscored(l)
	})
}

// underscored returns whether a label has room for an underscore before it.
func underscored(label string) bool { return len(label) < 63 }

// serviceType is the name under which a service's instances that speak the
// protocol are browsed.
func (z *zone) serviceType(service string, p store.Protocol) string {
	return "_" + service + "._" + p.String() + "." + z.origin
}

// browseName is an instance's name in DNS-SD: the target of the PTR records,
// where its SRV and TXT records are.
func (z *zone) browseName(i *store.Instance) string {
	return i.Label + "." + z.serviceType(i.Service, i.Protocol)
}

// answerBrowse points to the node's instances that have a port: without one
// there is nothing to connect to.
func (z *zone) answerBrowse(a *answer, q question, n *node, now store.Instant) {
	from := n.withPort(mainPort)
	ttl := z.ttl(from, now)
	for _, m := range from {
		a.records = append(a.records, record{
			rr:     z.pointer(q.name, z.browseName(m.Instance), ttl),
			target: m.Instance,
			browse: true,
			ttl:    m.Lease.TTL(now, z.maxTTL),
		})
	}
}

// answerTypes points to the name of every service and protocol that has an
// instance to browse, sorted. Where no more than q.most are of use it looks
// no further than that.
func (z *zone) answerTypes(a *answer, reg registry, q question, now store.Instant) {
	types := z.browsable(reg, q.most, now)
	ttl := z.maxTTL
	for _, t := range types {
		ttl = min(ttl, t.ttl)
	}
	for _, t := range types {
		a.records = append(a.records, record{rr: z.pointer(q.name, z.serviceType(t.view.Service, t.protocol), ttl)})
		if last := len(a.views) - 1; last < 0 || a.views[last] != t.view {
			a.views = append(a.views, t.view)
		}
	}
	a.keep = ttl
}

// browsableType is a service and protocol that has instances to browse.
type browsableType struct {
	view     *store.View
	protocol store.Protocol
	ttl      uint32
}

// browsable returns all types there are, or with most the first that many it
// finds.
func (z *zone) browsable(reg registry, most int, now store.Instant) []browsableType {
	var types []browsableType
	reg.Services(func(v *store.View) bool {
		if underscored(v.Service) {
			types = append(types, z.typesOf(v, now)...)
		}
		return most == 0 || len(types) < most
	})
	slices.SortFunc(types, func(x, y browsableType) int {
		return cmp.Or(strings.Compare(x.view.Service, y.view.Service), cmp.Compare(x.protocol, y.protocol))
	})
	return types
}

// typesOf returns a service's types: one, two or none.
func (z *zone) typesOf(v *store.View, now store.Instant) []browsableType {
	var of [2]browsableType
	for m := range v.Members(now) {
		if m.Status != store.Up || m.Port == 0 {
			continue
		}
		t := &of[m.Protocol]
		ttl := m.Lease.TTL(now, z.maxTTL)
		if t.view != nil {
			ttl = min(ttl, t.ttl)
		}
		*t = browsableType{v, m.Protocol, ttl}
	}
	return slices.DeleteFunc(of[:], func(t browsableType) bool { return t.view == nil })
}

// answerDomain points to the zone itself: it is what to browse.
func (z *zone) answerDomain(a *answer, q question) {
	a.own = true
	a.records = []record{{rr: z.pointer(q.name, z.name, z.ownTTL)}}
}

// pointer returns a PTR record.
func (z *zone) pointer(owner, target string, ttl uint32) dns.RR {
	return &dns.PTR{Hdr: z.header(owner, dns.TypePTR, ttl), Ptr: target}
}
