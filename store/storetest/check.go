package storetest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
)

// Check returns a valid check.
func Check(t store.CheckType) *store.Check {
	c := &store.Check{Type: t, Interval: store.DefaultInterval, Timeout: store.DefaultTimeout, Rise: store.DefaultRise, Fall: store.DefaultFall}
	if t == store.CheckHTTP {
		c.Path = "/"
	}
	return c
}

// Checked returns an instance as [Instance] does, with a check.
func Checked(service, id string) *store.Instance {
	i := Instance(service, id)
	i.Check = Check(store.CheckTCP)
	return i
}

// member returns a live instance with its lease.
func member(t *testing.T, r *store.Registry, service, id string) store.Member {
	t.Helper()
	v := r.Service(service)
	if v == nil {
		t.Fatalf("nothing is registered as %s", service)
	}
	m, ok := v.ByLabel(store.Label(id), r.Now())
	if !ok {
		t.Fatalf("%s/%s is gone", service, id)
	}
	return m
}

// testChecked follows the status of an instance with a check. Each step is to
// leave the status that it names, and to move the revision where that is
// another.
func testChecked(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		defer done()
		present := func() store.Member { return member(t, r, "web", "a1") }
		register := func(change func(*store.Instance)) func() error {
			return func() error {
				i := Checked("web", "a1")
				change(i)
				Register(t, r, i)
				return nil
			}
		}
		finds := func(passes bool) func() error {
			return func() error {
				before := r.Revision()
				changed, err := r.Checked(t.Context(), present(), r.Age(), passes)
				if moved := r.Revision() != before; changed != moved {
					t.Errorf("a check is said to have changed something: %v, and the revision moved: %v", changed, moved)
				}
				return err
			}
		}
		says := func(s store.Status) func() error { return beat(t, r, store.Beat{Status: &s}) }
		as := func(*store.Instance) {}
		sub, _, err := r.Subscribe("web", r.Revision(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for k, step := range []struct {
			what string
			do   func() error
			want store.Status
			kind store.Kind // 0: the revision stays
		}{
			{"register", register(as), store.Starting, store.Registered},
			{"the same again", register(as), store.Starting, 0},
			{"it says up, which it has not denied", says(store.Up), store.Starting, 0},
			{"passes", finds(true), store.Up, store.StatusChanged},
			{"passes again", finds(true), store.Up, 0},
			{"the same again", register(as), store.Up, 0},
			{"fails", finds(false), store.Down, store.StatusChanged},
			{"the same again", register(as), store.Down, 0},
			{"it says up, which it has not denied", says(store.Up), store.Down, 0},
			{"another weight", register(func(i *store.Instance) { i.Weight = 1 }), store.Down, store.Updated},
			{"passes", finds(true), store.Up, store.StatusChanged},
			{"another weight", register(as), store.Up, store.Updated},
			{"says down", says(store.Down), store.Down, store.StatusChanged},
			{"passes, but it said down", finds(true), store.Down, 0},
			{"says up again: the check has the say", says(store.Up), store.Starting, store.StatusChanged},
			{"fails", finds(false), store.Down, store.StatusChanged},
			{"says down as well", says(store.Down), store.Down, store.StatusChanged},
			{"passes, but it said down", finds(true), store.Down, 0},
			{"says draining", says(store.Draining), store.Draining, store.StatusChanged},
			{"fails", finds(false), store.Draining, 0},
			{"says up again", says(store.Up), store.Starting, store.StatusChanged},
			{"no check any more", register(func(i *store.Instance) { i.Check = nil }), store.Up, store.Updated},
			{"a check again: up until it fails", register(as), store.Up, store.Updated},
			{"fails", finds(false), store.Down, store.StatusChanged},
			{"no check any more", register(func(i *store.Instance) { i.Check = nil }), store.Up, store.Updated},
			{"says down", says(store.Down), store.Down, store.StatusChanged},
			{"a check again, but it said down", register(as), store.Down, store.Updated},
			{"passes, but it said down", finds(true), store.Down, 0},
		} {
			before := r.Revision()
			if err := step.do(); err != nil {
				t.Fatalf("step %d, %s: %v", k, step.what, err)
			}
			if got := present().Status; got != step.want {
				t.Errorf("step %d, %s: it is %s, want %s", k, step.what, got, step.want)
			}
			if !moved(r, before, store.Revision(min(step.kind, 1))) {
				t.Errorf("step %d, %s: the revision moved by %d", k, step.what, r.Revision()-before)
			}
			if step.kind == 0 {
				continue
			}
			if e := <-sub.C; e.Kind != step.kind {
				t.Errorf("step %d, %s: a %s event, want %s", k, step.what, e.Kind, step.kind)
			}
		}
	})
}

// What a check finds does not replace the lease.
func testCheckRenewsNothing(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		defer done()
		Register(t, r, Checked("web", "leased"))
		permanent := Checked("web", "permanent")
		permanent.TTL = 0
		Register(t, r, permanent)
		leased, forever := member(t, r, "web", "leased"), member(t, r, "web", "permanent")
		for k := range 10 {
			Advance(2900 * time.Millisecond)
			for _, i := range []store.Member{leased, forever} {
				if _, err := r.Checked(t.Context(), i, r.Age(), k%2 == 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		Advance(time.Second)
		if got := Live(r, "web"); len(got) != 1 || got[0] != "permanent" {
			t.Errorf("30 s after the registration %q live, want permanent alone", got)
		}
		m, _ := r.Service("web").ByLabel("permanent", r.Now())
		if m.Status != store.Down {
			t.Errorf("permanent is %s, want down", m.Status)
		}
		if _, err := r.Checked(t.Context(), leased, r.Age(), true); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a check of what is gone: %v, want ErrNotFound", err)
		}
	})
}

// What was found about an instance that has been registered otherwise since
// does not count.
func testStaleCheck(t *testing.T, open Opener) {
	r, done := Open(t, open, store.Config{})
	defer done()
	Register(t, r, Checked("web", "stale"))
	seen := member(t, r, "web", "stale")
	for what, change := range map[string]func(*store.Instance){
		"another port":    func(i *store.Instance) { i.Port++ },
		"another address": func(i *store.Instance) { i.Addresses[0] = i.Addresses[0].Next() },
		"another check":   func(i *store.Instance) { i.Check.Fall++ },
		"no check":        func(i *store.Instance) { i.Check = nil },
	} {
		i := Checked("web", "stale")
		change(i)
		Register(t, r, i)
		if _, err := r.Checked(t.Context(), seen, r.Age(), true); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("with %s: %v, want ErrNotFound", what, err)
		}
	}
	i := Checked("web", "stale")
	i.Weight++ // as probed as before
	i.Check.Peer = netip.MustParseAddr("192.0.2.1")
	Register(t, r, i)
	if _, err := r.Checked(t.Context(), seen, r.Age(), true); err != nil {
		t.Errorf("with another weight: %v", err)
	}
	// The same address, but another life.
	if _, err := r.Deregister(t.Context(), "web", "stale"); err != nil {
		t.Fatal(err)
	}
	Register(t, r, Checked("web", "stale"))
	if _, err := r.Checked(t.Context(), seen, r.Age(), false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("registered anew: %v, want ErrNotFound", err)
	}
	if m := member(t, r, "web", "stale"); m.Status != store.Starting {
		t.Errorf("registered anew it is %s, want starting", m.Status)
	}
}

// The seed's check: up at once, deregistered when it fails.
func testCheckRemoves(t *testing.T, open Opener) {
	r, done := Open(t, open, store.Config{})
	defer done()
	seed := Instance("db", "seed")
	seed.TTL, seed.Check = 0, store.SeedCheck(netip.Addr{})
	reg := Register(t, r, seed)
	if reg.Status != store.Up {
		t.Errorf("registered it is %s, want up", reg.Status)
	}
	at := r.Revision()
	m := member(t, r, "db", "seed")
	if _, err := r.Checked(t.Context(), m, r.Age(), true); err != nil || r.Revision() != at {
		t.Errorf("a pass: %v, revision %d, was %d", err, r.Revision(), at)
	}
	sub, _, err := r.Subscribe("db", at, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Checked(t.Context(), m, r.Age(), false); err != nil {
		t.Fatal(err)
	}
	if e := <-sub.C; e.Kind != store.Deregistered || e.Instance().ID != "seed" {
		t.Errorf("got a %s event of %s, want deregister of db/seed", e.Kind, e.Instance())
	}
	// With a lease it goes by that.
	leased := Instance("db", "leased")
	leased.Check = store.SeedCheck(netip.Addr{})
	Register(t, r, leased)
	if _, err := r.Checked(t.Context(), member(t, r, "db", "leased"), r.Age(), false); err != nil {
		t.Fatal(err)
	}
	if got := Live(r, "db"); len(got) != 1 || got[0] != "leased" {
		t.Errorf("%q live, want leased", got)
	}
}

// Who has just registered again is not removed, and who has taken back that it
// is down is not down again by a probe from before.
func testCheckSpares(t *testing.T, open Opener) {
	synctest.Test(t, func(t *testing.T) {
		r, done := Open(t, open, store.Config{})
		defer done()
		finds := func(id string, began time.Duration, want store.Status) {
			t.Helper()
			if _, err := r.Checked(t.Context(), member(t, r, "web", id), began, false); err != nil {
				t.Fatal(err)
			}
			if got := member(t, r, "web", id).Status; got != want {
				t.Errorf("%s is %s, want %s", id, got, want)
			}
		}
		seed := func() *store.Instance {
			i := Instance("web", "seed")
			i.TTL, i.Check = 0, store.SeedCheck(netip.Addr{})
			return i
		}
		Register(t, r, seed())
		Advance(time.Minute)
		began := r.Age()
		Advance(time.Second)
		Register(t, r, seed())
		finds("seed", began, store.Up)
		Advance(store.DefaultInterval - time.Second)
		finds("seed", r.Age(), store.Up)
		Advance(time.Second)
		if _, err := r.Checked(t.Context(), member(t, r, "web", "seed"), r.Age(), false); err != nil {
			t.Fatal(err)
		}
		if got := Live(r, "web"); slices.Contains(got, "seed") {
			t.Errorf("%q live an interval later, want no seed", got)
		}

		Register(t, r, Checked("web", "a1"))
		began = r.Age()
		Advance(time.Second)
		for _, s := range []store.Status{store.Down, store.Up} {
			if _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{Status: &s}); err != nil {
				t.Fatal(err)
			}
		}
		finds("a1", began, store.Starting)
		Register(t, r, Checked("web", "a1")) // that is a heartbeat, no more
		finds("a1", r.Age(), store.Down)
	})
}

func testCheckedRestart(t *testing.T, open Opener) {
	r, done := Open(t, open, store.Config{})
	statuses := map[string]store.Status{"starting": store.Starting, "up": store.Up, "failing": store.Down, "down": store.Down}
	for id, s := range statuses {
		Register(t, r, Checked("web", id))
		var err error
		switch id {
		case "up", "failing":
			_, err = r.Checked(t.Context(), member(t, r, "web", id), r.Age(), s == store.Up)
		case "down":
			_, err = r.Heartbeat(t.Context(), "web", id, store.Beat{Status: &s})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// As the seed registered before there were checks.
	old := Instance("web", "old")
	old.TTL, old.Given = 0, "10.0.0.1:8080"
	Register(t, r, old)
	done()

	r, done = Open(t, open, store.Config{})
	defer done()
	for id, want := range statuses {
		m, _ := r.Service("web").ByLabel(id, r.Now())
		if m.Status != want {
			t.Errorf("after the restart %s is %s", id, m.Status)
		}
		if _, err := r.Checked(t.Context(), m, r.Age(), true); err != nil {
			t.Fatal(err)
		}
		if id != "down" {
			want = store.Up
		}
		if m, _ := r.Service("web").ByLabel(id, r.Now()); m.Status != want {
			t.Errorf("after a pass %s is %s, want %s", id, m.Status, want)
		}
	}
	if m, _ := r.Service("web").ByLabel("old", r.Now()); m.Check == nil || !m.Check.Removes {
		t.Errorf("a registration by the seed API from before there were checks: check %+v", m.Check)
	}
}
