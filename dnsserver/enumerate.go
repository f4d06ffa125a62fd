package dnsserver

import (
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

// ofService returns all records that the zone has because of a service with
// these instances, sorted by label.
func (z *zone) ofService(service string, instances []*store.Instance) []dns.RR {
	if len(instances) == 0 {
		return nil
	}
	if z.prefix.IsValid() {
		return z.pointersTo(instances)
	}
	v := store.NewView(service, instances, 0)
	var list []dns.RR
	for _, labels := range namesOf(service, instances) {
		list = append(list, z.at(v, labels)...)
	}
	return list
}

// difference returns which records go and which come where a service's
// instances change.
func (z *zone) difference(c store.ServiceChange) (gone, come []dns.RR) {
	if z.prefix.IsValid() {
		return subtract(nil, nil, z.pointersTo(c.Before), z.pointersTo(c.After))
	}
	before, after := store.NewView(c.Service, c.Before, 0), store.NewView(c.Service, c.After, 0)
	for _, labels := range namesOf(c.Service, changed(c.Before, c.After)) {
		gone, come = subtract(gone, come, z.at(before, labels), z.at(after, labels))
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

// at returns all records at one name, in a registry of that service only.
func (z *zone) at(v *store.View, labels []string) []dns.RR {
	if v.Count() == 0 {
		return nil
	}
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

// namesOf returns every name, as labels before the zone, whose records may hang
// on these instances of a service: none twice.
func namesOf(service string, instances []*store.Instance) [][]string {
	n := names{service: service, seen: map[string]bool{}}
	n.add(service)
	n.add("_services", "_dns-sd", "_udp")
	for _, i := range instances {
		n.addInstance(i)
	}
	return n.list
}

// names collects names.
type names struct {
	service string
	list    [][]string
	seen    map[string]bool
}

func (n *names) add(labels ...string) {
	for _, l := range labels {
		if len(l) > 63 { // _web of a service with 63 octets: there is no such name
			return
		}
	}
	if key := strings.Join(labels, "."); !n.seen[key] {
		n.seen[key] = true
		n.list = append(n.list, labels)
	}
}

func (n *names) addInstance(i *store.Instance) {
	protocol := "_" + i.Protocol.String()
	n.add(i.Label, n.service)
	n.add("_"+n.service, protocol)
	n.add(i.Label, "_"+n.service, protocol)
	for _, p := range i.Ports {
		n.add("_"+p.Name, protocol, n.service)
	}
	for _, t := range i.Tags {
		label, ok := store.TagLabel(t)
		if !ok {
			continue
		}
		n.add(label, n.service)
		n.add("_"+label, "_sub", "_"+n.service, protocol)
		if !slices.Contains([]string{"tcp", "udp"}, label) {
			n.add("_"+n.service, "_"+label)
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
