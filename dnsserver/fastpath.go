package dnsserver

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/store"
)

// The fast path answers queries of the plain shape from compiled views. It is
// a shortcut with an exit: whatever it does not fully understand it leaves to
// the ordinary path, whose answers its own equal. It allocates nothing.

// fastPath is the shortcut of one loop; it is not for concurrent use.
type fastPath struct {
	registry *store.Registry
	counts   *counts
	secret   *CookieSecret
	limiter  *limiter
	size     uint16 // EDNS, the server's
	maxTTL   uint32
	zone     []byte // in wire format, lower case
	soa      *soaWire
	zoneName []byte          // as text
	hosts    map[string]bool // labels directly below the zone that name servers take
	rnd      *rand.Rand

	now    store.Instant // of the batch: every query in it had come by then
	stale  bool          // so was the registry then: see stale.go
	q      wireQuery
	stream bool
	late   bool   // the answer was made from a view that is no longer the present one
	cookie []byte // of the response, nil: none
	known  bool   // the client has shown a good one
	memory [cookieSize]byte
	order  [compileMost]uint16
	drawn  [compileMost]uint32
	kind   [kindMost]byte
}

func (s *Server) newFastPath(c *counts) *fastPath {
	z := s.zone
	f := &fastPath{
		registry: s.registry,
		counts:   c,
		secret:   &s.cfg.CookieSecret,
		limiter:  s.limiter,
		size:     s.cfg.EDNSSize,
		maxTTL:   z.maxTTL,
		zone:     wireName(z.name),
		zoneName: []byte(z.name),
		hosts:    map[string]bool{},
		rnd:      rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
	for label := range Reserved(z.name, z.servers) {
		f.hosts[label] = true
	}
	f.soa = newSOAWire(z, f.zone)
	return f
}

// begin takes the time for the queries that have come, before they are answered,
// and by the same look at the clock whether the registry is stale: a server that
// was stopped finds that out with the first query that it reads.
func (f *fastPath) begin() { f.now, _, f.stale = f.registry.Present() }

// answer writes the response to a query into dst, which is empty and has room
// for a message, and reports whether it has one: otherwise the query is for
// the ordinary path.
func (f *fastPath) answer(dst, msg []byte, from client) ([]byte, bool) {
	q := &f.q
	if f.stale || !q.parse(msg, f.zone) || q.n == 0 || q.n == maxLabels || q.rrtype == dns.TypeAXFR || q.rrtype == dns.TypeIXFR {
		return dst, false
	}
	f.stream, f.cookie, f.known = from.stream(), nil, false
	if q.cookie != nil {
		f.cookie, f.known = f.secret.appendAnswer(f.memory[:0], q.cookie, from.addr, uint32(time.Now().Unix()))
	}
	ok := false
	f.late = true
	for try := 0; try < lateTries && f.late && !ok; try++ {
		f.late = false
		dst, ok = f.find(dst[:0], msg)
	}
	if ok && f.limiter != nil {
		dst = f.limited(dst, from)
	}
	return dst, ok
}

// lateTries is how often an answer is made again because its view had ceased
// to be the present one. A service of ten thousand that changes a thousand times
// a second needs it: to the ordinary path such a query is a dear one.
const lateTries = 4

// find answers for the name that was asked.
func (f *fastPath) find(dst, msg []byte) ([]byte, bool) {
	q := &f.q
	switch q.n {
	case 1:
		return f.service(dst, msg, q.label(0))
	case 2:
		if group := q.label(1); group[0] == '_' {
			return f.group(dst, msg, q.label(0), group)
		}
		return f.below(dst, msg, q.label(0), q.label(1))
	default:
		return f.below(dst, msg, nil, q.label(q.n-1))
	}
}

// service answers for a service's own name.
func (f *fastPath) service(dst, msg, name []byte) ([]byte, bool) {
	if name[0] == '_' || f.hosts[string(name)] {
		return dst, false
	}
	revision := f.registry.Revision() // first: never newer than what it stands for
	v := f.registry.ServiceBytes(name)
	if v == nil {
		return f.negative(dst, msg, rcodeNX, revision, "nothing is registered at this name")
	}
	c, _ := v.Derived().(*compiled)
	if c == nil {
		return dst, false
	}
	switch f.q.rrtype {
	case typeA:
		return f.addresses(dst, msg, v, c, &c.a, revision)
	case typeAAAA:
		return f.addresses(dst, msg, v, c, c.aaaa, revision)
	case typeSRV:
		return f.srv(dst, msg, v, c, revision)
	case dns.TypeANY:
		return dst, false
	}
	return f.noData(dst, msg, v, c, revision) // browsers ask for HTTPS everywhere
}

// group answers for _web._tcp and _web._udp, where all instances speak that.
func (f *fastPath) group(dst, msg, service, group []byte) ([]byte, bool) {
	if service[0] != '_' || len(service) == 1 || f.q.rrtype != typeSRV || f.hosts[string(group)] || string(service) == "_dns-sd" {
		return dst, false
	}
	var protocol int8
	switch string(group) {
	case "_tcp":
		protocol = int8(store.TCP)
	case "_udp":
		protocol = int8(store.UDP)
	default:
		return dst, false
	}
	revision := f.registry.Revision()
	v := f.registry.ServiceBytes(service[1:])
	if v == nil {
		return f.negative(dst, msg, rcodeNX, revision, "nothing is registered at this name")
	}
	if c, _ := v.Derived().(*compiled); c != nil && c.protocol == protocol {
		return f.srv(dst, msg, v, c, revision)
	}
	return dst, false
}

// below answers for an instance's own name, and for whatever stands below a
// service that is not there.
func (f *fastPath) below(dst, msg, label, service []byte) ([]byte, bool) {
	if service[0] == '_' || f.hosts[string(service)] {
		return dst, false
	}
	revision := f.registry.Revision()
	v := f.registry.ServiceBytes(service)
	if v == nil {
		return f.negative(dst, msg, rcodeNX, revision, "nothing is registered at this name")
	}
	if label == nil || label[0] == '_' || f.q.rrtype != typeA && f.q.rrtype != typeAAAA {
		return dst, false
	}
	m, ok := v.ByLabelBytes(label, f.now)
	if !ok {
		return dst, false
	}
	ttl := m.Lease.TTL(f.now, f.maxTTL)
	dst = appendHead(dst, msg, &f.q, 0)
	n := 0
	for _, a := range m.Addresses {
		if a.Is4() == (f.q.rrtype == typeA) {
			dst = appendAddress(dst, a, ttl)
			n++
		}
	}
	if n == 0 || !f.fits(dst) {
		return dst, false
	}
	return f.finish(dst, n, 0, v, ttl)
}

// limit is how large the response may be.
func (f *fastPath) limit() int {
	switch {
	case f.stream:
		return streamSize
	case f.q.edns:
		return int(min(f.q.size, f.size))
	}
	return plainSize
}

// fits reports whether the message holds what there is and the OPT record.
func (f *fastPath) fits(msg []byte) bool { return len(msg)+f.optSize() <= f.limit() }

// optSize is how much of the message the OPT record of an answer takes.
func (f *fastPath) optSize() int {
	switch {
	case !f.q.edns:
		return 0
	case f.cookie == nil:
		return optSize
	}
	return optSize + optionHead + len(f.cookie)
}

// finish ends a response with records: counts, OPT, and the note of how long
// caches keep it. Where that says that the view is no longer the present one,
// the next one is to be answered from.
func (f *fastPath) finish(dst []byte, answers, additional int, v *store.View, keep uint32) ([]byte, bool) {
	if f.q.edns {
		dst = appendOPT(dst, f.size, f.q.do, f.cookie, "")
		additional++
	}
	setCounts(dst, answers, 0, additional)
	if f.late = !v.HandOut(f.now.Add(time.Duration(keep)*time.Second + time.Second)); f.late {
		return dst, false
	}
	f.counts.count(f.q.rrtype, dns.RcodeSuccess)
	return dst, true
}

// negative is NXDOMAIN or NODATA.
func (f *fastPath) negative(dst, msg []byte, rcode uint16, revision store.Revision, why string) ([]byte, bool) {
	dst = appendHead(dst, msg, &f.q, rcode)
	dst = f.soa.append(dst, &f.q, f.zone, uint32(revision))
	additional := 0
	if f.q.edns {
		dst = appendOPT(dst, f.size, f.q.do, f.cookie, why)
		additional = 1
	}
	setCounts(dst, 0, 1, additional)
	if len(dst) > f.limit() {
		return dst, false
	}
	f.counts.count(f.q.rrtype, int(rcode))
	return dst, true
}

// noData answers that the type is not there, which is for sure only while
// every lease of the view lasts.
func (f *fastPath) noData(dst, msg []byte, v *store.View, c *compiled, revision store.Revision) ([]byte, bool) {
	if store.Instant(c.soonest.Load()) <= f.now {
		first := store.Never
		for _, m := range v.All() {
			first = min(first, m.Lease.End())
		}
		c.soonest.Store(int64(first))
		if first <= f.now {
			return dst, false
		}
	}
	return f.negative(dst, msg, 0, revision, c.why)
}

// ttl returns the TTL of the set and whether all in it live. Leases only grow while their view is the
// present one, so a bound that gave the largest TTL needs no second look.
func (s *rrset) ttl(now store.Instant, limit uint32) (ttl uint32, alive bool) {
	first := store.Instant(s.soonest.Load())
	if first == store.Never || first > now && first.Sub(now) >= time.Duration(limit+2)*time.Second {
		return limit, true
	}
	first, ttl = math.MaxInt64, limit
	for _, l := range s.leases {
		if !l.Alive(now) {
			return 0, false
		}
		first, ttl = min(first, l.End()), min(ttl, l.TTL(now, limit))
	}
	s.soonest.Store(int64(first))
	return ttl, true
}

func (f *fastPath) addresses(dst, msg []byte, v *store.View, c *compiled, s *rrset, revision store.Revision) ([]byte, bool) {
	switch {
	case s == nil:
		return f.noData(dst, msg, v, c, revision)
	case s.left:
		return dst, false
	case s.many != nil:
		return f.drawAddresses(dst, msg, v, s.many)
	case s.n == 0:
		return f.noData(dst, msg, v, c, revision)
	}
	ttl, alive := s.ttl(f.now, f.maxTTL)
	if !alive {
		return dst, false
	}
	dst = appendHead(dst, msg, &f.q, 0)
	size := len(s.data) / s.n
	fit := min(s.n, (f.limit()-f.optSize()-len(dst))/(sizeHead+size))
	for _, k := range f.shuffle(s)[:fit] {
		dst = appendOwned(dst, headerSize, ttl, s.data[int(k)*size:][:size])
	}
	if fit < s.n {
		return f.truncate(dst, fit, v, ttl)
	}
	return f.finish(dst, fit, 0, v, ttl)
}

func (f *fastPath) srv(dst, msg []byte, v *store.View, c *compiled, revision store.Revision) ([]byte, bool) {
	s := &c.srv
	switch {
	case s.many != nil:
		return f.drawSRV(dst, msg, v, s.many)
	case s.n == 0:
		return f.noData(dst, msg, v, c, revision)
	}
	ttl, alive := s.ttl(f.now, f.maxTTL)
	if !alive {
		return dst, false
	}
	dst = appendHead(dst, msg, &f.q, 0)
	if len(dst)+len(s.data) > maxPointer { // so far no owner of an additional record can point
		return dst, false
	}
	order, first, n := f.shuffle(&s.rrset), len(dst), 0
	if dst, n = f.records(dst, s, order, ttl); n < len(order) {
		return f.truncate(dst, n, v, ttl)
	}
	if s.left {
		return dst, false
	}
	dst, additional, keep := f.additional(dst, first, s, order, ttl)
	return f.finish(dst, n, additional, v, keep)
}

// records appends the set's SRV records in that order as far as they fit, and
// returns how many do.
func (f *fastPath) records(dst []byte, s *srvset, order []uint16, ttl uint32) ([]byte, int) {
	room := f.limit() - f.optSize()
	for n, k := range order {
		r := s.record(int(k))
		if len(dst)+len(r) > room {
			return dst, n
		}
		dst = appendRecord(dst, r, headerSize, ttl)
	}
	return dst, len(order)
}

// truncate ends an answer that holds n of its records only. Over a stream that
// is for the ordinary path, which knows which.
func (f *fastPath) truncate(dst []byte, n int, v *store.View, ttl uint32) ([]byte, bool) {
	if f.stream {
		return dst, false
	}
	setTruncated(dst)
	dst, ok := f.finish(dst, n, 0, v, ttl)
	if ok {
		f.counts.truncated.Add(1)
	}
	return dst, ok
}

// additional appends whole RRsets of the targets as long as they fit; at is
// where in the message the first SRV record stands. The largest TTL is that of
// all targets, whether or not theirs fit.
func (f *fastPath) additional(dst []byte, at int, s *srvset, order []uint16, ttlOfSet uint32) (out []byte, n int, keep uint32) {
	keep = ttlOfSet
	room := f.limit() - f.optSize()
	for _, k := range order {
		t := &s.targets[k]
		ttl := f.maxTTL
		if ttlOfSet < f.maxTTL { // otherwise every lease gives the largest
			ttl = s.leases[k].TTL(f.now, f.maxTTL)
		}
		keep = max(keep, ttl)
		owner := at + sizeSRV
		at += len(s.record(int(k)))
		addrs := s.addrs[t.start:]
		for _, set := range [2]struct{ n, size int }{{int(t.a), sizeIPv4}, {int(t.aaaa), sizeIPv6}} {
			if set.n*(sizeHead+set.size) > room-len(dst) {
				room = 0 // what follows might fit, but a smaller set is not to go before a larger
				continue
			}
			for range set.n {
				dst = appendOwned(dst, owner, ttl, addrs[:set.size])
				addrs = addrs[set.size:]
			}
			n += set.n
		}
	}
	return dst, n, keep
}

// shuffle returns the numbers of the set's records in random order, by weight
// where they differ: see order.go.
func (f *fastPath) shuffle(s *rrset) []uint16 {
	order := f.order[:s.n]
	for k := range order {
		order[k] = uint16(k)
	}
	if s.weights == nil {
		for k := len(order) - 1; k > 0; k-- {
			j := f.below32(uint32(k + 1))
			order[k], order[j] = order[j], order[k]
		}
		return order
	}
	sum := uint64(0)
	for _, w := range s.weights {
		sum += tickets(w)
	}
	for k := range order {
		hi, _ := bits.Mul64(f.rnd.Uint64(), sum)
		j := k
		for hi >= tickets(s.weights[order[j]]) {
			hi -= tickets(s.weights[order[j]])
			j++
		}
		sum -= tickets(s.weights[order[j]])
		order[k], order[j] = order[j], order[k]
	}
	return order
}

// below32 returns a random number below n.
func (f *fastPath) below32(n uint32) uint32 {
	return uint32(uint64(uint32(f.rnd.Uint64())) * uint64(n) >> 32)
}

// tickets is rate in whole numbers.
func tickets(weight int) uint64 {
	if weight == 0 {
		return 1
	}
	return 1000 * uint64(weight)
}
