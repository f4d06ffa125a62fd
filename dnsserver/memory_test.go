package dnsserver_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
)

// What an instance takes of the heap, its part of its service and of the
// answers made ready for it included, is held in bounds: docs/benchmarks.md
// says what a million of them take of memory.
func TestHeapPerInstance(t *testing.T) { // alone: other tests would be measured as well
	const services, each, most = 2000, 10, 490
	open := func() *store.Registry {
		r, err := store.Open(t.Context(), store.NewMemory(), store.Config{Derive: dnsserver.Compile("service."), History: 1})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := heap()
	r := open()
	for k := range services * each {
		// Names as they come from a request: parts of its first line.
		line := strings.Split(fmt.Sprintf("PUT /v1/services/svc%06d/instances/i%07d HTTP/1.1", k%services, k), "/")
		i := &store.Instance{
			Service: line[3], ID: strings.TrimSuffix(line[5], " HTTP"), TTL: store.MaxTTL, Port: uint16(k), Weight: store.DefaultWeight,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)})},
		}
		if _, err := r.Register(t.Context(), i, true); err != nil {
			t.Fatal(err)
		}
	}
	got := int(heap()-before) / (services * each)
	t.Logf("%d octets", got)
	if got > most {
		t.Errorf("an instance takes %d octets of the heap, want %d at most", got, most)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// heap returns how many octets of the heap are in use.
func heap() uint64 {
	runtime.GC() // twice: what a finalizer or a pool held goes with the second
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
