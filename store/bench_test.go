package store_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// fill opens a registry with that many services and instances in each.
func fill(b *testing.B, services, each int) *store.Registry {
	b.Helper()
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	for s := range services {
		for k := range each {
			if _, err := r.Register(b.Context(), storetest.Instance("s"+strconv.Itoa(s), strconv.Itoa(k)), false); err != nil {
				b.Fatal(err)
			}
		}
	}
	return r
}

// The cost of a change is to hang on its service's size, and not on the
// registry's.
func BenchmarkChange(b *testing.B) {
	for _, size := range []struct{ services, each int }{{100, 10}, {10_000, 10}, {100_000, 10}, {1, 1_000}, {1, 10_000}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.each), func(b *testing.B) {
			r := fill(b, size.services, size.each)
			i := storetest.Instance("s0", "changing")
			for k := 0; b.Loop(); k++ {
				c := *i
				c.Port = uint16(k)
				if _, err := r.Register(b.Context(), &c, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	for _, services := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("%dx10", services), func(b *testing.B) {
			r := fill(b, services, 10)
			for k := 0; b.Loop(); k++ {
				if _, err := r.Heartbeat(b.Context(), "s"+strconv.Itoa(k%services), strconv.Itoa(k%10), store.Beat{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRenew(b *testing.B) {
	for _, services := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("%dx10", services), func(b *testing.B) {
			r := fill(b, services, 10)
			var names, ids [][]byte
			for k := range services {
				names = append(names, []byte("s"+strconv.Itoa(k)))
			}
			for k := range 10 {
				ids = append(ids, []byte(strconv.Itoa(k)))
			}
			for k := 0; b.Loop(); k++ {
				if !r.Renew(names[k%services], ids[k%10]) {
					b.Fatal("not there")
				}
			}
		})
	}
}

// While the lease clock stands, each query looks after the drains.
func BenchmarkNowStanding(b *testing.B) {
	for _, n := range []int{0, 100, 10_000} {
		for _, left := range []time.Duration{0, time.Hour} {
			r := draining(b, n, left)
			b.Run(fmt.Sprintf("%d_drains_with_%v_left", n, left), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						r.Now()
					}
				})
			})
		}
	}
}

// draining opens a registry whose clock stands, with so many drains.
func draining(b *testing.B, n int, left time.Duration) *store.Registry {
	b.Helper()
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{Standing: true})
	if err != nil {
		b.Fatal(err)
	}
	for k := range n {
		i := storetest.Instance("s"+strconv.Itoa(k), "a1")
		i.TTL = 2 * time.Hour
		if _, err := r.Register(b.Context(), i, false); err != nil {
			b.Fatal(err)
		}
		r.Service(i.Service).HandOut(r.Now().Add(left))
		if _, err := r.Drain(b.Context(), i.Service, "a1"); err != nil {
			b.Fatal(err)
		}
	}
	return r
}
