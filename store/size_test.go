package store_test

import (
	"context"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// There is one of each for every instance, and each is of the largest size
// that the allocator has for it: another field costs a million instances 16 MB
// and more.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what      string
		got, most uintptr
	}{
		{"an Instance", unsafe.Sizeof(store.Instance{}), 208},
		{"a Lease", unsafe.Sizeof(store.Lease{}), 64},
		{"a Member", unsafe.Sizeof(store.Member{}), 16},
	} {
		if c.got > c.most {
			t.Errorf("%s takes %d octets, want %d at most", c.what, c.got, c.most)
		}
	}
}

// A registration and a removal cost as many allocations with many services
// registered as with few.
func TestChangeAllocations(t *testing.T) { // alone: others' allocations would count
	const most = 25
	for _, services := range []int{1, 2000} {
		r, _ := storetest.Open(t, memory, store.Config{})
		for k := range services * 10 {
			storetest.Register(t, r, storetest.Instance("s"+strconv.Itoa(k/10), "i"+strconv.Itoa(k)))
		}
		n := testing.AllocsPerRun(200, func() {
			storetest.Register(t, r, storetest.Instance("s0", "new"))
			if _, err := r.Deregister(t.Context(), "s0", "new"); err != nil {
				t.Fatal(err)
			}
		})
		if n > most {
			t.Errorf("with %d services: %v allocations, want %d at most", services, n, most)
		}
	}
}

// restored is a store that has these instances and takes no more.
type restored []*store.Instance

func (b restored) Start(_ context.Context, restore func(*store.Instance), _ func([]store.Event)) (store.Revision, error) {
	for _, i := range b {
		restore(i)
	}
	return 1, nil
}

func (b restored) Commit(context.Context, []store.Event) error { return store.ErrClosed }
func (b restored) Close() error                                { return nil }

// A service in which each instance has a tag of its own is restored at a cost
// in proportion to its size: to count each instance's tags in a copy of the
// counts took 27 KB for each of 1,000, and 54 KB for each of 2,000.
func TestRestoreTags(t *testing.T) { // alone: others' allocations would count
	const n, most = 2000, 2000
	var list restored
	for k := range n {
		i := storetest.Instance("web", "i"+strconv.Itoa((k*7919)%n)) // in no order
		i.Tags = []string{"all", "t" + strconv.Itoa(k)}
		if err := i.Normalize(); err != nil {
			t.Fatal(err)
		}
		list = append(list, i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := store.Open(t.Context(), list, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > most {
		t.Errorf("restoring allocated %d octets for each instance, want %d at most", each, most)
	}
	v := r.Service("web")
	var labels []string
	for _, m := range v.All() {
		labels = append(labels, m.Label)
	}
	if len(labels) != n || !slices.IsSorted(labels) {
		t.Errorf("%d instances came back, sorted: %v; want %d, sorted", len(labels), slices.IsSorted(labels), n)
	}
	if tags := v.Tags(); len(tags) != n+1 || !slices.IsSorted(tags) {
		t.Errorf("%d tags came back, sorted: %v; want %d, sorted", len(tags), slices.IsSorted(tags), n+1)
	}
}
