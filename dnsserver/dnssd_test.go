package dnsserver_test

import (
	"fmt"
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

// A service may be called dns-sd: its names and those that browsers begin with
// are the same nodes.
func TestServiceNamedDNSSD(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	storetest.Register(t, r, instance("dns-sd", "b", "10.0.0.1", protocol(store.UDP), tags("lb")))
	s := dnsserver.NewOffline(townConfig(r))
	for question, want := range map[string]string{
		"_dns-sd._udp.service. SRV":           "_dns-sd._udp.service. 30 IN SRV 10 10 8080 b.dns-sd.service.",
		"_dns-sd._udp.service. PTR":           "_dns-sd._udp.service. 30 IN PTR b._dns-sd._udp.service.",
		"b._dns-sd._udp.service. PTR":         "b._dns-sd._udp.service. 30 IN PTR service.",
		"b._dns-sd._udp.service. SRV":         "b._dns-sd._udp.service. 30 IN SRV 10 10 8080 b.dns-sd.service.",
		"b._dns-sd._udp.service. TXT":         `b._dns-sd._udp.service. 30 IN TXT ""`,
		"lb._dns-sd._udp.service. PTR":        "lb._dns-sd._udp.service. 30 IN PTR service.",
		"_services._dns-sd._udp.service. PTR": "_services._dns-sd._udp.service. 30 IN PTR _dns-sd._udp.service.",
		"_lb._sub._dns-sd._udp.service. PTR":  "_lb._sub._dns-sd._udp.service. 30 IN PTR b._dns-sd._udp.service.",
		"lb._dns-sd._udp.service. SRV":        "",
	} {
		resp := s.Respond(query(question, 1232), false)
		if got := strings.Join(text(resp.Answer), "\n"); got != want || resp.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %s %q, want %q", question, dns.RcodeToString[resp.Rcode], got, want)
		}
	}
}

// Nothing registered: what can be browsed is still there, with nothing in it.
func TestBrowseNothing(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	s := dnsserver.NewOffline(townConfig(r))
	for question, n := range map[string]int{
		"_udp.service. A": 0, "_dns-sd._udp.service. PTR": 0, "_services._dns-sd._udp.service. PTR": 0, "b._dns-sd._udp.service. PTR": 1,
	} {
		if resp := s.Respond(query(question, 0), false); resp.Rcode != dns.RcodeSuccess || len(resp.Answer) != n {
			t.Errorf("%s: %s, %d records, want %d", question, dns.RcodeToString[resp.Rcode], len(resp.Answer), n)
		}
	}
}

// A label of 63 octets has no room for an underscore: such a service and such
// a tag are in no name that needs one.
func TestBrowseLongLabels(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	long := strings.Repeat("x", 63)
	storetest.Register(t, r, instance(long, "a1", "10.0.0.1"))
	storetest.Register(t, r, instance("web", "a1", "10.0.0.1", tags(long)))
	s := dnsserver.NewOffline(townConfig(r))
	resp := s.Respond(query("_services._dns-sd._udp.service. PTR", 0), true)
	if got := text(resp.Answer); !slices.Equal(got, []string{"_services._dns-sd._udp.service. 30 IN PTR _web._tcp.service."}) {
		t.Errorf("the types are %q", got)
	}
	packedLen(t, resp)
	if resp := s.Respond(query("_sub._web._tcp.service. PTR", 0), true); resp.Rcode != dns.RcodeNameError {
		t.Errorf("_sub, and no subtype: %s", dns.RcodeToString[resp.Rcode])
	}
}

// Additional data of PTR records: whole RRsets, as far as they fit.
func TestBrowseAdditional(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	crowd(t, r, 12)
	s := dnsserver.NewOffline(townConfig(r))
	last := -1
	for _, edns := range []uint16{0, 700, 1000, 1232} {
		resp := s.Respond(query("_web._tcp.service. PTR", edns), false)
		extra := len(text(resp.Extra))
		if resp.Truncated || len(resp.Answer) != 12 || extra < last || packedLen(t, resp) > max(512, int(edns)) {
			t.Errorf("EDNS %d: TC %v, %d records, %d additional after %d", edns, resp.Truncated, len(resp.Answer), extra, last)
		}
		last = extra
	}
	if resp := s.Respond(query("_web._tcp.service. PTR", 0), true); len(resp.Extra) != 4*12 {
		t.Errorf("over TCP %d additional records, want SRV, TXT, A and AAAA of 12", len(resp.Extra))
	}
}

// Very many services: over UDP no more is collected than can fit, TC says so;
// TCP has as many as a message holds, the first by name, and the numbers.
func TestManyTypes(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	const n = 3000
	for k := range n {
		storetest.Register(t, r, instance(fmt.Sprintf("service-%04d-with-a-rather-long-name", k), "a1", "10.0.0.1"))
	}
	s := dnsserver.NewOffline(townConfig(r))
	const question = "_services._dns-sd._udp.service. PTR"
	resp := s.Respond(query(question, 1232), false)
	if size := packedLen(t, resp); !resp.Truncated || size > 1232 || size < 1150 {
		t.Errorf("over UDP: TC %v, %d octets", resp.Truncated, size)
	}
	var first []string
	for range 2 {
		resp := s.Respond(query(question, 1232), true)
		got := text(resp.Answer)
		if resp.Truncated || len(got) >= n || len(got) < 1000 || packedLen(t, resp) > dns.MaxMsgSize {
			t.Errorf("over TCP: TC %v, %d records of %d", resp.Truncated, len(got), n)
		}
		if first != nil && !slices.Equal(first, got) {
			t.Error("over TCP the subset is not stable")
		}
		if first = got; !strings.Contains(got[len(got)-1], fmt.Sprintf("_service-%04d-", len(got)-1)) {
			t.Errorf("of %d records the last is %s", len(got), got[len(got)-1])
		}
		why := ""
		for _, o := range resp.IsEdns0().Option {
			why += o.(*dns.EDNS0_EDE).ExtraText
		}
		if want := fmt.Sprintf("%d of %d records", len(got), n); !strings.HasPrefix(why, want) {
			t.Errorf("the reason is %q, want %q", why, want)
		}
	}
}

// An answer from many services is noted in each: safe_after of any counts it.
func TestSafeAfterFollowsBrowsing(t *testing.T) {
	for question, want := range map[string]time.Duration{
		"_services._dns-sd._udp.service. PTR": 20 * time.Second, // the RRset has the TTL 19
		"_web._tcp.service. PTR":              31 * time.Second, // the additional records have 30
		"1.0.0.10.in-addr.arpa. PTR":          20 * time.Second,
		"a1._web._tcp.service. TXT":           31 * time.Second,
		"b._dns-sd._udp.service. PTR":         0,
	} {
		synctest.Test(t, func(t *testing.T) {
			s, r := reverseServer(t, "10.0.0.0/8")
			storetest.Register(t, r, instance("web", "a1", "10.0.0.1"))
			storetest.Register(t, r, instance("web", "a2", "10.0.0.2", lease(20*time.Second)))
			storetest.Register(t, r, instance("db", "d1", "10.0.0.1", lease(20*time.Second)))
			s.Respond(query(question, 0), true)
			gone, err := r.Deregister(t.Context(), "web", "a1")
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Until(gone.SafeAfter); got != want {
				t.Errorf("%s: safe after %v, want %v", question, got, want)
			}
		})
	}
}

// Where the registry changes all the time, answers are made from views that
// have been noted with the largest TTL beforehand. They are the same.
func TestNotedBeforehand(t *testing.T) {
	for _, question := range []string{"_services._dns-sd._udp.service. PTR", "_web._tcp.service. PTR", "1.0.0.10.in-addr.arpa. PTR", "web.service. A"} {
		synctest.Test(t, func(t *testing.T) {
			s, r := reverseServer(t, "10.0.0.0/8")
			storetest.Register(t, r, instance("web", "a1", "10.0.0.1"))
			storetest.Register(t, r, instance("web", "a2", "10.0.0.2", lease(20*time.Second)))
			storetest.Register(t, r, instance("db", "d1", "10.0.0.1", lease(20*time.Second)))
			name, rrtype, _ := strings.Cut(question, " ")
			got := text(s.Noted(name, dns.StringToType[rrtype]))
			gone, err := r.Deregister(t.Context(), "web", "a1")
			if err != nil {
				t.Fatal(err)
			}
			if after := time.Until(gone.SafeAfter); after != 31*time.Second {
				t.Errorf("%s: safe after %v, want 31s", question, after)
			}
			storetest.Register(t, r, instance("web", "a1", "10.0.0.1"))
			if want := text(s.Respond(query(question, 0), true).Answer); len(got) == 0 || !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", question, got, want)
			}
		})
	}
}
