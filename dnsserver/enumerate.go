package dnsserver

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file lists what a zone holds, for transfers. It asks the ordinary path
// for every name that there is, so that a transfer has what queries give.
//
// Records in a transfer have no live lease behind them: their TTL is that of an
// instance which has just sent a heartbeat, and so hangs on the registration
// only. Where a set is of several services, so that none of them can say what
// its one TTL is, that is the TTL of a negative answer. Tags are there one by
// one: in combinations they would be endless.

// transferTypes are the types that names of a service may have.
var transferTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR}

// oneService is a registry with one service and nothing else.
type oneService struct{ *store.View }

// Service implements registry.
func (s oneService) Service(name string) *store.View {
	if s.View != nil && name == s.View.Service {
		return s.View
	}
	return nil
}

// Services implements registry.
func (s oneService) Services(yield func(*store.View) bool) {
	if s.View != nil {
		yield(s.View)
	}
}

// Holders implements registry. Reverse zones are listed from the instances.
func (oneService) Holders(netip.Addr, func(*store.View, store.Member) bool) {}

// HasAddress implements registry. Like the next two it says nothing of records.
func (oneService) HasAddress(netip.Prefix) bool { return false }

// HasTag implements registry.
func (oneService) HasTag(string) bool { return false }

// HasProtocol implements registry.
func (oneService) HasProtocol(store.Protocol) bool { return false }

// Revision implements registry.
func (oneService) Revision() store.Revision { return 0 }

// fixed returns the records of the zone that hang on no service, without the
// SOA.
func (z *zone) fixed() []dns.RR {
	var list []dns.RR
	var a answer
	z.answerApex(&a, question{name: z.name, rrtype: dns.TypeNS}, 0)
	list = append(list, rrs(a.records)...)
	for _, set := range a.glue {
		list = append(list, set...)
	}
	if z.prefix.IsValid() {
		return list
	}
	for _, name := range []string{"b._dns-sd._udp.", "lb._dns-sd._udp."} {
		z.answerDomain(&a, question{name: name + z.name})
		list = append(list, rrs(a.records)...)
	}
	return list
}

// ofService yields all records that the zone has because of a service with
// these instances, sorted by label.
func (z *zone) ofService(service string, instances []*store.Instance) iter.Seq[dns.RR] {
	return func(yield func(dns.RR) bool) {
		if z.prefix.IsValid() {
			for _, rr := range z.pointersTo(instances) {
				if !yield(rr) {
					return
				}
			}
			return
		}
		for _, n := range namesOf(service, instances, nil).list {
			for _, rr := range z.at(service, n) {
				if !yield(rr) {
					return
				}
			}
		}
	}
}

// difference returns which records go and which come where a service's
// instances change.
func (z *zone) difference(c store.ServiceChange) (gone, come []dns.RR) {
	if z.prefix.IsValid() {
		return subtract(nil, nil, z.pointersTo(c.Before), z.pointersTo(c.After))
	}
	touched := namesOf(c.Service, changed(c.Before, c.After), nil)
	before, after := namesOf(c.Service, c.Before, touched), namesOf(c.Service, c.After, touched)
	for k := range touched.list {
		gone, come = subtract(gone, come, z.at(c.Service, before.list[k]), z.at(c.Service, after.list[k]))
	}
	return gone, come
}

// changed returns the instances that are on one side only, or not the same.
func changed(before, after []*store.Instance) []*store.Instance {
	var list []*store.Instance
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Label < after[0].Label:
			list, before = append(list, before[0]), before[1:]
		case len(before) == 0 || after[0].Label < before[0].Label:
			list, after = append(list, after[0]), after[1:]
		default:
			if before[0] != after[0] {
				list = append(list, before[0], after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
	return list
}

// subtract appends to gone what is in before only, and to come what is in
// after only.
func subtract(gone, come, before, after []dns.RR) (g, c []dns.RR) {
	have := make(map[string]bool, len(before))
	for _, rr := range before {
		have[rr.String()] = true
	}
	for _, rr := range after {
		s := rr.String()
		if !have[s] {
			come = append(come, rr)
		}
		delete(have, s)
	}
	for _, rr := range before {
		if have[rr.String()] {
			gone = append(gone, rr)
		}
	}
	return gone, come
}

// at returns all records at one name of a service.
func (z *zone) at(service string, who *name) []dns.RR {
	if len(who.instances) == 0 {
		return nil
	}
	v, labels := store.NewView(service, who.instances, 0), who.labels
	n := z.find(oneService{v}, labels, 0)
	if n.types {
		return z.pointersToTypes(v)
	}
	if !n.exists || n.view == nil {
		return nil
	}
	q := question{name: strings.Join(labels, ".") + "." + z.name, labels: labels}
	var list []dns.RR
	for _, q.rrtype = range transferTypes {
		var a answer
		z.answerInstances(&a, q, &n, 0)
		list = append(list, rrs(a.records)...)
	}
	return list
}

// names are the names of a service whose records may hang on some instances.
type names struct {
	service string
	list    []*name // none twice
	byText  map[string]*name
	closed  bool // no name is added any more
}

// name is one of them, as labels before the zone, with those instances that it
// hangs on. Its records are the same in a registry that has these only, and
// there they are found without a walk through all of the service: one in which
// each instance has a tag of its own would be walked once for each.
type name struct {
	labels    []string
	instances []*store.Instance // sorted by label
}

// namesOf returns the names that hang on instances of a service, sorted by
// label; with only, those of its names, in its order.
func namesOf(service string, instances []*store.Instance, only *names) *names {
	n := &names{service: service, byText: map[string]*name{}}
	if only != nil {
		for _, o := range only.list {
			n.add(nil, o.labels...)
		}
		n.closed = true
	}
	for _, i := range instances {
		n.add(i, service)
		n.add(i, "_services", "_dns-sd", "_udp")
		n.addInstance(i)
	}
	return n
}

// add notes that a name hangs on an instance; nil notes the name only.
func (n *names) add(i *store.Instance, labels ...string) {
	for _, l := range labels {
		if len(l) > 63 { // _web of a service with 63 octets: there is no such name
			return
		}
	}
	text := strings.Join(labels, ".")
	one := n.byText[text]
	if one == nil {
		if n.closed {
			return
		}
		one = &name{labels: labels}
		n.byText[text] = one
		n.list = append(n.list, one)
	}
	if last := len(one.instances) - 1; i != nil && (last < 0 || one.instances[last] != i) {
		one.instances = append(one.instances, i)
	}
}

func (n *names) addInstance(i *store.Instance) {
	protocol := "_" + i.Protocol.String()
	n.add(i, i.Label, n.service)
	n.add(i, "_"+n.service, protocol)
	n.add(i, i.Label, "_"+n.service, protocol)
	for _, p := range i.Ports {
		n.add(i, "_"+p.Name, protocol, n.service)
	}
	for _, t := range i.Tags {
		label, ok := store.TagLabel(t)
		if !ok {
			continue
		}
		n.add(i, label, n.service)
		n.add(i, "_"+label, "_sub", "_"+n.service, protocol)
		if !slices.Contains([]string{"tcp", "udp"}, label) {
			n.add(i, "_"+n.service, "_"+label)
		}
	}
}

// pointersToTypes returns what a service has at the name of all types.
func (z *zone) pointersToTypes(v *store.View) []dns.RR {
	if !underscored(v.Service) {
		return nil
	}
	var list []dns.RR
	for _, t := range z.typesOf(v, 0) {
		list = append(list, z.pointer("_services._dns-sd._udp."+z.name, z.serviceType(v.Service, t.protocol), z.emptyTTL))
	}
	return list
}

// pointersTo returns what the reverse zone has of these instances.
func (z *zone) pointersTo(instances []*store.Instance) []dns.RR {
	var list []dns.RR
	for _, i := range instances {
		for _, a := range i.Addresses {
			if z.prefix.Contains(a) {
				list = append(list, z.pointer(reverseName(a), z.instanceName(i), z.emptyTTL))
			}
		}
	}
	return list
}
