package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
)

// The index against a map, while others read it.
func TestIndex(t *testing.T) {
	x, want := newIndex(), map[string]*service{}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	always := &service{}
	x.add("always", always)
	want["always"] = always
	stop := make(chan struct{})
	var g sync.WaitGroup
	for range 2 {
		g.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				if x.getBytes([]byte("always")) != always {
					t.Error("a reader did not find what was there all the time")
					return
				}
				_ = x.get(fmt.Sprint(k % 500))
			}
		})
	}
	for range 20000 {
		name := fmt.Sprint(rnd.IntN(500))
		if s := want[name]; s == nil {
			want[name] = &service{}
			x.add(name, want[name])
		} else if rnd.IntN(2) == 0 {
			delete(want, name)
			x.remove(name)
		}
		if x.get(name) != want[name] || x.getBytes([]byte(name)) != want[name] {
			t.Fatalf("%s is not what it should be", name)
		}
	}
	close(stop)
	g.Wait()
	got := map[string]*service{}
	x.all(func(name string, s *service) bool { got[name] = s; return true })
	if !maps.Equal(got, want) || x.n != len(want) {
		t.Errorf("%d names in the index, by its count %d, want %d", len(got), x.n, len(want))
	}
}
