package etcd

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rosterdns/roster/store"
)

// What is said to be done are the batches that are there, that no instance needs,
// and that are ours to delete, whatever has been renewed, changed and removed.
func TestDoneAreThoseThatNobodyNeeds(t *testing.T) {
	t.Parallel()
	random, k := rand.New(rand.NewPCG(1, 1)), newKnown()
	servers, seen := []string{"a", "b", "c"}, 0
	for n := range store.Instant(3000) {
		at := place{"web", fmt.Sprint(random.IntN(50))}
		switch random.IntN(8) {
		case 0:
			k.put(at, int64(n)/100, int64(n), 0, n, 1)
		case 1:
			k.remove(at)
		case 2:
			keys := slices.Sorted(maps.Keys(k.batches))
			if len(keys) > 0 { // needed or not: somebody may do it by hand
				k.drop(keys[random.IntN(len(keys))])
			}
		default:
			server := servers[random.IntN(len(servers))]
			b := k.add(fmt.Sprintf("%s/%d", server, n), server)
			for range random.IntN(4) {
				if i := k.instances[place{"web", fmt.Sprint(random.IntN(50))}]; i != nil {
					k.renew(i, n, b)
				}
			}
		}
		ours := func(server string) bool { return server != "b" }
		needed := map[*batch]bool{}
		for _, i := range k.instances {
			needed[i.batch] = true
		}
		var want []string
		for key, b := range k.batches {
			if !needed[b] && ours(b.server) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		got := k.done(1000, ours)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%d: done are %v, want %v", n, got, want)
		}
		if few := k.done(2, ours); len(few) != min(2, len(want)) {
			t.Fatalf("%d: of %d, two at most are %v", n, len(want), few)
		}
		seen = max(seen, len(want))
	}
	if seen < 10 {
		t.Errorf("at most %d were done: this tests nothing", seen)
	}
}

// BenchmarkDone is what each tick asks where leases are long: of 100,000 batches
// all but few are needed.
func BenchmarkDone(b *testing.B) {
	k := newKnown()
	for n := range int64(100_000) {
		at := place{"web", fmt.Sprint(n)}
		k.put(at, n, n, 0, 1, 1)
		k.renew(k.instances[at], 2, k.add(fmt.Sprint("a/", n), "a"))
	}
	for n := range 10 {
		k.add(fmt.Sprint("b/", n), "b")
	}
	for b.Loop() {
		if keys := k.done(doneAtOnce, func(string) bool { return true }); len(keys) != 10 {
			b.Fatalf("%d are done", len(keys))
		}
	}
}
