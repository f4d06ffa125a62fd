package dnsserver_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file is the table of names in docs/dns.md once more, in the plainest
// way: it writes down every name that there is with all it has. It knows
// nothing of how the server finds a name.

// world is what the zones hold at one moment: per name, in lower case, what it
// has of each type. A name without any is there all the same.
type world map[string]map[uint16]*set

// set is an RRset: its data in zone file form, and its TTL.
type set struct {
	data []string
	ttl  uint32
}

// citizen is an instance and its own TTL.
type citizen struct {
	*store.Instance
	ttl uint32
}

const modelTTL = 30

func (w world) name(name string) map[uint16]*set {
	if w[name] == nil {
		w[name] = map[uint16]*set{}
	}
	return w[name]
}

// put adds data to a name's RRset, whose TTL is the smallest put there.
func (w world) put(name string, rrtype uint16, ttl uint32, data string) {
	n := w.name(name)
	if n[rrtype] == nil {
		n[rrtype] = &set{ttl: ttl}
	}
	s := n[rrtype]
	s.ttl = min(s.ttl, ttl)
	if !slices.Contains(s.data, data) {
		s.data = append(s.data, data)
	}
}

// newWorld writes down what there is in the zone service. and the reverse zones
// of the prefixes.
func newWorld(live []citizen, reverse []netip.Prefix) world {
	w := world{}
	for _, apex := range append(apexes(reverse), "service.") {
		w.put(apex, dns.TypeNS, modelTTL, "ns.service.")
		w.name(apex)[dns.TypeSOA] = nil // its serial is not of the model
	}
	w.put("ns.service.", dns.TypeA, modelTTL, "192.0.2.53")
	w.name("_services._dns-sd._udp.service.")
	for _, n := range []string{"b", "lb"} {
		w.put(n+"._dns-sd._udp.service.", dns.TypePTR, modelTTL, "service.")
	}
	for _, c := range live {
		w.ownNames(c)
		w.reverseNames(c, reverse)
	}
	services := map[string][]citizen{}
	for _, c := range live {
		services[c.Service] = append(services[c.Service], c)
	}
	for name, members := range services {
		w.serviceNames(name, members)
	}
	w.addAncestors()
	return w
}

func (w world) ownNames(c citizen) {
	own := c.Label + "." + c.Service + ".service."
	browse := fmt.Sprintf("%s._%s._%s.service.", c.Label, c.Service, c.Protocol)
	w.name(own)
	var text []string
	for _, p := range c.Meta {
		text = append(text, fmt.Sprintf("%q", p.Key+"="+p.Value))
	}
	if text == nil {
		text = []string{`""`}
	}
	for _, name := range []string{own, browse} {
		w.put(name, dns.TypeTXT, c.ttl, strings.Join(text, " "))
		if c.Port > 0 {
			w.put(name, dns.TypeSRV, c.ttl, srv(c, c.Port))
		}
	}
	w.addresses(own, []citizen{c})
}

func srv(c citizen, port uint16) string {
	return fmt.Sprintf("%d %d %d %s.%s.service.", c.Priority, c.Weight, port, c.Label, c.Service)
}

// addresses puts the addresses of the best priority that has the family.
func (w world) addresses(name string, from []citizen) {
	for _, rrtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		best := 1 << 16
		for range 2 { // first to find it
			for _, c := range from {
				for _, a := range c.Addresses {
					switch {
					case a.Is4() != (rrtype == dns.TypeA):
					case int(c.Priority) < best:
						best = int(c.Priority)
						delete(w.name(name), rrtype)
						w.put(name, rrtype, c.ttl, a.String())
					case int(c.Priority) == best:
						w.put(name, rrtype, c.ttl, a.String())
					}
				}
			}
		}
	}
}

// serviceNames writes down the names that stand for several instances.
func (w world) serviceNames(service string, members []citizen) {
	groups := map[string][]citizen{} // by the name below the zone
	join := func(name string, c citizen) { groups[name] = append(groups[name], c) }
	labels := map[string]bool{}
	for _, c := range members {
		labels[c.Label] = true
	}
	for _, c := range members {
		join(service, c)
		join(fmt.Sprintf("_%s._%s", service, c.Protocol), c)
		var tags []string
		for _, t := range c.Tags {
			if l := strings.ToLower(t); !strings.Contains(l, " ") && !slices.Contains(tags, l) {
				tags = append(tags, l)
			}
		}
		for _, t := range tags {
			if t != "tcp" && t != "udp" {
				join(fmt.Sprintf("_%s._%s", service, t), c)
			}
			join(fmt.Sprintf("_%s._sub._%s._%s", t, service, c.Protocol), c)
		}
		for _, combination := range arrangements(tags) {
			if len(combination) > 1 || !labels[combination[0]] {
				join(strings.Join(combination, ".")+"."+service, c)
			}
		}
		for _, p := range c.Ports {
			name := fmt.Sprintf("_%s._%s.%s.service.", p.Name, c.Protocol, service)
			w.name(name)
			if c.Status == store.Up {
				w.put(name, dns.TypeSRV, c.ttl, srv(c, p.Port))
			}
		}
	}
	for name, group := range groups {
		w.group(name+".service.", service, group)
	}
}

// group writes down one name that stands for instances of a service.
func (w world) group(name, service string, group []citizen) {
	w.name(name)
	up := slices.DeleteFunc(slices.Clone(group), func(c citizen) bool { return c.Status != store.Up })
	for _, c := range up {
		if c.Port == 0 {
			continue
		}
		browse := fmt.Sprintf("_%s._%s.service.", service, c.Protocol)
		isType, isSubtype := name == browse, strings.HasSuffix(name, "._sub."+browse)
		if isType || isSubtype {
			w.put(name, dns.TypePTR, c.ttl, c.Label+"."+browse)
		}
		if isType {
			w.put("_services._dns-sd._udp.service.", dns.TypePTR, c.ttl, browse)
		}
		if !isSubtype {
			w.put(name, dns.TypeSRV, c.ttl, srv(c, c.Port))
		}
	}
	if !strings.HasPrefix(name, "_") {
		w.addresses(name, up)
	}
}

// arrangements returns every way to choose at least one and put them in order.
func arrangements(of []string) [][]string {
	var all [][]string
	for k, first := range of {
		all = append(all, []string{first})
		rest := slices.Delete(slices.Clone(of), k, k+1)
		for _, a := range arrangements(rest) {
			all = append(all, append([]string{first}, a...))
		}
	}
	return all
}

func (w world) reverseNames(c citizen, reverse []netip.Prefix) {
	for _, a := range c.Addresses {
		if slices.ContainsFunc(reverse, func(p netip.Prefix) bool { return p.Contains(a) }) {
			w.put(reverseName(a), dns.TypePTR, c.ttl, c.Label+"."+c.Service+".service.")
		}
	}
}

func reverseName(a netip.Addr) string {
	name := "ip6.arpa."
	for _, octet := range a.AsSlice() {
		name = fmt.Sprintf("%x.%x.", octet&15, octet>>4) + name
	}
	if a.Is4() {
		name = "in-addr.arpa."
		for _, octet := range a.AsSlice() {
			name = fmt.Sprintf("%d.", octet) + name
		}
	}
	return name
}

// apexes are the names of the prefixes' zones; they end with a label.
func apexes(reverse []netip.Prefix) []string {
	var names []string
	for _, p := range reverse {
		labels := strings.SplitAfter(reverseName(p.Addr()), ".")
		bits := 4
		if p.Addr().Is4() {
			bits = 8
		}
		names = append(names, strings.Join(labels[(p.Addr().BitLen()-p.Bits())/bits:], ""))
	}
	return names
}

// addAncestors adds the names that only have something below.
func (w world) addAncestors() {
	var zones []string
	for name, has := range w {
		if _, apex := has[dns.TypeSOA]; apex {
			zones = append(zones, name)
		}
	}
	for name := range w {
		for _, zone := range zones {
			for up := name; strings.HasSuffix(up, "."+zone); _, up, _ = strings.Cut(up, ".") {
				w.name(up)
			}
		}
	}
}
