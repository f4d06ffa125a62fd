package dnsserver_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// Over random registries, at random moments: what every name of every type
// says is what the model has, NXDOMAIN is said exactly where nothing is at the
// name or below it, every RRset has one TTL, and what has no TC is complete.
func TestZoneProperties(t *testing.T) {
	for range 8 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { checkZone(t, seed) })
	}
}

func FuzzZoneProperties(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(checkZone)
}

func checkZone(t *testing.T, seed uint64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		reverse, err := dnsserver.Reverse([]string{"10.0.0.0/15", "2001:db8::/32", "192.0.2.4/31"}, "service.")
		if err != nil {
			t.Fatal(err)
		}
		r, done := storetest.Open(t, memory, store.Config{Derive: dnsserver.Compile("service."), Addresses: reverse})
		defer done()
		cfg := townConfig(r)
		cfg.Reverse = reverse
		v := visitor{t: t, s: dnsserver.NewOffline(cfg), rnd: rand.New(rand.NewPCG(seed, 2))}
		for range 3 {
			for range 12 {
				v.change(r)
			}
			v.visit(newWorld(census(r), reverse))
		}
	})
}

// census returns all that are registered and alive.
func census(r *store.Registry) []citizen {
	now := r.Now()
	var live []citizen
	r.Services(func(v *store.View) bool {
		for _, m := range v.All() {
			if m.Lease.Alive(now) {
				live = append(live, citizen{m.Instance, ownTTL(m.Lease.End(), now)})
			}
		}
		return true
	})
	return live
}

func ownTTL(end, now store.Instant) uint32 {
	if end == store.Never {
		return modelTTL
	}
	return uint32(max(min(int64(end-now)/1e9-1, modelTTL), 0))
}

// visitor asks a server everything.
type visitor struct {
	t   *testing.T
	s   dnsserver.Offline
	rnd *rand.Rand
}

func (v visitor) pick(from ...string) string { return from[v.rnd.IntN(len(from))] }

// change changes the registry at random. The words are chosen to meet: services,
// labels and tags that read as parts of other names.
func (v visitor) change(r *store.Registry) {
	service := v.pick("web", "web", "dns-sd", "tcp", "b", "sub")
	id := v.pick("a1", "b", "lb", "v2", "eu", "tcp", "Upper", "i7")
	switch op := v.rnd.IntN(10); {
	case op < 7:
		i := instance(service, id, "")
		for range 1 + v.rnd.IntN(3) {
			i.Addresses = append(i.Addresses, netip.MustParseAddr(v.pick("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "10.2.0.1",
				"192.0.2.4", "2001:db8::1", "2001:db8::2", "2001:db8:1::", "2001:db9::1")))
		}
		i.Port = uint16(v.rnd.IntN(3))
		i.Protocol = store.Protocol(v.rnd.IntN(2))
		i.Priority, i.Weight = uint16(v.rnd.IntN(2)), uint16(v.rnd.IntN(3))
		i.TTL = time.Duration(v.rnd.IntN(40)) * time.Second
		for range v.rnd.IntN(4) {
			i.Tags = append(i.Tags, v.pick("v2", "eu", "EU", "tcp", "sub", "dns-sd", "not a label", "x_1"))
		}
		for range v.rnd.IntN(2) {
			i.Ports = append(i.Ports, store.NamedPort{Name: v.pick("metrics", "tcp"), Port: 9})
		}
		for range v.rnd.IntN(2) {
			i.Meta = append(i.Meta, store.Pair{Key: "k", Value: v.pick("", "v")})
		}
		_, _ = r.Register(v.t.Context(), i, false)
	case op < 8:
		_, _ = r.Deregister(v.t.Context(), service, id)
	case op < 9:
		status := []store.Status{store.Up, store.Down, store.Draining}[v.rnd.IntN(3)]
		_, _ = r.Heartbeat(v.t.Context(), service, id, store.Beat{Status: &status})
	default:
		storetest.Advance(time.Duration(v.rnd.IntN(9000)) * time.Millisecond)
	}
}

var visited = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR, dns.TypeNS, dns.TypeMX}

// visit asks for every name there is and for many that there are not.
func (v visitor) visit(w world) {
	names := slices.Sorted(maps.Keys(w))
	for _, name := range names {
		for _, rrtype := range visited {
			v.ask(w, name, rrtype)
		}
	}
	for range 1500 {
		name := v.misspell(names)
		v.ask(w, name, visited[v.rnd.IntN(len(visited))])
	}
}

// misspell makes a name that is likely not there: labels of names that are, put
// together otherwise.
func (v visitor) misspell(names []string) string {
	name := names[v.rnd.IntN(len(names))]
	zone := "service."
	if strings.HasSuffix(name, "arpa.") {
		zone = v.pick("0.10.in-addr.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.", "4.2.0.192.in-addr.arpa.")
	}
	head := strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
	labels := strings.Split(head, ".")
	other, _, _ := strings.Cut(names[v.rnd.IntN(len(names))], ".")
	at := v.rnd.IntN(len(labels))
	switch v.rnd.IntN(4) {
	case 0:
		labels = slices.Insert(labels, at, other)
	case 1:
		labels[at] = other
	case 2:
		labels = slices.Delete(labels, at, at+1)
	default:
		labels[at] = v.pick("_tcp", "_udp", "_sub", "_dns-sd", "_services", "nope", "00", "01", "256", "0", "f", "_", "a1", "web", "_web")
	}
	labels = slices.DeleteFunc(labels, func(l string) bool { return l == "" })
	return strings.Join(append(labels, zone), ".")
}

func (v visitor) ask(w world, name string, rrtype uint16) {
	v.t.Helper()
	if !inWorld(w, name) {
		return
	}
	question := name + " " + dns.TypeToString[rrtype]
	for _, c := range []struct {
		edns   uint16
		stream bool
	}{{0, true}, {0, false}, {1232, false}} {
		resp := v.s.Respond(query(question, c.edns), c.stream)
		v.checkTTLs(question, resp)
		want, exists := w[name]
		if nx := resp.Rcode == dns.RcodeNameError; nx == exists || !nx && resp.Rcode != dns.RcodeSuccess {
			v.t.Errorf("%s: %s, but that the name exists is %v", question, dns.RcodeToString[resp.Rcode], exists)
		}
		if resp.Truncated && c.stream {
			v.t.Errorf("%s: TC over TCP", question)
		}
		if !resp.Truncated {
			v.checkWhole(question+": answer", resp.Answer, want[rrtype])
		}
		if soa := len(resp.Ns) == 1 && resp.Ns[0].Header().Rrtype == dns.TypeSOA; soa != (len(resp.Answer) == 0 && !resp.Truncated) {
			v.t.Errorf("%s: authority %v beside answer %v", question, resp.Ns, resp.Answer)
		}
		for key, rrs := range rrsets(resp.Extra) {
			v.checkWhole(question+": additional", rrs, w[key.name][key.rrtype])
		}
	}
}

// inWorld reports whether a name is in any zone.
func inWorld(w world, name string) bool {
	for ; name != ""; _, name, _ = strings.Cut(name, ".") {
		if _, apex := w[name][dns.TypeSOA]; apex {
			return true
		}
	}
	return false
}

type rrsetKey struct {
	name   string
	rrtype uint16
}

func rrsets(section []dns.RR) map[rrsetKey][]dns.RR {
	sets := map[rrsetKey][]dns.RR{}
	for _, rr := range section {
		if h := rr.Header(); h.Rrtype != dns.TypeOPT {
			key := rrsetKey{h.Name, h.Rrtype}
			sets[key] = append(sets[key], rr)
		}
	}
	return sets
}

// checkTTLs checks RFC 2181 section 5.2 over the whole message.
func (v visitor) checkTTLs(question string, resp *dns.Msg) {
	v.t.Helper()
	for key, rrs := range rrsets(slices.Concat(resp.Answer, resp.Ns, resp.Extra)) {
		for _, rr := range rrs {
			if rr.Header().Ttl != rrs[0].Header().Ttl {
				v.t.Errorf("%s: several TTLs at %v: %v", question, key, rrs)
			}
		}
	}
}

// checkWhole holds records against an RRset of the model.
func (v visitor) checkWhole(what string, got []dns.RR, want *set) {
	v.t.Helper()
	if want == nil {
		want = &set{}
	}
	var data []string
	for _, rr := range got {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
		if rr.Header().Ttl != want.ttl {
			v.t.Errorf("%s: TTL %d, want %d: %v", what, rr.Header().Ttl, want.ttl, rr)
		}
	}
	slices.Sort(data)
	if !slices.Equal(data, slices.Sorted(slices.Values(want.data))) {
		v.t.Errorf("%s:\n got %q\nwant %q", what, data, want.data)
	}
}
