package etcd_test

import (
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

const ms = time.Millisecond

// Of another server's clock nothing is known until it has seen one of our ticks.
// Then the smallest bound counts.
func TestCompareClocks(t *testing.T) {
	t.Parallel()
	ticks := etcd.NewTicks()
	compare := func(its time.Duration, seen int64, age time.Duration) time.Duration {
		t.Helper()
		most, ok := ticks.Compare("b", its, seen, age)
		if !ok {
			t.Fatal("nothing is known")
		}
		return most
	}
	unknown := func(seen int64) {
		t.Helper()
		if most, ok := ticks.Compare("b", 5000*ms, seen, 0); ok {
			t.Fatalf("%v is known", most)
		}
	}
	unknown(100)
	first := ticks.Send(1000 * ms)
	unknown(100) // it has not come back
	if !ticks.Back(first, 10) || ticks.Back(99, 11) {
		t.Error("the first tick is not known, or another one is")
	}
	unknown(9) // it has not seen it
	// b is 4 s ahead, and wrote 300 ms after it can have seen the tick. Since it was
	// sent, clocks may have moved apart.
	drift := func(d time.Duration) time.Duration { return time.Duration(etcd.RateMost * float64(d)) }
	if got := compare(5300*ms, 10, 1300*ms); got != 4300*ms+drift(300*ms) {
		t.Errorf("it is %v ahead at most", got)
	}
	// The next one comes sooner; bounds get worse with time, as clocks differ.
	second := ticks.Send(2000 * ms)
	ticks.Back(second, 20)
	if got := compare(6020*ms, 20, 2040*ms); got != 4020*ms+drift(40*ms) {
		t.Errorf("it is %v ahead at most", got)
	}
	worse := 4020*ms + drift(40*ms) + drift(1000*ms)
	if got := compare(7000*ms, 20, 3040*ms); got != worse {
		t.Errorf("a second later it is %v ahead at most, want %v", got, worse)
	}
	// What it saw before says no more than what it has seen since.
	if got := compare(7000*ms, 10, 3040*ms); got != worse {
		t.Errorf("by an old tick it is %v ahead at most", got)
	}
	if _, ok := ticks.Compare("c", 0, 5, 3040*ms); ok {
		t.Error("something is known of another server")
	}
}

// Old ticks are forgotten, but not those that others can have seen lately.
func TestTicksAreForgotten(t *testing.T) {
	t.Parallel()
	ticks := etcd.NewTicks()
	for k := range 10 * etcd.KeptTicks {
		n := ticks.Send(time.Duration(k) * 250 * ms)
		if !ticks.Back(n, int64(k)+1) || k > 100 && !ticks.Back(n-100, int64(k)-99) {
			t.Fatalf("tick %d is forgotten", n)
		}
		if ticks.Kept() > etcd.KeptTicks {
			t.Fatalf("%d are kept", ticks.Kept())
		}
	}
}

// A server whose clock goes too fast or too slow is told of, and by how much.
func TestClockRates(t *testing.T) {
	for name, c := range map[string]struct {
		rate  float64
		least float64 // thousandths; 0: it is not told of
		most  float64
	}{
		"Fast": {1.02, 19, 21}, "Slow": {0.98, -21, -19}, "Right": {1, 0, 0}, "Nearly": {1.008, 0, 0},
	} {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			type told struct {
				server      string
				thousandths float64
			}
			got := make(chan told, 10)
			a := startAs(t, cluster, etcd.Config{Name: "a", Clocks: func(server string, thousandths float64) { got <- told{server, thousandths} }}, store.Config{}, "")
			c2 := cluster.Client()
			defer c2.Close()
			begin := time.Now()
			for n := range 11 * 60 * 4 {
				its := time.Duration(c.rate * float64(time.Since(begin)))
				key, value := etcd.Tick("ffffffffffffffff", "other", uint64(n), its, store.Instant(its), cluster.Revision(), 0)
				if _, err := c2.Put(t.Context(), key, value); err != nil {
					t.Fatal(err)
				}
				storetest.Advance(250 * ms)
			}
			if c.least == 0 {
				if len(got) > 0 {
					t.Errorf("it was told of %+v", <-got)
				}
				return
			}
			if len(got) != 2 { // in eleven minutes, each five
				t.Fatalf("it was told %d times", len(got))
			}
			for range 2 {
				if g := <-got; g.server != "other" || g.thousandths < c.least || g.thousandths > c.most {
					t.Errorf("it was told of %+v", g)
				}
			}
			if a.stale() {
				t.Error("it is stale")
			}
		})
	}
}
