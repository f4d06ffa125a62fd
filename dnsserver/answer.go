package dnsserver

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// question is one name and type that were asked, and the name's labels below
// the zone in lower case.
type question struct {
	name   string // letter for letter: answers give it back so (0x20)
	labels []string
	rrtype uint16

	// most is how many records can be of use: so many do not fit. 0: all.
	most int
}

// answer is what the zone has to say to a question, before it is brought into
// a message: nothing is cut and nothing is shuffled.
type answer struct {
	rcode     int
	records   []record // the answer section: best priority first, then by label
	authority []dns.RR
	glue      [][]dns.RR // additional RRsets of the name servers

	at       store.Revision // of the registry: never newer than what the answer stands for
	weighted bool           // the order of the records is drawn by weight, else evenly
	why      string         // for people, where there are no records
	own      bool           // nothing of it is from the registry

	views []*store.View // whose instances the records are of
	keep  uint32        // the largest TTL of an instance's record: how long caches may keep something of it
}

// record is one record of the answer section.
type record struct {
	rr     dns.RR
	weight int
	target *store.Instance // an SRV record's: its addresses are additional
	browse bool            // a PTR record's: so are the SRV and TXT records of its name in DNS-SD
	ttl    uint32          // of those
}

// answer answers a question from the registry as it is at now. It is a pure
// function: the same registry, question and moment give the same answer.
func (z *zone) answer(reg registry, q question, now store.Instant) answer {
	revision := reg.Revision() // first, so that it is never newer than what it stands for
	n := z.find(reg, q.labels, now)
	a := answer{rcode: dns.RcodeSuccess, at: revision}
	switch {
	case !n.exists:
		a.rcode = dns.RcodeNameError
	case n.address.IsValid() && q.rrtype == dns.TypePTR:
		z.answerReverse(&a, reg, q, n.address, now)
	case n.apex:
		z.answerApex(&a, q, revision)
	case n.hosts != nil:
		z.answerHost(&a, q, n)
	case q.rrtype == dns.TypeANY && n.hasRecords():
		a.records = []record{z.minimalAny(q.name)}
	case n.types && q.rrtype == dns.TypePTR:
		z.answerTypes(&a, reg, q, now)
	case n.domain && q.rrtype == dns.TypePTR:
		z.answerDomain(&a, q)
	default:
		z.answerInstances(&a, q, &n, now)
	}
	if len(a.records) == 0 {
		a.authority = []dns.RR{z.soa(revision)}
		a.why = n.emptyBecause()
	}
	return a
}

// minimalAny is the one record that ANY gets (RFC 8482 section 4.2).
func (z *zone) minimalAny(owner string) record {
	return record{rr: &dns.HINFO{Hdr: z.header(owner, dns.TypeHINFO, z.emptyTTL), Cpu: "RFC8482"}}
}

func (z *zone) answerApex(a *answer, q question, at store.Revision) {
	switch q.rrtype {
	case dns.TypeSOA:
		soa := z.soa(at)
		soa.Hdr.Name = q.name
		a.records = []record{{rr: soa}}
	case dns.TypeNS:
		a.own = true
		for _, s := range z.servers {
			a.records = append(a.records, record{rr: &dns.NS{Hdr: z.header(q.name, dns.TypeNS, z.ownTTL), Ns: s.Name}})
			a.glue = append(a.glue, z.addressSets(s.Name, s.Addrs, z.ownTTL)...)
		}
	case dns.TypeANY:
		a.records = []record{z.minimalAny(q.name)}
	}
}

func (z *zone) answerHost(a *answer, q question, n node) {
	if q.rrtype == dns.TypeANY {
		a.records = []record{z.minimalAny(q.name)}
		return
	}
	for _, s := range n.hosts {
		for _, rr := range z.addresses(q.name, s.Addrs, q.rrtype, z.ownTTL) {
			a.records = append(a.records, record{rr: rr})
		}
	}
	a.own = len(a.records) > 0 // otherwise it has the SOA
}

func (z *zone) answerInstances(a *answer, q question, n *node, now store.Instant) {
	switch {
	case n.addrs && (q.rrtype == dns.TypeA || q.rrtype == dns.TypeAAAA):
		z.answerAddresses(a, q, n, now)
	case n.ports != nil && q.rrtype == dns.TypeSRV:
		z.answerSRV(a, q, n, now)
	case n.own && q.rrtype == dns.TypeTXT:
		a.records = []record{{rr: z.text(q.name, n.members[0].Instance, z.ttl(n.members, now))}}
	case n.browse && q.rrtype == dns.TypePTR:
		z.answerBrowse(a, q, n, now)
	}
	if len(a.records) == 0 {
		return
	}
	a.views = []*store.View{n.view}
	a.keep = a.records[0].rr.Header().Ttl // an RRset has one
	for _, r := range a.records {
		a.keep = max(a.keep, r.ttl)
	}
}

// answerAddresses gives the addresses of the best priority that has any of the
// family, each once. An address that several instances share has their weight
// together.
func (z *zone) answerAddresses(a *answer, q question, n *node, now store.Instant) {
	best := -1
	var from []store.Member
	for _, m := range n.members {
		if !slices.ContainsFunc(m.Addresses, ofFamily(q.rrtype)) {
			continue
		}
		switch p := int(m.Priority); {
		case best < 0 || p < best:
			best, from = p, []store.Member{m}
		case p == best:
			from = append(from, m)
		}
	}
	ttl := z.ttl(from, now)
	seen := map[netip.Addr]int{} // its place in the records
	for _, m := range from {
		for _, addr := range m.Addresses {
			if !ofFamily(q.rrtype)(addr) {
				continue
			}
			at, known := seen[addr]
			if !known {
				at = len(a.records)
				seen[addr] = at
				a.records = append(a.records, record{rr: z.address(q.name, addr, ttl)})
			}
			a.records[at].weight += int(m.Weight)
		}
	}
	a.weighted = true
}

func (z *zone) answerSRV(a *answer, q question, n *node, now store.Instant) {
	from := n.withPort(n.ports)
	ttl := z.ttl(from, now)
	for _, m := range from {
		a.records = append(a.records, record{
			rr:     z.service(q.name, m.Instance, n.ports(m.Instance), ttl),
			target: m.Instance,
			ttl:    m.Lease.TTL(now, z.maxTTL),
		})
	}
}

// withPort returns the members that have the port, best priority first.
func (n *node) withPort(port func(*store.Instance) uint16) []store.Member {
	from := slices.DeleteFunc(slices.Clone(n.members), func(m store.Member) bool { return port(m.Instance) == 0 })
	slices.SortStableFunc(from, func(x, y store.Member) int { return cmp.Compare(x.Priority, y.Priority) })
	return from
}

// ttl is the one TTL of an RRset (RFC 2181 section 5.2): the smallest that any
// of the instances in it allows.
func (z *zone) ttl(set []store.Member, now store.Instant) uint32 {
	ttl := z.maxTTL
	for _, m := range set {
		ttl = min(ttl, m.Lease.TTL(now, z.maxTTL))
	}
	return ttl
}

// additional returns the RRsets that save a client who gets the record its
// next queries: the addresses of the target, and before them what else is
// browsed for (RFC 6763 section 12). They have the TTL that its own instance
// allows.
func (z *zone) additional(r record) [][]dns.RR {
	if r.target == nil {
		return nil
	}
	var sets [][]dns.RR
	if r.browse {
		owner := z.browseName(r.target)
		sets = [][]dns.RR{
			{z.service(owner, r.target, r.target.Port, r.ttl)},
			{z.text(owner, r.target, r.ttl)},
		}
	}
	return append(sets, z.addressSets(z.instanceName(r.target), r.target.Addresses, r.ttl)...)
}

// addressSets returns the A and the AAAA RRset of a name, where it has them.
func (z *zone) addressSets(owner string, addrs []netip.Addr, ttl uint32) [][]dns.RR {
	var sets [][]dns.RR
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if set := z.addresses(owner, addrs, t, ttl); len(set) > 0 {
			sets = append(sets, set)
		}
	}
	return sets
}
