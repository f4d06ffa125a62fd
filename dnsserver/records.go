package dnsserver

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// This file makes records from instances for the ordinary path; compile.go
// makes the same in wire format.

// instanceName is an instance's own name, the target of its SRV records.
func (z *zone) instanceName(i *store.Instance) string {
	return InstanceName(i, z.origin)
}

// InstanceName returns the name in DNS of an instance in the zone.
func InstanceName(i *store.Instance, zone string) string {
	return i.Label + "." + i.Service + "." + zone
}

// addresses returns the A or AAAA records of those addresses that are of the
// type's family.
func (z *zone) addresses(owner string, addrs []netip.Addr, rrtype uint16, ttl uint32) []dns.RR {
	var rrs []dns.RR
	for _, a := range addrs {
		if !ofFamily(rrtype)(a) {
			continue
		}
		rrs = append(rrs, z.address(owner, a, ttl))
	}
	return rrs
}

// address returns an address's A or AAAA record.
func (z *zone) address(owner string, a netip.Addr, ttl uint32) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: z.header(owner, dns.TypeA, ttl), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: z.header(owner, dns.TypeAAAA, ttl), AAAA: a.AsSlice()}
}

// ofFamily returns whether an address goes into records of the type.
func ofFamily(rrtype uint16) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		return rrtype == dns.TypeA && a.Is4() || rrtype == dns.TypeAAAA && a.Is6()
	}
}

// service returns an instance's SRV record (RFC 2782).
func (z *zone) service(owner string, i *store.Instance, port uint16, ttl uint32) dns.RR {
	return &dns.SRV{
		Hdr:      z.header(owner, dns.TypeSRV, ttl),
		Priority: i.Priority,
		Weight:   i.Weight,
		Port:     port,
		Target:   z.instanceName(i),
	}
}

// text returns an instance's meta as key=value strings; one empty string where
// it has none, for a TXT record cannot be without any (RFC 6763 section 6.1).
func (z *zone) text(owner string, i *store.Instance, ttl uint32) dns.RR {
	txt := &dns.TXT{Hdr: z.header(owner, dns.TypeTXT, ttl)}
	for _, p := range i.Meta {
		txt.Txt = append(txt.Txt, escapeText.Replace(p.Key+"="+p.Value))
	}
	if txt.Txt == nil {
		txt.Txt = []string{""}
	}
	return txt
}

// escapeText writes a string as the library reads it: in presentation format.
var escapeText = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
