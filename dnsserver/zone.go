package dnsserver

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// zone is the fixed part of what is served: its name, its name servers and its
// TTLs. Everything that changes is in the registry. A zone is never modified.
type zone struct {
	name     string       // fully qualified, lower case
	origin   string       // the zone that instances have their names in: this one, but for a reverse zone
	prefix   netip.Prefix // a reverse zone's addresses; otherwise not valid
	servers  []NameServer
	maxTTL   uint32 // of what the registry says
	ownTTL   uint32 // of what hangs on the configuration alone
	emptyTTL uint32 // of the SOA in a negative answer, and its MINIMUM
}

// NameServer is one name server of the zone.
type NameServer struct {
	Name  string       // fully qualified
	Addrs []netip.Addr // glue; left out where the name is outside the zone
}

// registry is what answers are made from.
type registry interface {
	Service(name string) *store.View
	Services(yield func(*store.View) bool)
	HasTag(label string) bool
	HasProtocol(p store.Protocol) bool
	HasAddress(in netip.Prefix) bool
	Holders(addr netip.Addr, yield func(*store.View, store.Member) bool)
	Revision() store.Revision
}

// zones are all that is served, by name.
type zones map[string]*zone

// of returns the zone that a name is in, nil where it is in none: the one with
// the longest name, where one is within another.
func (zs zones) of(name string) *zone {
	name = lowerASCII(name)
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if z := zs[name[off:]]; z != nil {
			return z
		}
	}
	return nil
}

// names says which zones there are, for people; the first is given.
func (zs zones) names(first *zone) string {
	if n := len(zs) - 1; n > 0 {
		return fmt.Sprintf("the zones here are %s and %d of reverse names", first.name, n)
	}
	return "the zone here is " + first.name
}

// Zone checks and returns a zone's name, fully qualified and in lower case. An
// error names the flag.
func Zone(name string) (string, error) {
	name = strings.ToLower(dns.Fqdn(name))
	bad := func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", r) }
	if _, ok := dns.IsDomainName(name); !ok || name == "." || strings.ContainsFunc(name, bad) {
		return "", fmt.Errorf("zone %q is no domain name below the root, of letters, digits and hyphens, such as service. is", name)
	}
	// A tag's name in DNS-SD is two labels of 63 octets at most below it, and
	// _sub and _tcp.
	if len(name)+2*64+2*5 > 254 {
		return "", fmt.Errorf("zone %q is too long: with _tag._sub._service._tcp before it, tag and service of 62 octets, a name would be over 255", name)
	}
	return name, nil
}

// Reserved returns the labels directly below the zone that its name servers
// take, so that no service may have them, each with who takes it.
func Reserved(zone string, servers []NameServer) map[string]string {
	reserved := map[string]string{}
	for _, s := range servers {
		if rel, ok := below(zone, s.Name); ok && len(rel) > 0 {
			reserved[rel[len(rel)-1]] = fmt.Sprintf("the zone's name server %s (--ns)", s.Name)
		}
	}
	return reserved
}

// below returns the labels, in lower case, by which name stands below the
// zone, none for the zone itself; false where it is elsewhere. DNS ignores the
// case of ASCII letters only (RFC 4343).
func below(zone, name string) ([]string, bool) {
	labels := dns.SplitDomainName(name)
	n := dns.CountLabel(zone)
	if len(labels) < n {
		return nil, false
	}
	for k, l := range labels {
		labels[k] = lowerASCII(l)
	}
	at := len(labels) - n
	if strings.Join(labels[at:], ".")+"." != zone {
		return nil, false
	}
	return labels[:at], true
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// soa returns the zone's SOA at a revision. A secondary that is cut off stops
// answering after EXPIRE rather than serving the dead for long.
func (z *zone) soa(at store.Revision) *dns.SOA {
	return &dns.SOA{
		Hdr:     z.header(z.name, dns.TypeSOA, z.emptyTTL),
		Ns:      z.servers[0].Name,
		Mbox:    "hostmaster." + z.origin,
		Serial:  uint32(at), // the low 32 bits; serials compare modulo 2^32 (RFC 1982)
		Refresh: uint32(soaRefresh / time.Second),
		Retry:   uint32(soaRetry / time.Second),
		Expire:  uint32(soaExpire / time.Second),
		Minttl:  z.emptyTTL,
	}
}

// The timers of secondaries. They hear of changes by NOTIFY; these are for when
// they do not.
const (
	soaRefresh = 30 * time.Second
	soaRetry   = 10 * time.Second
	soaExpire  = 300 * time.Second
)

func (z *zone) header(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
