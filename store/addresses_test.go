package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// The tree of addresses against a map, while others read it.
func TestAddresses(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	x := &addresses{within: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}
	random := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{byte(10 + rnd.IntN(8)/7), 0, byte(rnd.IntN(3)), byte(rnd.IntN(20))})
		}
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", rnd.IntN(4)<<12, rnd.IntN(20)))
	}
	always, keeper := netip.MustParseAddr("10.0.0.255"), &Lease{}
	x.add(nil, &Instance{Addresses: []netip.Addr{always}}, keeper)
	want := map[netip.Addr][]*Lease{always: {keeper}}
	var stop atomic.Bool
	var g sync.WaitGroup
	g.Go(func() {
		for !stop.Load() {
			if got := x.at(always); len(got) != 1 || got[0] != keeper || !x.any(netip.MustParsePrefix("10.0.0.240/28")) {
				t.Error("a reader did not find what was there all the time")
				return
			}
		}
	})

	present := map[*Lease]*Instance{}
	leases := make([]*Lease, 40)
	for k := range leases {
		leases[k] = &Lease{}
	}
	for range 5000 {
		l := leases[rnd.IntN(len(leases))]
		before := present[l]
		var after *Instance
		if rnd.IntN(3) > 0 {
			after = &Instance{}
			for range 1 + rnd.IntN(3) {
				if a := random(); !slices.Contains(after.Addresses, a) {
					after.Addresses = append(after.Addresses, a)
				}
			}
		}
		x.add(before, after, l)
		x.remove(before, after, l)
		if present[l] = after; before != nil {
			for _, a := range before.Addresses {
				want[a] = slices.DeleteFunc(want[a], func(o *Lease) bool { return o == l })
			}
		}
		if after != nil {
			for _, a := range after.Addresses {
				if slices.ContainsFunc(x.within, func(p netip.Prefix) bool { return p.Contains(a) }) {
					want[a] = append(want[a], l)
				}
			}
		}
		checkAddresses(t, x, want, random())
	}
	stop.Store(true)
	g.Wait()
	for l, i := range present {
		x.remove(i, nil, l)
	}
	x.remove(&Instance{Addresses: []netip.Addr{always}}, nil, keeper)
	if x.roots[0].Load() != nil || x.roots[1].Load() != nil {
		t.Error("when all are gone the trees are not empty")
	}
}

// checkAddresses compares what is at one address, and around it.
func checkAddresses(t *testing.T, x *addresses, want map[netip.Addr][]*Lease, a netip.Addr) {
	t.Helper()
	got := x.at(a)
	if len(got) != len(want[a]) || slices.ContainsFunc(got, func(l *Lease) bool { return !slices.Contains(want[a], l) }) {
		t.Fatalf("%d leases at %v, want %d", len(got), a, len(want[a]))
	}
	for bits := 8; bits <= a.BitLen(); bits += 4 {
		p, err := a.Prefix(bits)
		if err != nil {
			t.Fatal(err)
		}
		some := false
		for b, leases := range want {
			some = some || p.Contains(b) && len(leases) > 0
		}
		if x.any(p) != some {
			t.Fatalf("that there are addresses in %v is %v, want %v", p, x.any(p), some)
		}
	}
}

// kept is a backend that has instances from before.
type kept struct {
	*Memory
	instances []*Instance
}

func (k kept) Start(ctx context.Context, restore func(*Instance), apply func([]Event)) (Revision, error) {
	for _, i := range k.instances {
		restore(i)
	}
	return k.Memory.Start(ctx, restore, apply)
}

// Instances that come back from the store are found by address.
func TestHoldersAfterRestart(t *testing.T) {
	in, out := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("11.0.0.1")
	before := kept{NewMemory(), []*Instance{{Service: "web", ID: "a1", Label: "a1", Addresses: []netip.Addr{in, out}}}}
	within := netip.MustParsePrefix("10.0.0.0/8")
	for _, prefixes := range [][]netip.Prefix{{within}, nil} {
		r, err := Open(t.Context(), before, Config{Addresses: prefixes})
		if err != nil {
			t.Fatal(err)
		}
		for addr, want := range map[netip.Addr]int{in: len(prefixes), out: 0} {
			n := 0
			r.Holders(addr, func(_ *View, m Member) bool { n++; return m.ID == "a1" })
			if n != want {
				t.Errorf("%d prefixes: %d holders of %v, want %d", len(prefixes), n, addr, want)
			}
		}
		if r.HasAddress(within) != (prefixes != nil) {
			t.Errorf("%d prefixes: that there is an address in %v is %v", len(prefixes), within, r.HasAddress(within))
		}
	}
}

// While an address goes and comes back within one batch it is there twice; its
// holder is not.
func TestHoldersOnce(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	r, err := Open(t.Context(), NewMemory(), Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	i := &Instance{Service: "web", ID: "a1", Addresses: []netip.Addr{addr}}
	if _, err := r.Register(t.Context(), i, false); err != nil {
		t.Fatal(err)
	}
	r.holders.add(nil, i, r.holders.at(addr)[0])
	n := 0
	r.Holders(addr, func(*View, Member) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d holders, want 1", n)
	}
}
