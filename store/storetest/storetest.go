// Package storetest is the suite that every [store.Backend] passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
)

// Opener opens one store: the same at every call, so that a test can close it
// and open it again.
type Opener func(t *testing.T) store.Backend

// Run runs the suite. fresh returns the opener of a store that has never been
// used; keeps says whether the store outlives its being closed.
func Run(t *testing.T, fresh func(t *testing.T) Opener, keeps bool) {
	for name, test := range map[string]func(*testing.T, Opener){
		"Revision":    testRevision,
		"Kinds":       testKinds,
		"Expiry":      testExpiry,
		"Concurrency": testConcurrency,
		"Closed":      testClosed,
		"Checked":     testChecked,

		"CheckRenewsNothing": testCheckRenewsNothing,
		"StaleCheck":         testStaleCheck,
		"CheckRemoves":       testCheckRemoves,
		"CheckSpares":        testCheckSpares,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
	if keeps {
		t.Run("Restart", func(t *testing.T) { testRestart(t, fresh(t)) })
		t.Run("CheckedRestart", func(t *testing.T) { testCheckedRestart(t, fresh(t)) })
		t.Run("ExpiredStaysGone", func(t *testing.T) { testExpiredStaysGone(t, fresh(t)) })
		t.Run("DrainGoesOn", func(t *testing.T) { testDrainGoesOn(t, fresh(t)) })
	}
	t.Run("Model", func(t *testing.T) { testModel(t, fresh(t), keeps) })
}

// Open opens a registry and sweeps it until the test ends or close is called.
func Open(t *testing.T, open Opener, cfg store.Config) (r *store.Registry, closeNow func()) {
	t.Helper()
	r, err := store.Open(t.Context(), open(t), cfg)
	if err != nil {
		t.Fatalf("open the registry: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var swept sync.WaitGroup
	swept.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	closeNow = sync.OnceFunc(func() {
		cancel()
		swept.Wait()
		if err := r.Close(); err != nil {
			t.Errorf("close the registry: %v", err)
		}
	})
	t.Cleanup(closeNow)
	return r, closeNow
}

// Instance returns a valid instance that nothing has normalized yet.
func Instance(service, id string) *store.Instance {
	return &store.Instance{
		Service:   service,
		ID:        id,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Port:      8080,
		Priority:  store.DefaultPriority,
		Weight:    store.DefaultWeight,
		TTL:       store.DefaultTTL,
	}
}

// Register registers i, which must succeed.
func Register(t *testing.T, r *store.Registry, i *store.Instance) store.Registration {
	t.Helper()
	reg, err := r.Register(t.Context(), i, false)
	if err != nil {
		t.Fatalf("register %s: %v", i, err)
	}
	return reg
}

// Live returns the IDs of a service's live instances, sorted.
func Live(r *store.Registry, service string) []string {
	var ids []string
	if v := r.Service(service); v != nil {
		for m := range v.Members(r.Now()) {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func wantLive(t *testing.T, r *store.Registry, want ...string) {
	t.Helper()
	if got := Live(r, "web"); !slices.Equal(got, want) {
		t.Errorf("live instances of web: got %q, want %q", got, want)
	}
}

// moved reports whether so many changes have been made since a revision. A backend
// that servers share may skip some, but never stands still at a change, and never
// moves without one.
func moved(r *store.Registry, from, changes store.Revision) bool {
	by := r.Revision() - from
	return by == changes || r.Shared() && changes > 0 && r.Revision() > from && by > changes
}

func testRevision(t *testing.T, open Opener) {
	before := time.Now().Unix()
	r, _ := Open(t, open, store.Config{})
	if got := r.Revision(); int64(got) < before {
		t.Errorf("a fresh store starts at revision %d, below the unix time %d", got, before)
	}
	at := r.Revision()
	for k, step := range []struct {
		what  string
		moves store.Revision
		do    func() error
	}{
		{"register", 1, func() error { _, err := r.Register(t.Context(), Instance("web", "a1"), false); return err }},
		{"register the same", 0, func() error { _, err := r.Register(t.Context(), Instance("web", "a1"), false); return err }},
		{"heartbeat", 0, func() error { _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{}); return err }},
		{"heartbeat with the weight it has", 0, beat(t, r, store.Beat{Weight: new(uint16(10))})},
		{"heartbeat with a new weight", 1, beat(t, r, store.Beat{Weight: new(uint16(20))})},
		{"heartbeat with a new status", 1, beat(t, r, store.Beat{Status: new(store.Down)})},
		{"heartbeat with a new ttl", 1, beat(t, r, store.Beat{TTL: new(time.Minute)})},
		{"register with the old weight and ttl", 1, func() error { _, err := r.Register(t.Context(), Instance("web", "a1"), false); return err }},
		{"deregister", 1, func() error { _, err := r.Deregister(t.Context(), "web", "a1"); return err }},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("step %d, %s: %v", k, step.what, err)
		}
		if !moved(r, at, step.moves) {
			t.Errorf("step %d, %s: the revision moved by %d, want %d", k, step.what, r.Revision()-at, step.moves)
		}
		at = r.Revision()
	}
}

func beat(t *testing.T, r *store.Registry, b store.Beat) func() error {
	return func() error {
		_, err := r.Heartbeat(t.Context(), "web", "a1", b)
		return err
	}
}

func testKinds(t *testing.T, open Opener) {
	r, _ := Open(t, open, store.Config{})
	sub, _, err := r.Subscribe("web", r.Revision(), 10)
	if err != nil {
		t.Fatal(err)
	}
	Register(t, r, Instance("web", "a1"))
	Register(t, r, Instance("other", "a1")) // not ours
	changed := Instance("web", "a1")
	changed.Port = 9090
	Register(t, r, changed)
	if err := beat(t, r, store.Beat{Status: new(store.Draining)})(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Deregister(t.Context(), "web", "a1"); err != nil {
		t.Fatal(err)
	}
	var last store.Revision
	for _, want := range []store.Kind{store.Registered, store.Updated, store.StatusChanged, store.Deregistered} {
		e := <-sub.C
		if e.Kind != want {
			t.Errorf("got a %s event, want %s", e.Kind, want)
		}
		if e.Revision <= last {
			t.Errorf("%s: revision %d does not follow on %d", e.Kind, e.Revision, last)
		}
		if e.After != nil && e.After.Revision != e.Revision {
			t.Errorf("%s: the instance says revision %d, the event %d", e.Kind, e.After.Revision, e.Revision)
		}
		if (e.Before == nil) != (want == store.Registered) || (e.After == nil) != (want == store.Deregistered) {
			t.Errorf("%s: before %v, after %v", e.Kind, e.Before, e.After)
		}
		last = e.Revision
	}
}

func testExpiry(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		defer done()
		short := Instance("web", "short")
		short.TTL = 5 * time.Second
		Register(t, r, short)
		Register(t, r, Instance("web", "long"))
		permanent := Instance("web", "permanent")
		permanent.TTL = 0
		Register(t, r, permanent)

		Advance(4999 * time.Millisecond)
		wantLive(t, r, "long", "permanent", "short")
		at := r.Revision()
		Advance(time.Millisecond)
		wantLive(t, r, "long", "permanent")
		if !moved(r, at, 1) {
			t.Errorf("an expiry moved the revision by %d, want 1", r.Revision()-at)
		}
		if _, err := r.Heartbeat(t.Context(), "web", "short", store.Beat{}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a heartbeat after the end: %v, want ErrNotFound", err)
		}
		Advance(time.Hour)
		wantLive(t, r, "permanent")
		if got := r.Len(); got != 1 {
			t.Errorf("the registry holds %d instances, want 1", got)
		}
	})
}

// Advance lets fake time pass, and everything that is due in it happen. It is
// for synctest bubbles only.
func Advance(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble this is how time passes
	synctest.Wait()
}

func testConcurrency(t *testing.T, open Opener) {
	const writers, each = 16, 20
	r, _ := Open(t, open, store.Config{})
	at := r.Revision()
	var g sync.WaitGroup
	for w := range writers {
		g.Go(func() {
			for k := range each {
				id := fmt.Sprintf("w%d-%d", w, k)
				if _, err := r.Register(t.Context(), Instance("web", id), false); err != nil {
					t.Errorf("register %s: %v", id, err)
				}
				if !slices.Contains(Live(r, "web"), id) {
					t.Errorf("%s was acknowledged and is not there", id)
				}
			}
		})
	}
	g.Wait()
	if got := len(Live(r, "web")); got != writers*each {
		t.Errorf("%d instances are there, want %d", got, writers*each)
	}
	if !moved(r, at, writers*each) {
		t.Errorf("the revision moved by %d, want %d", r.Revision()-at, writers*each)
	}

	// Many writers of one instance: one creates it, and each gets an answer.
	created := make(chan bool, writers)
	for range writers {
		g.Go(func() {
			_, err := r.Register(t.Context(), Instance("web", "one"), true)
			if err != nil && !errors.Is(err, store.ErrExists) {
				t.Errorf("register one: %v", err)
			}
			created <- err == nil
		})
	}
	g.Wait()
	close(created)
	n := 0
	for c := range created {
		if c {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d writers created the same instance, want 1", n)
	}
}

func testClosed(t *testing.T, open Opener) {
	r, done := Open(t, open, store.Config{})
	Register(t, r, Instance("web", "a1"))
	sub, _, err := r.Subscribe("", r.Revision(), 1)
	if err != nil {
		t.Fatal(err)
	}
	done()
	if _, err := r.Register(t.Context(), Instance("web", "a2"), false); !errors.Is(err, store.ErrClosed) {
		t.Errorf("register after Close: %v, want ErrClosed", err)
	}
	wantLive(t, r, "a1")
	if _, open := <-sub.C; open || !errors.Is(sub.Err(), store.ErrClosed) {
		t.Errorf("the subscription: open %v, error %v; want closed, ErrClosed", open, sub.Err())
	}
	if err := r.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func testRestart(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		full := Instance("web", "Full/1")
		full.Addresses = append(full.Addresses, netip.MustParseAddr("2001:db8::1"))
		full.Ports = []store.NamedPort{{Name: "metrics", Port: 9090}}
		full.Protocol = store.UDP
		full.Tags = []string{"v2", "not a label"}
		full.Meta = []store.Pair{{Key: "build", Value: "1234"}}
		full.Given = "http://10.0.0.1:8080"
		want := *Register(t, r, full).Instance
		Register(t, r, Instance("web", "gone"))
		Register(t, r, Instance("web", "a1"))
		if _, err := r.Deregister(t.Context(), "web", "gone"); err != nil {
			t.Fatal(err)
		}
		if err := beat(t, r, store.Beat{Status: new(store.Down)})(); err != nil {
			t.Fatal(err)
		}
		Advance(20 * time.Second)
		revision := r.Revision()
		done()

		Advance(time.Hour) // away
		r, done = Open(t, open, store.Config{})
		defer done()
		wantLive(t, r, "Full/1", "a1")
		if got := r.Revision(); got != revision {
			t.Errorf("after the restart the revision is %d, was %d", got, revision)
		}
		now := r.Now()
		if got := r.Service("web").Revision; got != revision {
			t.Errorf("after the restart the service's revision is %d, want the registry's, %d: its last change may have been a removal", got, revision)
		}
		m, _ := r.Service("web").ByLabel(want.Label, now)
		if got, want := fmt.Sprintf("%+v", *m.Instance), fmt.Sprintf("%+v", want); got != want {
			t.Errorf("after the restart:\n got %s\nwant %s", got, want)
		}
		if got := m.Lease.End().Sub(now); got != store.DefaultTTL {
			t.Errorf("after the restart the lease lasts %v, want a full one", got)
		}
		if m, _ := r.Service("web").ByLabel("a1", now); m.Status != store.Down {
			t.Errorf("after the restart a1 is %s, want down", m.Status)
		}
		Register(t, r, Instance("web", "new"))
		if !moved(r, revision, 1) {
			t.Errorf("the first change after the restart has revision %d, want %d", r.Revision(), revision+1)
		}
	})
}

func testExpiredStaysGone(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		Register(t, r, Instance("web", "a1"))
		Register(t, r, Instance("web", "a2"))
		Advance(20 * time.Second)
		if _, err := r.Heartbeat(t.Context(), "web", "a2", store.Beat{}); err != nil {
			t.Fatal(err)
		}
		Advance(11 * time.Second)
		done()
		r, done = Open(t, open, store.Config{})
		defer done()
		wantLive(t, r, "a2")
	})
}

// testDrainGoesOn drains instances and restarts: they are draining still, and
// go when caches have forgotten what the last run answered.
func testDrainGoesOn(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{MaxTTL: 10 * time.Second})
		for id, ttl := range map[string]time.Duration{"long": time.Minute, "permanent": 0, "short": 5 * time.Second} {
			i := Instance("web", id)
			i.TTL = ttl
			Register(t, r, i)
		}
		if !r.Service("web").HandOut(r.Now().Add(4 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		for _, id := range []string{"long", "permanent", "short"} {
			if _, err := r.Drain(t.Context(), "web", id); err != nil {
				t.Fatal(err)
			}
		}
		done()
		r, done = Open(t, open, store.Config{MaxTTL: 10 * time.Second})
		defer done()
		for m := range r.Service("web").Members(r.Now()) {
			if m.Status != store.Draining || !m.Leaving {
				t.Errorf("%s is %s, leaving %v", m.Instance, m.Status, m.Leaving)
			}
		}
		for _, step := range []struct {
			after time.Duration
			live  []string
		}{
			{4 * time.Second, []string{"long", "permanent", "short"}},
			{2 * time.Second, []string{"long", "permanent"}},
			{4 * time.Second, []string{"long", "permanent"}},
			{2 * time.Second, nil},
		} {
			Advance(step.after)
			for _, id := range step.live {
				if _, err := r.Heartbeat(t.Context(), "web", id, store.Beat{}); err != nil {
					t.Errorf("heartbeat: %v", err)
				}
			}
			wantLive(t, r, step.live...)
		}
	})
}

// testModel does random things to a registry and to a plain map, and compares
// them after each.
func testModel(t *testing.T, open Opener, keeps bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		defer func() { done() }()
		m := model{rnd: rand.New(rand.NewPCG(seed, 0)), entries: map[string]entry{}, cached: map[string]time.Time{}}
		for step := range 4000 {
			before := r.Revision()
			var moved bool
			if keeps && m.rnd.IntN(40) == 0 {
				done()
				r, done = Open(t, open, store.Config{})
				m.restart()
			} else {
				var err error
				if moved, err = m.step(t, r); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if after := r.Revision(); (after > before) != moved || after < before {
				t.Fatalf("step %d: the revision went from %d to %d, moved should be %v", step, before, after, moved)
			}
			m.compare(t, r, step)
		}
	})
}

// model is what a registry should hold, kept in the plainest way.
type model struct {
	rnd     *rand.Rand
	entries map[string]entry     // by service/id
	cached  map[string]time.Time // by service: until when caches may hold an answer
}

type entry struct {
	port uint16
	ttl  time.Duration
	end  time.Time
}

// step does one random thing to both, and reports whether the revision is to
// have moved.
func (m *model) step(t *testing.T, r *store.Registry) (moved bool, err error) {
	service, id := fmt.Sprintf("s%d", m.rnd.IntN(4)), fmt.Sprintf("i%d", m.rnd.IntN(8))
	key := service + "/" + id
	old, there := m.entries[key]
	switch op := m.rnd.IntN(20); {
	case op < 7:
		i := Instance(service, id)
		i.Port = uint16(m.rnd.IntN(3) + 1)
		i.TTL = time.Duration(m.rnd.IntN(4)+3) * time.Second
		moved = !there || old.port != i.Port || old.ttl != i.TTL
		m.register(service, key, entry{port: i.Port, ttl: i.TTL})
		if reg, err := r.Register(t.Context(), i, false); err != nil || reg.Created == there {
			return moved, fmt.Errorf("register %s: created %v, was there %v, error %w", key, reg.Created, there, err)
		}
	case op < 11:
		if there {
			old.end = latest(old.end, time.Now().Add(old.ttl))
			m.entries[key] = old
		}
		if _, err := r.Heartbeat(t.Context(), service, id, store.Beat{}); (err == nil) != there {
			return false, fmt.Errorf("heartbeat of %s: is there %v, error %w", key, there, err)
		}
	case op < 13:
		delete(m.entries, key)
		if _, err := r.Deregister(t.Context(), service, id); (err == nil) != there {
			return there, fmt.Errorf("deregister %s: is there %v, error %w", key, there, err)
		}
		moved = there
	case op < 15:
		if v := r.Service(service); v != nil {
			d := time.Duration(m.rnd.IntN(4)) * time.Second
			m.cached[service] = latest(m.cached[service], time.Now().Add(d))
			if !v.HandOut(r.Now().Add(d)) {
				return false, fmt.Errorf("the view of %s is not the present one", service)
			}
		}
	default:
		Advance(time.Duration(m.rnd.IntN(2000)) * time.Millisecond)
		moved = m.expire()
	}
	return moved, nil
}

// register puts the entry in with the lease that it gets: a changed one may be
// shorter than before, but lasts for as long as caches hold the old one.
func (m *model) register(service, key string, e entry) {
	now := time.Now()
	e.end = now.Add(e.ttl)
	if old, there := m.entries[key]; there {
		renewed := latest(old.end, now.Add(old.ttl))
		if old.port == e.port && old.ttl == e.ttl {
			e.end = renewed
		} else {
			e.end = latest(e.end, earliest(renewed, m.cached[service]))
			if old.ttl != e.ttl && e.end.Equal(renewed) {
				e.end = e.end.Add(1) // see Lease.set
			}
		}
	}
	m.entries[key] = e
}

func (m *model) expire() (any bool) {
	for k, e := range m.entries {
		if !time.Now().Before(e.end) {
			delete(m.entries, k)
			any = true
		}
	}
	return any
}

func (m *model) restart() {
	m.cached = map[string]time.Time{}
	for k, e := range m.entries {
		e.end = time.Now().Add(e.ttl)
		m.entries[k] = e
		service, _, _ := strings.Cut(k, "/")
		m.cached[service] = time.Now().Add(31 * time.Second) // the default MaxTTL and one
	}
}

func (m *model) compare(t *testing.T, r *store.Registry, step int) {
	t.Helper()
	got, want := map[string]uint16{}, map[string]uint16{}
	for v := range r.Services {
		for m := range v.Members(r.Now()) {
			got[m.String()] = m.Port
		}
	}
	for k, e := range m.entries {
		want[k] = e.port
	}
	if !maps.Equal(got, want) {
		t.Fatalf("step %d: the registry has\n%v, want\n%v", step, got, want)
	}
	if r.Len() != len(want) {
		t.Fatalf("step %d: Len is %d, want %d", step, r.Len(), len(want))
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
