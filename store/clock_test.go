package store_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// run ticks on time from one moment to another.
func run(c store.Clock, from, to time.Duration) {
	for at := from; at < to; at += store.TickTime {
		c.Tick(at)
	}
	c.Tick(to)
}

// A stall takes no more than windTime of a lease, and then the clock stands for
// as long as the stall was, but a second at most, so that all that waits is
// taken in.
func TestClockStandsForStalls(t *testing.T) {
	const begin = 10 * time.Second
	for _, c := range []struct{ stall, grace time.Duration }{
		{store.WindTime, 0},
		{store.WindTime + 1, store.WindTime + 1},
		{300 * time.Millisecond, 300 * time.Millisecond},
		{time.Second, time.Second},
		{time.Hour, time.Second},
		{1000 * time.Hour, time.Second},
	} {
		k := store.NewClock()
		run(k, 0, begin)
		if got := k.At(begin); got != store.Instant(begin) {
			t.Fatalf("after %v of ticks it shows %v", begin, time.Duration(got))
		}
		end := begin + c.stall
		taken := min(c.stall, store.WindTime)
		// Before anybody has noticed anything:
		if got := k.At(end).Sub(store.Instant(begin)); got != taken {
			t.Errorf("a stall of %v took %v, want %v", c.stall, got, taken)
		}
		lasted, extends := k.Tick(end)
		if c.grace == 0 {
			if lasted != 0 {
				t.Errorf("ticks %v apart are taken for a stall", c.stall)
			}
			continue
		}
		if want := c.stall - taken + c.grace; lasted != c.stall || extends != want {
			t.Errorf("a stall of %v, by which leases gain %v, is said to be one of %v, by which they gain %v", c.stall, want, lasted, extends)
		}
		if extends < c.stall {
			t.Errorf("by a stall of %v leases gain only %v", c.stall, extends)
		}
		run(k, end+store.TickTime, end+c.grace-1)
		if got := k.At(end + c.grace - 1).Sub(store.Instant(begin)); got != taken {
			t.Errorf("right before the grace after %v is over it shows %v more, want %v", c.stall, got, taken)
		}
		run(k, end+c.grace, end+c.grace+time.Second)
		if got := k.At(end + c.grace + time.Second).Sub(store.Instant(begin)); got != taken+time.Second {
			t.Errorf("a second after the grace after %v it shows %v more, want %v", c.stall, got, taken+time.Second)
		}
	}
}

// A server that is stalled again and again still ends leases: the clock goes for
// at least half of the time that it runs.
func TestClockGoesWhereTimeIsAlwaysShort(t *testing.T) {
	for _, c := range []struct{ runs, stalls, least time.Duration }{
		{5 * time.Second, 2 * time.Second, 4 * time.Second}, // all but the grace
		{time.Second, 2 * time.Second, 500 * time.Millisecond},
		{200 * time.Millisecond, 500 * time.Millisecond, 100 * time.Millisecond},
		{store.TickTime, time.Second, store.TickTime / 2},
	} {
		k := store.NewClock()
		k.Tick(0)
		const rounds = 200
		at := time.Duration(0)
		for range rounds {
			run(k, at+store.TickTime, at+c.runs)
			at += c.runs + c.stalls
			k.Tick(at)
		}
		if got := time.Duration(k.At(at)) / rounds; got < c.least {
			t.Errorf("where it runs for %v in %v the clock goes %v, want %v at least", c.runs, c.runs+c.stalls, got, c.least)
		}
	}
}

// Whatever happens, the clock never goes back and never faster than time, for
// readers who look at any moment. It stands while it is held.
func TestClockProperties(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		k := store.NewClock()
		var at, ticked time.Duration
		var shown store.Instant
		var release []func()
		var stood store.Instant // what it showed a windTime after it was held
		check := func(step time.Duration) {
			t.Helper()
			at += step
			now := k.At(at)
			if now < shown || now.Sub(shown) > step {
				t.Fatalf("seed %d: in %v it went %v", seed, step, now.Sub(shown))
			}
			if len(release) > 0 && stood > 0 && now != stood {
				t.Fatalf("seed %d: held it went from %d to %d", seed, stood, now)
			}
			if now.Sub(shown) > store.WindTime && at-ticked > store.WindTime {
				t.Fatalf("seed %d: without a tick it went %v", seed, now.Sub(shown))
			}
			shown = now
		}
		k.Tick(0)
		for range 2000 {
			switch n := rnd.IntN(20); {
			case n < 15: // as it should be
				check(time.Duration(rnd.Int64N(int64(store.TickTime))))
				check(store.TickTime - at%store.TickTime)
			case n < 17:
				check(time.Duration(rnd.Int64N(int64(5 * time.Second))))
			case n < 18 && len(release) < 2:
				if len(release) == 0 {
					stood = 0
				}
				release = append(release, k.Hold())
				check(store.WindTime)
				if len(release) == 1 {
					stood = shown
				}
			case len(release) > 0:
				release[0]()
				release[0]() // twice is once
				release = release[1:]
			}
			k.Tick(at)
			ticked = at
		}
	}
}

// The parts together, in a registry that runs: while its ticks are held no
// lease ends; those that are being drained go when that was said.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		for _, id := range []string{"stays", "dies", "drained"} {
			i := storetest.Instance("web", id)
			i.TTL = 5 * time.Second
			storetest.Register(t, r, i)
		}
		if !r.Service("web").HandOut(r.Now().Add(4 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		storetest.Advance(time.Second)
		drained, err := r.Drain(t.Context(), "web", "drained")
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Until(drained.SafeAfter); got != 3*time.Second {
			t.Fatalf("safe after %v, want 3 s", got)
		}
		release := r.Hold()
		storetest.Advance(store.WindTime)
		held := r.Now()
		m, _ := r.Service("web").ByLabel("drained", held)
		for range 28 {
			if left, want := m.Lease.End().Sub(r.Now()), time.Until(drained.SafeAfter); left > want {
				t.Fatalf("drained, %v are left of its lease %v before it is safe", left, want)
			}
			storetest.Advance(100 * time.Millisecond)
		}
		if got := storetest.Live(r, "web"); len(got) != 3 {
			t.Errorf("100 ms before the drain's end %q live", got)
		}
		storetest.Advance(time.Until(drained.SafeAfter))
		if got := storetest.Live(r, "web"); len(got) != 2 {
			t.Errorf("at the drain's end %q live", got)
		}
		storetest.Advance(20 * time.Second)
		if got := storetest.Live(r, "web"); len(got) != 2 || r.Now() != held || r.Len() != 2 || store.Drains(r) != 0 {
			t.Errorf("held for long, %q live, %d are kept, and the clock went %v", got, r.Len(), r.Now().Sub(held))
		}
		beat := func() {
			if _, err := r.Heartbeat(t.Context(), "web", "stays", store.Beat{}); err != nil {
				t.Error(err)
			}
		}
		beat()
		release()
		release()
		storetest.Advance(5*time.Second - store.WindTime - time.Second - store.TickTime)
		if got := storetest.Live(r, "web"); len(got) != 2 {
			t.Errorf("with %v of the lease left %q live", store.TickTime, got)
		}
		beat()
		storetest.Advance(2 * store.TickTime)
		if got := storetest.Live(r, "web"); len(got) != 1 || got[0] != "stays" {
			t.Errorf("after the lease's end %q live, want the one with a heartbeat", got)
		}
	})
}

// An instance that is drained and then registered again has an ordinary lease.
func TestDrainTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if !r.Service("web").HandOut(r.Now().Add(10 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		if _, err := r.Drain(t.Context(), "web", "a1"); err != nil {
			t.Fatal(err)
		}
		if got := store.Drains(r); got != 1 {
			t.Fatalf("%d are drained, want 1", got)
		}
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if got := store.Drains(r); got != 0 {
			t.Errorf("registered again, %d are drained", got)
		}
		defer r.Hold()()
		storetest.Advance(time.Hour)
		if got := storetest.Live(r, "web"); len(got) != 1 {
			t.Error("held, it has gone with the drain that was taken back")
		}
	})
}

// Loading a large store takes time, and none of a lease.
func TestClockStandsWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slowStart{Memory: store.NewMemory(), takes: time.Minute}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		if got := storetest.Live(r, "web"); len(got) != 1 {
			t.Fatal("the first one's lease ended while the others were loaded")
		}
		if left := member(t, r).Lease.End().Sub(r.Now()); left != store.DefaultTTL {
			t.Errorf("loaded, %v of its lease are left", left)
		}
	})
}

func TestNowAllocatesNothing(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	if n := testing.AllocsPerRun(1000, func() { r.Now() }); n > 0.01 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNow(b *testing.B) {
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Now()
	}
}

// slowStart has one instance, and takes its time to have read all.
type slowStart struct {
	*store.Memory
	takes time.Duration
}

func (s *slowStart) Start(ctx context.Context, restore func(*store.Instance), apply func([]store.Event)) (store.Revision, error) {
	i := storetest.Instance("web", "a1")
	if err := i.Normalize(); err != nil {
		return 0, err
	}
	restore(i)
	storetest.Advance(s.takes)
	return s.Memory.Start(ctx, restore, apply)
}
