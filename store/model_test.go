package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// Random operations, lapses of time, stalls, holds, restarts and faults, done
// to a registry and to a plain map. After every step:
//
//   - no answer has an instance whose lease has ended, and none ends while an
//     honest cache holds a record of it (P1);
//   - no instance is missing that was heard from in time (P2);
//   - what was acknowledged is there, also after a restart, and what was not is
//     nowhere (P3);
//   - the revision has moved by one for each change, and not otherwise; none is
//     given twice (P6).
//
// ROSTER_SEED repeats a run, ROSTER_TORTURE=1 makes it a long one.
func TestModel(t *testing.T) {
	t.Parallel()
	seed, steps := rand.Uint64()>>1, 20_000
	if s := os.Getenv("ROSTER_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("ROSTER_SEED: %v", err)
		}
	}
	if os.Getenv("ROSTER_TORTURE") == "1" {
		steps = 1_000_000
	}
	t.Logf("ROSTER_SEED=%d", seed)
	for name, c := range map[string]struct {
		steps int
	}{
		"faults": {steps},
		"bolt":   {steps / 20}, // which waits for a real disk
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "roster.db")
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed)
				if name == "bolt" {
					w.path = path
				}
				w.open()
				defer func() { _ = w.Close() }() // twice does no harm
				begin := time.Now()
				for w.step = range c.steps {
					w.do()
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				t.Logf("%d steps in %v of the world's time: %v", c.steps, time.Since(begin).Round(time.Second), w.did)
			})
		})
	}
}

// A weight that was held back is nowhere after its commit has failed at the last
// sync, but who is restarted then may find it. Nothing else comes back changed.
func TestModelTornWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.open()
		defer func() { _ = w.Close() }() // twice does no harm
		for _, id := range []string{"a", "b"} {
			i := storetest.Instance("web", id)
			if _, err := w.Register(t.Context(), i, false); err != nil {
				t.Fatal(err)
			}
			e := &entry{port: i.Port, weight: i.Weight, ttl: i.TTL, status: store.Up}
			e.heard(w.fast, w.slow)
			w.there[key{"web", id}] = e
		}
		a := w.there[key{"web", "a"}]
		a.weight = weigh(t, w.Registry, "a", 20)
		weigh(t, w.Registry, "a", 30)
		a.held = new(uint16(30))
		w.lapse(time.Second)
		w.disk.next = tears
		if moved := w.weights(); moved != 0 {
			t.Fatalf("%d weights were committed by what failed", moved)
		}
		w.compare("weights")
		if got := w.disk.doubtful(); !maps.Equal(got, map[key]bool{{"web", "a"}: true}) {
			t.Errorf("the failed commit was about %v, want a alone", got)
		}
		w.restart(time.Second)
		w.compare("restart")
		if m, _ := w.find(key{"web", "a"}); m.Weight != 30 {
			t.Errorf("it is back with weight %d, want the 30 of the failed commit", m.Weight)
		}
	})
}

// What documents promise: what a stall may take of a lease, and how much longer
// the clock may stand after it.
const (
	stallTakes = 100 * time.Millisecond
	graceMost  = time.Second
)

type key struct{ service, id string }

func (k key) compare(o key) int { return strings.Compare(k.service+" "+k.id, o.service+" "+o.id) }

// world is a registry, and what it should hold.
type world struct {
	*testing.T
	*store.Registry
	disk *disk
	path string // of the bolt file; "": none
	rnd  *rand.Rand
	seed uint64
	step int
	did  map[string]int

	there  map[key]*entry // what is registered, that included whose lease has ended and which has not been removed
	failed time.Duration  // when the last sweep failed, on slow
	busy   *entry         // it waits for a commit that renews its lease
	top    store.Revision // the last that was seen anywhere

	// Two clocks between which the lease clock goes, in any span of time: one
	// that takes from leases the least that a stall may, and one that also
	// stands for all of the grace.
	fast, slow time.Duration
	grace      time.Duration // the most that is left of it
	release    func()        // nil: not held
	windup     time.Duration // how far it goes yet while it is held
}

// entry is one instance.
type entry struct {
	port, weight uint16
	ttl          time.Duration // 0: permanent
	status       store.Status
	held         *uint16       // a weight that waits
	end          time.Duration // where it has: when that was seen on slow
	ended        bool          // its lease has ended, and it is not removed yet
	low          time.Duration // it lives while fast is below this
	high         time.Duration // and not when slow has come to it
	safe         time.Time     // when it goes that is being drained; zero: it is not
	cached       time.Time     // until when an honest cache may hold a record of it
}

const forever = time.Duration(math.MaxInt64)

func after(clock, ttl time.Duration) time.Duration {
	if ttl == 0 {
		return forever
	}
	return clock + ttl
}

// heard renews the lease: it was heard from when the clocks showed that.
func (e *entry) heard(fast, slow time.Duration) {
	e.low = max(e.low, after(fast, e.ttl))
	e.high = max(e.high, after(slow, e.ttl))
}

// newWorld returns one that is yet to be opened.
func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{T: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), there: map[key]*entry{}, did: map[string]int{}}
	w.disk = &disk{records: map[string][]byte{}, revision: 1000}
	w.disk.wait = func() { w.lapse(time.Duration(w.rnd.IntN(4000)) * time.Millisecond) }
	return w
}

func (w *world) fail(format string, args ...any) {
	w.Helper()
	w.Fatalf("ROSTER_SEED=%d, step %d: %s", w.seed, w.step, fmt.Sprintf(format, args...))
}

func (w *world) open() {
	if w.path != "" {
		b, err := bolt.Open(w.path, bolt.Config{})
		if err != nil {
			w.Fatal(err)
		}
		w.disk.inner = b
	}
	r, err := store.Open(w.Context(), w.disk, store.Config{MaxTTL: 5 * time.Second, History: 64})
	if err != nil {
		w.Fatal(err)
	}
	w.Registry = r
	w.fast, w.slow, w.failed, w.grace, w.release = 0, 0, 0, 0, nil
	store.Tick(r)
	storetest.Advance(time.Nanosecond) // a tick at 0 counts for none
	w.fast, w.slow = 1, 1
	store.Tick(r)
}

// do does one random thing, and compares.
func (w *world) do() {
	before := w.Revision()
	k := key{"s" + strconv.Itoa(w.rnd.IntN(3)), []string{"a", "b", "c", "D:80"}[w.rnd.IntN(4)]}
	var moved int
	var what string
	if w.rnd.IntN(10) == 0 {
		w.disk.next = fault(w.rnd.IntN(4))
		if w.path != "" && w.disk.next == tears {
			w.disk.next = sound // bolt's own tests have that
		}
	}
	gap := w.disk.gap()
	switch op := w.rnd.IntN(100); {
	case op < 15:
		what, moved = "register", w.register(k)
	case op < 35:
		what, moved = "heartbeat", w.beat(k)
	case op < 42:
		what, moved = "heartbeat with a change", w.change(k)
	case op < 46:
		what, moved = "deregister", w.deregister(k)
	case op < 49:
		what, moved = "drain", w.drain(k)
	case op < 68:
		what = "answer"
		w.answer(k)
	case op < 88:
		what = "lapse"
		w.lapse(time.Duration(w.rnd.IntN(1500)) * time.Millisecond)
	case op < 94:
		what, moved = "sweep", w.sweep()
	case op < 96:
		what, moved = "weights", w.weights()
	case op < 98:
		what = "stall"
		w.stall()
	case op < 99:
		what = "hold"
		w.hold()
	default:
		what = "restart"
		if w.path == "" && w.rnd.IntN(2) == 0 {
			w.disk.torn = nil // ended well: bolt undoes it then
		}
		w.restart(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
		before = w.Revision()
	}
	w.disk.next = sound
	w.did[what]++
	if moved > 0 {
		moved += gap
	}
	if got := int(w.Revision() - before); got != moved {
		w.fail("%s of %v moved the revision by %d, want %d", what, k, got, moved)
	}
	w.top = max(w.top, w.Revision())
	w.compare(what)
}

// compare holds the registry to the map.
func (w *world) compare(what string) {
	w.look()
	n := 0
	for k, e := range w.there {
		m, alive := w.find(k)
		n++
		if m.Instance == nil {
			w.fail("%s: %v is not in the registry", what, k)
		}
		want := [3]any{e.port, e.weight, e.status}
		if got := [3]any{m.Port, m.Weight, m.Status}; got != want || m.TTL != e.ttl || m.Leaving != !e.safe.IsZero() {
			w.fail("%s: %v is %v with a lease of %v, leaving %v, want %v and %v", what, k, got, m.TTL, m.Leaving, want, e.ttl)
		}
		if alive == e.ended {
			w.fail("%s: %v lives: %v", what, k, alive)
		}
	}
	if w.Len() != n {
		w.fail("%s: %d are registered, want %d", what, w.Len(), n)
	}
}

// find returns what the registry has there, ended or not.
func (w *world) find(k key) (store.Member, bool) {
	v := w.Service(k.service)
	if v == nil {
		return store.Member{}, false
	}
	for _, m := range v.All() {
		if m.ID == k.id {
			return m, m.Lease.Alive(w.Now())
		}
	}
	return store.Member{}, false
}

// look holds every lease to its bounds at this moment.
func (w *world) look() {
	now := time.Now()
	for k, e := range w.there {
		m, alive := w.find(k)
		switch {
		case m.Instance == nil:
			w.fail("%v is not in the registry", k)
		case e.ended && alive:
			w.fail("%v has ended, and is back", k)
		case e.ended || e == w.busy && alive:
			continue
		case e == w.busy:
			w.fail("%v ended while it waited for the disk", k)
		case !e.safe.IsZero():
			if alive != now.Before(e.safe) {
				w.fail("%v is drained, lives: %v, %v before it is safe", k, alive, e.safe.Sub(now))
			}
		case !alive && w.fast < e.low:
			w.fail("%v was heard from in time, and ended %v too early", k, e.low-w.fast)
		case alive && w.slow >= e.high:
			w.fail("%v lives %v too long", k, w.slow-e.high)
		}
		if !alive {
			if now.Before(e.cached) {
				w.fail("%v has ended, and caches hold it for %v more", k, e.cached.Sub(now))
			}
			e.ended, e.end = true, w.slow
		}
	}
}

// lapse lets time pass, with ticks as there should be.
func (w *world) lapse(d time.Duration) {
	for d > 0 {
		step := min(d, time.Duration(10+w.rnd.IntN(80))*time.Millisecond)
		w.pass(step)
		w.look()
		store.Tick(w.Registry)
		w.look()
		d -= step
	}
}

// pass lets time pass without a tick.
func (w *world) pass(d time.Duration) {
	storetest.Advance(d)
	gone := min(d, stallTakes)
	switch {
	case w.release != nil:
		gone = min(gone, w.windup)
		w.windup -= gone
		w.fast += gone
	case w.grace > 0:
		w.fast += gone
		if d <= stallTakes {
			w.grace -= d
		}
	default:
		w.fast += gone
		w.slow += gone
	}
	if d > stallTakes {
		w.grace = min(max(w.grace, 0)+d, graceMost)
	}
}

func (w *world) stall() {
	w.pass(stallTakes + time.Duration(w.rnd.Int64N(int64(20*time.Second))))
	w.look() // before anybody has noticed
	if w.rnd.IntN(2) == 0 {
		for _, k := range slices.SortedFunc(maps.Keys(w.there), key.compare) { // so that a seed repeats it
			w.answer(k)
		}
	}
	store.Tick(w.Registry)
}

func (w *world) hold() {
	if w.release == nil {
		w.release, w.windup = w.Hold(), stallTakes
		return
	}
	w.release()
	w.release = nil
	store.Tick(w.Registry)
}

// answer makes an answer as the DNS server does, and a cache keeps it.
func (w *world) answer(k key) {
	v, now := w.Service(k.service), w.Now()
	if v == nil {
		return
	}
	const limit = 5
	ttl := uint32(limit)
	own := w.rnd.IntN(2) == 0
	var in []*entry
	for m := range v.Members(now) {
		if own && m.ID != k.id || !own && m.Status != store.Up {
			continue
		}
		e := w.there[key{k.service, m.ID}]
		if e == nil || e.ended {
			w.fail("an answer has %v, which is not there", m.Instance)
		}
		ttl = min(ttl, m.Lease.TTL(now, limit))
		in = append(in, e)
	}
	keep := time.Duration(ttl)*time.Second + time.Second
	if !v.HandOut(now.Add(keep)) {
		w.fail("the view of %s is not the present one", k.service)
	}
	for _, e := range in {
		// The cache counts whole seconds, and drops it right before the next.
		until := time.Now().Add(keep - 1)
		if ttl == 0 {
			continue // it keeps nothing
		}
		if until.After(e.cached) {
			e.cached = until
		}
		if !e.safe.IsZero() && until.After(e.safe) {
			w.fail("an answer with %v is in caches for %v after it is safe", k, until.Sub(e.safe))
		}
	}
}

// committed takes in how a commit about k ended, and reports whether it was
// good.
func (w *world) committed(k key, f fault, err error) bool {
	if err != nil && (!errors.Is(err, store.ErrNotDurable) || f != refuses && f != tears) {
		w.fail("%v: %v", k, err)
	}
	return err == nil
}

// seen takes in a revision that must be new.
func (w *world) seen(r store.Revision) {
	if r <= w.top {
		w.fail("revision %d is given after %d", r, w.top)
	}
	w.top = r
}

var leases = []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second, 10 * time.Second}

func (w *world) register(k key) (moved int) {
	i := storetest.Instance(k.service, k.id)
	i.Port, i.Weight, i.TTL = uint16(1+w.rnd.IntN(2)), uint16(1+w.rnd.IntN(3)), leases[w.rnd.IntN(len(leases))]
	old := w.there[k]
	if old != nil && w.rnd.IntN(3) == 0 {
		i.Port, i.Weight, i.TTL = old.port, old.weight, old.ttl
	}
	create := w.rnd.IntN(8) == 0
	live := old != nil && !old.ended
	same := live && old.safe.IsZero() && i.Port == old.port && i.Weight == old.weight && i.TTL == old.ttl
	f, was, fast, slow, begin := w.disk.next, entry{}, w.fast, w.slow, time.Now()
	if live {
		was = *old
		if !create && old.safe.IsZero() {
			w.busy = old
		}
	}
	reg, err := w.Register(context.Background(), i, create)
	w.busy = nil
	if live && create {
		if !errors.Is(err, store.ErrExists) {
			w.fail("create %v, which is there: %v", k, err)
		}
		return 0
	}
	if live {
		old.held = nil
		if old.safe.IsZero() {
			old.heard(fast, slow)
			old.high = max(old.high, after(w.slow, old.ttl)) // it may have been renewed while it waited
		}
	}
	if same {
		if err != nil || reg.Created {
			w.fail("register %v as it is: %v", k, err)
		}
		return 0
	}
	if !w.committed(k, f, err) {
		return 0
	}
	w.seen(reg.Revision)
	e := &entry{port: i.Port, weight: i.Weight, ttl: i.TTL, status: store.Up}
	switch {
	case live:
		if reg.Created {
			w.fail("%v was there and is said to be new", k)
		}
		if old.safe.IsZero() {
			e.status = old.status
		}
		e.cached = was.cached
		w.relet(e, old, begin)
		moved = 1
	case old != nil: // two events: it ended, and it is there
		moved = 2
		fallthrough
	default:
		moved = max(moved, 1)
		e.heard(w.fast, w.slow)
	}
	w.there[k] = e
	return moved
}

// relet works out the lease of e, which replaces old since a commit that began
// then.
func (w *world) relet(e, old *entry, begin time.Time) {
	waited := time.Since(begin)
	switch {
	case e.ttl == old.ttl && old.safe.IsZero():
		e.low, e.high = old.low, max(old.high, after(w.slow, e.ttl))
		if e.ttl > 0 && waited < e.ttl/3 {
			return
		}
		e.low = max(e.low, after(w.fast, e.ttl))
	default: // another length: from now on, or until caches have forgotten the old
		e.low = after(w.fast, e.ttl)
		e.high = max(after(w.slow, e.ttl), old.high)
		if e.high != forever {
			e.high++ // see Lease.set
		}
		if old.ttl == 0 && e.ttl > 0 || !old.safe.IsZero() {
			e.high = max(after(w.slow, e.ttl), w.slow+7*time.Second) // what the largest TTL allows
		}
	}
}

func (w *world) beat(k key) int {
	e := w.there[k]
	live := e != nil && !e.ended
	var ok bool
	if w.rnd.IntN(2) == 0 {
		ok = w.Renew([]byte(k.service), []byte(k.id))
	} else {
		reg, err := w.Heartbeat(context.Background(), k.service, k.id, store.Beat{})
		if ok = err == nil; !ok && !errors.Is(err, store.ErrNotFound) {
			w.fail("heartbeat: %v", err)
		}
		if ok && e != nil && e.ttl > 0 && reg.Expires.Before(time.Now()) {
			w.fail("a heartbeat of %v is answered with the past", k)
		}
	}
	if ok != live {
		w.fail("heartbeat of %v: %v, lives: %v", k, ok, live)
	}
	if live && e.safe.IsZero() {
		e.heard(w.fast, w.slow)
	}
	return 0
}

func (w *world) change(k key) (moved int) {
	e := w.there[k]
	var b store.Beat
	want := entry{}
	if e != nil {
		want = *e
	}
	if w.rnd.IntN(2) == 0 {
		want.weight = uint16(1 + w.rnd.IntN(3))
		b.Weight = &want.weight
	}
	if w.rnd.IntN(4) == 0 {
		want.ttl = leases[w.rnd.IntN(len(leases))]
		b.TTL = new(want.ttl)
	}
	if w.rnd.IntN(3) == 0 {
		want.status = []store.Status{store.Up, store.Down, store.Draining}[w.rnd.IntN(3)]
		b.Status = new(want.status)
	}
	f, fast, slow, begin := w.disk.next, w.fast, w.slow, time.Now()
	if e != nil && e.safe.IsZero() {
		w.busy = e
	}
	reg, err := w.Heartbeat(context.Background(), k.service, k.id, b)
	w.busy = nil
	switch {
	case e == nil || e.ended:
		if !errors.Is(err, store.ErrNotFound) {
			w.fail("heartbeat of %v, which is not there: %v", k, err)
		}
		return 0
	case !e.safe.IsZero():
		if refused := b.Status != nil && *b.Status != store.Draining; refused != errors.Is(err, store.ErrDraining) || !refused && err != nil {
			w.fail("heartbeat of %v, which is drained: %v", k, err)
		}
		return 0
	}
	e.heard(fast, slow)
	e.high = max(e.high, after(w.slow, e.ttl))
	other := want.ttl != e.ttl || want.status != e.status
	if !other && (b.Weight == nil || want.weight == e.weight) {
		if err != nil {
			w.fail("heartbeat of %v: %v", k, err)
		}
		if b.Weight != nil {
			e.held = nil
		}
		return 0
	}
	if !other && err == nil && reg.Weight == e.weight { // held back
		e.held = b.Weight
		return 0
	}
	if !w.committed(k, f, err) {
		return 0
	}
	w.seen(reg.Revision)
	old := *e
	e.weight, e.ttl, e.status = want.weight, want.ttl, want.status
	if b.Weight != nil {
		e.held = nil
	}
	w.relet(e, &old, begin)
	return 1
}

func (w *world) deregister(k key) int {
	e := w.there[k]
	live := e != nil && !e.ended
	f := w.disk.next
	gone, err := w.Deregister(context.Background(), k.service, k.id)
	if !live {
		if !errors.Is(err, store.ErrNotFound) {
			w.fail("deregister %v, which is not there: %v", k, err)
		}
		return 0
	}
	if !w.committed(k, f, err) {
		return 0
	}
	w.seen(gone.Revision)
	if gone.SafeAfter.Before(e.cached) {
		w.fail("%v is said to be safe %v before caches have forgotten it", k, e.cached.Sub(gone.SafeAfter))
	}
	delete(w.there, k)
	return 1
}

func (w *world) drain(k key) int {
	e := w.there[k]
	live := e != nil && !e.ended
	f := w.disk.next
	gone, err := w.Drain(context.Background(), k.service, k.id)
	switch {
	case !live:
		if !errors.Is(err, store.ErrNotFound) {
			w.fail("drain %v, which is not there: %v", k, err)
		}
		return 0
	case !e.safe.IsZero():
		if err != nil || gone.SafeAfter.Before(e.safe) {
			w.fail("drain %v again: %v", k, err)
		}
		return 0
	case !w.committed(k, f, err):
		return 0
	}
	w.seen(gone.Revision)
	if gone.SafeAfter.Before(e.cached) {
		w.fail("drained, %v is said to be safe %v before caches have forgotten it", k, e.cached.Sub(gone.SafeAfter))
	}
	e.safe, e.status, e.held = gone.SafeAfter, store.Draining, nil
	e.ended = false // a slow disk may have let it end; it is there until it is safe
	return 1
}

// sweep removes what has ended.
func (w *world) sweep() (moved int) {
	f := w.disk.next
	if !store.Sweep(context.Background(), w.Registry) {
		w.failed = w.slow
		w.committed(key{}, f, store.ErrNotDurable)
		return 0
	}
	for k, e := range w.there {
		m, _ := w.find(k)
		switch {
		case !e.ended:
		case m.Instance == nil:
			delete(w.there, k)
			moved++
		case w.slow-max(e.end, w.failed) > time.Second: // what failed is tried again sooner
			w.fail("%v ended %v ago, and is not removed by the sweep", k, w.slow-e.end)
		}
	}
	return moved
}

// weights has those committed that wait.
func (w *world) weights() (moved int) {
	store.CommitWeights(context.Background(), w.Registry)
	for k, e := range w.there {
		if m, _ := w.find(k); e.held != nil && m.Weight == *e.held && m.Weight != e.weight {
			e.weight, e.held = *e.held, nil
			moved++
		}
	}
	return moved
}

// restart closes the registry and opens another one on what it has left, after
// a while.
func (w *world) restart(away time.Duration) {
	if err := w.Close(); err != nil {
		w.Fatal(err)
	}
	torn := w.disk.doubtful()
	w.pass(away)
	w.open()
	if w.Revision() < w.top {
		w.fail("the revision was %d and is %d after a restart", w.top, w.Revision())
	}
	w.top = w.Revision()
	for k, e := range w.there {
		m, alive := w.find(k)
		if m.Instance == nil && torn[k] {
			delete(w.there, k)
			continue
		}
		if !alive {
			w.fail("%v was acknowledged, and is gone after a restart", k)
		}
		w.adopt(e, m, torn[k])
	}
	for k := range torn {
		if m, _ := w.find(k); m.Instance != nil && w.there[k] == nil {
			e := &entry{}
			w.adopt(e, m, true)
			w.there[k] = e
		}
	}
}

// adopt gives e the fresh lease that it has after a restart, and where it was
// in a torn commit what it has come back with.
func (w *world) adopt(e *entry, m store.Member, torn bool) {
	if torn {
		e.port, e.weight, e.ttl, e.status = m.Port, m.Weight, m.TTL, m.Status
		if e.safe = (time.Time{}); m.Leaving {
			e.safe = time.Now()
		}
	}
	e.low, e.high, e.held, e.ended = 0, 0, nil, false
	if !e.safe.IsZero() {
		e.safe = w.Wall(m.Lease.End())
		e.cached = time.Time{} // its name may be in caches for longer, as is documented
		return
	}
	e.heard(w.fast-1, w.slow-1)
	if e.ttl > 0 && e.cached.After(time.Now().Add(e.ttl)) {
		e.cached = time.Time{} // it had a longer lease before
	}
}
