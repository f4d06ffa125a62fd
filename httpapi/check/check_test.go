package check_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

var errRefused = errors.New("connection refused")

// world answers probes as the test says, and notes when they came.
type world struct {
	mu      sync.Mutex
	err     map[string]error         // by ID; guarded by mu, as is the rest
	takes   map[string]time.Duration // by ID: how long an answer takes
	probed  map[string][]time.Time   // by ID: when
	running int
	most    int // running at a time
}

func newWorld() *world {
	return &world{err: map[string]error{}, takes: map[string]time.Duration{}, probed: map[string][]time.Time{}}
}

func (w *world) probe(ctx context.Context, i *store.Instance) error {
	w.mu.Lock()
	w.probed[i.ID] = append(w.probed[i.ID], time.Now())
	w.running++
	w.most = max(w.most, w.running)
	takes := w.takes[i.ID]
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err[i.ID]
}

func (w *world) set(id string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err[id] = err
}

func (w *world) times(id string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.probed[id])
}

// fixture is a registry whose checks are asked of a world. It is for synctest
// bubbles.
type fixture struct {
	*store.Registry
	*world
	t    *testing.T
	log  *logtest.Hook
	stop func()
}

func quiet() logrus.FieldLogger {
	log, _ := logtest.NewNullLogger()
	return log
}

func start(t *testing.T, r *store.Registry, cfg check.Config) *fixture {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	f := &fixture{Registry: r, world: newWorld(), t: t, log: hook}
	cfg.Registry, cfg.Log = r, log
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c := check.NewWith(cfg, f.probe)
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	f.stop = func() { cancel(); running.Wait() }
	synctest.Wait()
	return f
}

// bubble runs a test on a fresh registry with a checker, in fake time.
func bubble(t *testing.T, cfg check.Config, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{})
		defer done()
		f := start(t, r, cfg)
		defer f.stop()
		test(f)
	})
}

// register registers a permanent instance with a check.
func (f *fixture) register(id string, change ...func(*store.Instance)) {
	f.t.Helper()
	i := storetest.Checked("web", id)
	i.TTL = 0
	for _, c := range change {
		c(i)
	}
	storetest.Register(f.t, f.Registry, i)
	synctest.Wait()
}

func (f *fixture) status(id string) string {
	if v := f.Service("web"); v != nil {
		if m, ok := v.ByLabel(store.Label(id), f.Now()); ok {
			return m.Status.String()
		}
	}
	return "gone"
}

func (f *fixture) want(what, id, status string) {
	f.t.Helper()
	if got := f.status(id); got != status {
		f.t.Errorf("%s: %s is %s, want %s", what, id, got, status)
	}
}

// until lets time pass until so many probes of an instance have ended.
func (f *fixture) until(id string, n int) {
	f.t.Helper()
	for k := 0; len(f.times(id)) < n; k++ {
		if k > 10000 {
			f.t.Fatalf("%s was probed %d times, waited for %d", id, len(f.times(id)), n)
		}
		storetest.Advance(100 * time.Millisecond)
	}
}

func TestRiseAndFall(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		f.set("a1", errRefused)
		f.register("a1", func(i *store.Instance) { i.Check.Rise = 2 })
		at := 0
		for k, step := range []struct {
			err  error
			want string
		}{
			{errRefused, "starting"}, // the one at once
			{errRefused, "starting"},
			{errRefused, "starting"},
			{errRefused, "starting"}, // no fall: it has never passed
			{nil, "starting"},
			{errRefused, "starting"},
			{nil, "starting"},
			{nil, "up"},
			{errRefused, "up"},
			{errRefused, "up"},
			{nil, "up"}, // so the failures were not in a row
			{errRefused, "up"},
			{errRefused, "up"},
			{errRefused, "down"},
			{errRefused, "down"},
			{nil, "down"},
			{nil, "up"},
		} {
			f.set("a1", step.err)
			at++
			if k == 0 {
				at = 1
			}
			f.until("a1", at)
			f.want(fmt.Sprintf("probe %d", k), "a1", step.want)
		}
		var lines []string
		for _, e := range f.log.AllEntries() {
			lines = append(lines, e.Level.String()+": "+e.Message)
		}
		if want := []string{
			"info: web/a1 is up: its check passes",
			"warning: web/a1 is down: 3 checks in a row failed: connection refused",
			"info: web/a1 is up: its check passes",
		}; !slices.Equal(lines, want) {
			t.Errorf("logged %q, want %q", lines, want)
		}
	})
}

// Probes come an interval apart, give or take a tenth, and not in step.
func TestInterval(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		f.register("a1")
		f.until("a1", 50)
		times := f.times("a1")
		gaps := map[time.Duration]bool{}
		for k := 1; k < len(times); k++ {
			gap := times[k].Sub(times[k-1])
			gaps[gap] = true
			if gap < 9*time.Second || gap > 11*time.Second {
				t.Errorf("probe %d came after %v", k, gap)
			}
		}
		if len(gaps) < 20 {
			t.Errorf("only %d different gaps: no jitter", len(gaps))
		}
	})
}

// Its own word against the check: nobody asks while it is down by that, and it
// is probed at once when it says up again.
func TestOwnWord(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		f.register("a1")
		f.want("registered", "a1", "up")
		say := func(s store.Status) {
			t.Helper()
			if _, err := f.Heartbeat(f.t.Context(), "web", "a1", store.Beat{Status: &s}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for _, s := range []store.Status{store.Down, store.Draining} {
			say(s)
			n := len(f.times("a1"))
			storetest.Advance(time.Minute)
			f.want("a minute later", "a1", s.String())
			if got := len(f.times("a1")); got != n {
				t.Errorf("%s by its own word it was probed %d times", s, got-n)
			}
			say(store.Up)
			f.want("says up again", "a1", "up")
		}
		f.set("a1", errRefused)
		say(store.Down)
		say(store.Up)
		f.want("says up, but fails", "a1", "starting")
	})
}

// The seed's: up at once, first probed after an interval, gone after three.
func TestSeed(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		seed := func(i *store.Instance) { i.Check = store.SeedCheck(netip.Addr{}) }
		f.set("dead", errRefused)
		f.register("dead", seed)
		f.register("alive", seed)
		f.want("registered", "dead", "up")
		if n := len(f.times("dead")); n != 0 {
			t.Errorf("%d probes at the registration", n)
		}
		storetest.Advance(26 * time.Second) // 3 x 9 s at the least
		f.want("after 26 s", "dead", "up")
		storetest.Advance(8 * time.Second)
		f.want("after 34 s", "dead", "gone")
		f.want("after 34 s", "alive", "up")
		storetest.Advance(time.Hour)
		f.want("after an hour", "alive", "up")
		if n := len(f.times("dead")); n != 3 {
			t.Errorf("it was probed %d times, want 3", n)
		}

		// Registered again in time it starts afresh; with a lease nobody asks.
		f.register("dead", seed)
		f.until("dead", 5)
		if _, err := f.Heartbeat(f.t.Context(), "web", "dead", store.Beat{TTL: new(300 * time.Second)}); err != nil {
			t.Fatal(err)
		}
		storetest.Advance(4 * time.Minute)
		f.want("with a lease", "dead", "up")
		if n := len(f.times("dead")); n != 5 {
			t.Errorf("with a lease it was probed %d times, want 5", n)
		}
	})
}

// A third failure that is under way does not meet who has registered again
// meanwhile, at the same address.
func TestSeedComesBackInTime(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		seed := func(i *store.Instance) { i.Check = store.SeedCheck(netip.Addr{}) }
		f.set("a1", errRefused)
		f.mu.Lock()
		f.takes["a1"] = time.Second
		f.mu.Unlock()
		f.register("a1", seed)
		f.until("a1", 3)
		if _, err := f.Deregister(f.t.Context(), "web", "a1"); err != nil {
			f.t.Fatal(err)
		}
		f.register("a1", seed)
		storetest.Advance(8 * time.Second)
		f.want("registered again", "a1", "up")
		storetest.Advance(30 * time.Second)
		f.want("half a minute later", "a1", "gone")
	})
}

// Whoever registers the same again is there: the failures before are over, and
// it has an interval until one counts.
func TestSeedRegisteredAgain(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		seed := func(i *store.Instance) { i.Check = store.SeedCheck(netip.Addr{}) }
		f.set("a1", errRefused)
		f.register("a1", seed)
		f.until("a1", 2)
		f.register("a1", seed)
		f.until("a1", 3)
		f.want("one failure later", "a1", "up")
		storetest.Advance(45 * time.Second) // three more, and they count in any case
		f.want("later", "a1", "gone")
	})
}

// An instance that is registered otherwise is probed anew, and what was under
// way comes to nothing.
func TestChangedTarget(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		f.register("a1", func(i *store.Instance) { i.Check.Fall = 1 })
		f.want("registered", "a1", "up")
		f.set("a1", errRefused)
		f.mu.Lock()
		f.takes["a1"] = time.Second
		f.mu.Unlock()
		f.until("a1", 2) // has begun, and will fail
		f.set("a1", nil)
		f.register("a1", func(i *store.Instance) { i.Check.Fall, i.Port = 1, 9090 })
		if n := len(f.times("a1")); n != 3 {
			t.Errorf("after the change it was probed %d times, want 3: at once", n)
		}
		f.set("a1", errRefused)
		f.register("a1", func(i *store.Instance) { i.Check.Fall, i.Port = 1, 9091 })
		if _, err := f.Deregister(f.t.Context(), "web", "a1"); err != nil {
			t.Fatal(err)
		}
		f.register("other")
		storetest.Advance(time.Minute)
		if n := len(f.times("a1")); n != 4 {
			t.Errorf("it was probed %d times, want 4: none when it is gone", n)
		}
		for _, e := range f.log.AllEntries() {
			if e.Level == logrus.WarnLevel {
				t.Errorf("logged %q: a probe that was under way counted", e.Message)
			}
		}
		f.want("a minute later", "other", "up")
	})
}

// What hangs is cut off at its timeout, and no more run at a time than allowed.
func TestBounds(t *testing.T) {
	const n, most = 200, 7
	bubble(t, check.Config{MaxProbes: most}, func(f *fixture) {
		for k := range n {
			id := fmt.Sprintf("i%d", k)
			f.mu.Lock()
			f.takes[id] = time.Duration(k%2) * time.Hour
			f.mu.Unlock()
			f.register(id)
		}
		storetest.Advance(2 * n / most * time.Second)
		for k := range n {
			f.want("when all were probed", fmt.Sprintf("i%d", k), []string{"up", "starting"}[k%2])
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.most != most {
			t.Errorf("%d probes ran at a time, want %d", f.most, most)
		}
	})
}

// Those that hang do not hold up the others, however many they are.
func TestHung(t *testing.T) {
	bubble(t, check.Config{MaxProbes: 8}, func(f *fixture) {
		for k := range 30 {
			id := fmt.Sprintf("hung%d", k)
			f.mu.Lock()
			f.takes[id] = time.Hour
			f.mu.Unlock()
			f.register(id, func(i *store.Instance) { i.Check.Timeout = 8 * time.Second })
		}
		storetest.Advance(time.Minute) // each has been probed
		f.register("a1")
		f.want("registered", "a1", "up")
		storetest.Advance(time.Minute)
		if n := len(f.times("a1")); n < 6 {
			t.Errorf("it was probed %d times in a minute, want 6", n)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.running != 4 {
			t.Errorf("%d probes hang at a time, want 4: half of the room", f.running)
		}
	})
}

// The server's own trouble counts against nobody.
func TestOwnTrouble(t *testing.T) {
	bubble(t, check.Config{}, func(f *fixture) {
		f.register("a1", func(i *store.Instance) { i.Check.Fall = 1 })
		f.set("a1", fmt.Errorf("%w: no sockets", check.ErrOurs))
		f.until("a1", 5)
		f.want("no sockets", "a1", "up")
		f.set("a1", errRefused)
		f.until("a1", 6)
		f.want("refused", "a1", "down")
	})

	// A probe that ends long after its deadline has been held up on this side.
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{})
		defer done()
		var stalled atomic.Bool
		stalled.Store(true)
		n := 0 // one probe at a time
		c := check.NewWith(check.Config{Registry: r, Log: quiet()}, func(ctx context.Context, _ *store.Instance) error {
			if n++; n == 1 {
				return nil
			}
			<-ctx.Done()
			if stalled.Load() {
				<-time.After(30 * time.Second)
			}
			return ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = c.Run(ctx) })
		defer running.Wait()
		defer cancel()
		f := &fixture{Registry: r, t: t}
		f.register("a1", func(i *store.Instance) { i.Check.Fall = 1 })
		storetest.Advance(3 * time.Minute)
		f.want("after stalls", "a1", "up")
		stalled.Store(false)
		storetest.Advance(time.Minute)
		f.want("after a real timeout", "a1", "down")
	})
}

// Where the store is full nothing changes, and it is tried again.
func TestNotDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &full{Memory: store.NewMemory()}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		f := start(t, r, check.Config{})
		defer f.stop()
		f.register("a1")
		f.set("a1", errRefused)
		b.full.Store(true)
		storetest.Advance(2 * time.Minute)
		f.want("the store is full", "a1", "up")
		b.full.Store(false)
		storetest.Advance(11 * time.Second)
		f.want("there is room again", "a1", "down")
		var lines []string
		for _, e := range f.log.AllEntries() {
			lines = append(lines, e.Message)
		}
		if want := []string{
			"web/a1 is up: its check passes",
			"what checks find cannot be stored; it is tried again after each probe",
			"what checks find is being stored again",
			"web/a1 is down: 3 checks in a row failed: connection refused",
		}; !slices.Equal(lines, want) {
			t.Errorf("logged %q, want %q", lines, want)
		}
	})
}

// full is a backend that may have no room.
type full struct {
	*store.Memory
	full atomic.Bool
}

func (f *full) Commit(ctx context.Context, events []store.Event) error {
	if f.full.Load() {
		return store.ErrNotDurable
	}
	return f.Memory.Commit(ctx, events)
}

// After a restart the statuses are as they were, and the probes are spread over
// the interval.
func TestRestart(t *testing.T) {
	const n = 1000
	bubble(t, check.Config{}, func(f *fixture) {
		for k := range n {
			f.register(fmt.Sprintf("i%d", k))
		}
		f.set("i0", errRefused)
		f.until("i0", 4)
		f.want("before", "i0", "down")
		f.stop()
		storetest.Advance(time.Minute)
		again := start(f.t, f.Registry, check.Config{})
		defer again.stop()
		begin := time.Now()
		again.want("after", "i0", "down")
		again.want("after", "i1", "up")
		storetest.Advance(10 * time.Second)
		tenths := map[int]int{}
		for k := range n {
			times := again.times(fmt.Sprintf("i%d", k))
			if len(times) == 0 {
				t.Fatalf("i%d was not probed within the interval", k)
			}
			tenths[int(times[0].Sub(begin)/time.Second)]++
		}
		for s, count := range tenths {
			if count > n/5 {
				t.Errorf("%d of %d were probed in second %d", count, n, s)
			}
		}
		if len(tenths) < 10 {
			t.Errorf("probes in the seconds %v only", slices.Sorted(maps.Keys(tenths)))
		}
		again.want("10 s later", "i0", "up")
	})
}

// A checker that falls behind loses nobody, whether the history still has what
// it missed or not.
func TestLagged(t *testing.T) {
	for _, history := range []int{4, 100_000} {
		synctest.Test(t, func(t *testing.T) {
			backend := store.NewMemory()
			r, done := storetest.Open(t, func(*testing.T) store.Backend { return backend }, store.Config{History: history})
			defer done()
			f := start(t, r, check.Config{})
			defer f.stop()
			f.register("stays")
			f.register("goes")
			// One commit of more events than a subscriber may have waiting.
			events := make([]store.Event, 0, 5000)
			for k := range cap(events) {
				i := storetest.Checked("web", fmt.Sprintf("i%d", k))
				i.TTL = 0
				if err := i.Normalize(); err != nil {
					t.Fatal(err)
				}
				events = append(events, store.Event{Kind: store.Registered, After: i})
			}
			gone := *storetest.Register(t, r, storetest.Checked("web", "goes")).Instance
			if err := backend.Commit(t.Context(), append(events, store.Event{Kind: store.Deregistered, Before: &gone})); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			n := len(f.times("goes"))
			storetest.Advance(30 * time.Second)
			for k := range events {
				f.want("30 s later", fmt.Sprintf("i%d", k), "up")
			}
			f.want("30 s later", "stays", "up")
			if got := len(f.times("goes")); got != n {
				t.Errorf("history of %d: what is gone was probed %d times", history, got-n)
			}
			if got := len(f.times("stays")); got < 3 {
				t.Errorf("history of %d: what stays was probed %d times", history, got)
			}
		})
	}
}
