package store_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestNormalizeRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		field string
		spoil func(*store.Instance)
	}{
		{"no service", "service", func(i *store.Instance) { i.Service = "" }},
		{"service of two labels", "service", func(i *store.Instance) { i.Service = "a.b" }},
		{"service with a hyphen at its end", "service", func(i *store.Instance) { i.Service = "web-" }},
		{"service with an underscore before it", "service", func(i *store.Instance) { i.Service = "_web" }},
		{"service of 64 octets", "service", func(i *store.Instance) { i.Service = strings.Repeat("a", 64) }},
		{"service that only Unicode would fold", "service", func(i *store.Instance) { i.Service = "\u212aelvin" }},
		{"no ID", "id", func(i *store.Instance) { i.ID = "" }},
		{"ID with a space", "id", func(i *store.Instance) { i.ID = "a b" }},
		{"ID with a control character", "id", func(i *store.Instance) { i.ID = "a\x00b" }},
		{"ID beyond ASCII", "id", func(i *store.Instance) { i.ID = "ä" }},
		{"ID of 256 octets", "id", func(i *store.Instance) { i.ID = strings.Repeat("a", 256) }},
		{"no address", "addresses", func(i *store.Instance) { i.Addresses = nil }},
		{"unspecified address", "addresses", address("0.0.0.0")},
		{"unspecified IPv6 address", "addresses", address("::")},
		{"multicast address", "addresses", address("224.0.0.1")},
		{"multicast IPv6 address", "addresses", address("ff02::1")},
		{"broadcast address", "addresses", address("255.255.255.255")},
		{"IPv4-mapped address", "addresses", address("::ffff:10.0.0.1")},
		{"address with a zone", "addresses", address("fe80::1%eth0")},
		{"invalid address", "addresses", func(i *store.Instance) { i.Addresses = []netip.Addr{{}} }},
		{"named port 0", "ports.metrics", func(i *store.Instance) { i.Ports = []store.NamedPort{{Name: "metrics"}} }},
		{"named port with a bad name", "ports", func(i *store.Instance) { i.Ports = []store.NamedPort{{Name: "a.b", Port: 1}} }},
		{"named port of 63 octets, too long behind an underscore", "ports", func(i *store.Instance) {
			i.Ports = []store.NamedPort{{Name: strings.Repeat("a", 63), Port: 1}}
		}},
		{"named port twice", "ports", func(i *store.Instance) { i.Ports = []store.NamedPort{{Name: "a", Port: 1}, {Name: "A", Port: 2}} }},
		{"empty tag", "tags", func(i *store.Instance) { i.Tags = []string{""} }},
		{"tag of 256 octets", "tags", func(i *store.Instance) { i.Tags = []string{strings.Repeat("a", 256)} }},
		{"257 tags", "tags", func(i *store.Instance) { i.Tags = make([]string, 257) }},
		{"65 entries of meta", "meta", func(i *store.Instance) { i.Meta = make([]store.Pair, 65) }},
		{"empty meta key", "meta", func(i *store.Instance) { i.Meta = []store.Pair{{Value: "x"}} }},
		{"meta key with =", "meta", func(i *store.Instance) { i.Meta = []store.Pair{{Key: "a=b"}} }},
		{"meta key twice", "meta", func(i *store.Instance) { i.Meta = []store.Pair{{Key: "a"}, {Key: "a"}} }},
		{"meta of 256 octets", "meta.k", func(i *store.Instance) { i.Meta = []store.Pair{{Key: "k", Value: strings.Repeat("v", 254)}} }},
		{"negative ttl", "ttl", func(i *store.Instance) { i.TTL = -time.Second }},
		{"ttl of a fraction", "ttl", func(i *store.Instance) { i.TTL = 1500 * time.Millisecond }},
		{"ttl of over a day", "ttl", func(i *store.Instance) { i.TTL = 86401 * time.Second }},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := storetest.Instance("web", "a1")
			c.spoil(i)
			var invalid *store.InvalidError
			if err := i.Normalize(); !errors.As(err, &invalid) || invalid.Field != c.field {
				t.Errorf("got %v, want an InvalidError of %s", err, c.field)
			}
		})
	}
}

func address(text string) func(*store.Instance) {
	return func(i *store.Instance) { i.Addresses = []netip.Addr{netip.MustParseAddr(text)} }
}

func TestNormalizeFolds(t *testing.T) {
	i := storetest.Instance("Web_1", "A1")
	i.Addresses = []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.2")}
	i.Tags = []string{"v2", "Eu", "v2"}
	i.Ports = []store.NamedPort{{Name: "Metrics", Port: 9}, {Name: "debug", Port: 8}}
	i.Meta = []store.Pair{{Key: "z", Value: "1"}, {Key: "a", Value: strings.Repeat("v", 253)}}
	if err := i.Normalize(); err != nil {
		t.Fatal(err)
	}
	if i.Service != "web_1" || len(i.Addresses) != 2 || !i.Addresses[0].Is4() || !slices.Equal(i.Tags, []string{"Eu", "v2"}) ||
		i.Ports[1].Name != "metrics" || i.Meta[0].Key != "a" {
		t.Errorf("got %+v", i)
	}
	if !i.HasTags("eu", "v2") || i.HasTags("eu", "v3") {
		t.Error("tags are to be matched by their labels, all of them")
	}
}

func TestLabel(t *testing.T) {
	for id, want := range map[string]string{
		"a1":                    "a1",
		"10-0-0-5-8080":         "10-0-0-5-8080",
		strings.Repeat("a", 63): strings.Repeat("a", 63),
	} {
		if got := store.Label(id); got != want {
			t.Errorf("Label(%q) = %q, want the ID itself", id, got)
		}
	}
	seen := map[string]string{}
	for _, id := range []string{"A1", "a_1", "a.1", "-a1", "a1-", "a--1-", "---", "/", strings.Repeat("a", 64), strings.Repeat("a", 65), "host:container:80"} {
		l := store.Label(id)
		if len(l) > 63 || l == id || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || l[0] == '-' || l[len(l)-1] == '-' {
			t.Errorf("Label(%q) = %q is no derived label", id, l)
		}
		if store.Label(l) != l {
			t.Errorf("Label(%q) = %q is not its own label", id, l)
		}
		if other, taken := seen[l]; taken {
			t.Errorf("%q and %q share the label %q", id, other, l)
		}
		seen[l] = id
	}
}

func TestDeriveID(t *testing.T) {
	for _, c := range []struct {
		addr string
		p    store.Protocol
		want string
	}{
		{"10.0.0.5", store.TCP, "10-0-0-5-8080"},
		{"10.0.0.5", store.UDP, "10-0-0-5-8080-udp"},
		{"::1", store.TCP, "0000-0000-0000-0000-0000-0000-0000-0001-8080"},
	} {
		if got := store.DeriveID(netip.MustParseAddr(c.addr), 8080, c.p); got != c.want || store.Label(got) != got {
			t.Errorf("DeriveID(%s, %s) = %q, want %q, which is its own label", c.addr, c.p, got, c.want)
		}
	}
}

func TestLabelClash(t *testing.T) {
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{Reserved: map[string]string{"ns": "--ns"}})
	storetest.Register(t, r, storetest.Instance("web", "A1"))
	clash := storetest.Instance("web", store.Label("A1"))
	var conflict *store.ConflictError
	if _, err := r.Register(t.Context(), clash, false); !errors.As(err, &conflict) || conflict.Holder != "web/A1" || conflict.Refused != clash.String() {
		t.Errorf("got %v, want a conflict that names both", err)
	}
	if _, err := r.Heartbeat(t.Context(), "web", clash.ID, store.Beat{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a heartbeat under the other's label: %v, want ErrNotFound", err)
	}
	if _, err := r.Deregister(t.Context(), "web", clash.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deregistration under the other's label: %v, want ErrNotFound", err)
	}
	if _, err := r.Register(t.Context(), storetest.Instance("NS", "a1"), false); !errors.As(err, &conflict) || conflict.Holder != "--ns" {
		t.Errorf("got %v, want a conflict with --ns", err)
	}
}

func TestWarnings(t *testing.T) {
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{})
	tagged := storetest.Instance("web", "a1")
	tagged.Tags = []string{"V2"}
	if got := storetest.Register(t, r, tagged).Warnings; len(got) != 0 {
		t.Errorf("warned %q of nothing", got)
	}
	for _, c := range []struct {
		warn string
		i    func() *store.Instance
	}{
		{"loopback", func() *store.Instance {
			i := storetest.Instance("web", "a2")
			address("127.0.0.1")(i)
			return i
		}},
		{"link-local", func() *store.Instance {
			i := storetest.Instance("web", "a3")
			address("fe80::1")(i)
			return i
		}},
		{"the name v2.web means the instance", func() *store.Instance { return storetest.Instance("web", "v2") }},
		{"the name a1.web means the instance", func() *store.Instance {
			i := storetest.Instance("web", "a4")
			i.Tags = []string{"a1"}
			return i
		}},
	} {
		got := storetest.Register(t, r, c.i()).Warnings
		if len(got) != 1 || !strings.Contains(got[0], c.warn) {
			t.Errorf("got the warnings %q, want one with %q", got, c.warn)
		}
	}
}
