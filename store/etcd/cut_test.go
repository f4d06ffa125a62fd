package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// faults are the ways of being cut off.
var faults = map[string]etcdtest.Fault{"Hangs": etcdtest.Hangs, "Refuses": etcdtest.Refuses, "NoLeader": etcdtest.NoLeader}

func (s *server) stale() bool { _, stale := s.Stale(); return stale }

// A server that is cut off says so after a second: its lease clock stands, it
// still answers, and writes fail at once. When it is back, that is over soon.
func TestCutOff(t *testing.T) {
	for name, fault := range faults {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			storetest.Register(t, a.Registry, instance("1", 5*time.Second))
			a.keep(t, "1", time.Second)
			same(t, a, b)
			b.client.Cut(fault)
			waiting := make(chan error, 2)
			go func() { waiting <- b.beat(t.Context(), "1") }()
			go func() {
				_, err := b.Register(t.Context(), instance("2", 5*time.Second), false)
				waiting <- err
			}()
			storetest.Advance(700 * time.Millisecond)
			if b.stale() {
				t.Error("it is stale after less than a second")
			}
			storetest.Advance(301 * time.Millisecond)
			if !b.stale() {
				t.Fatal("it is not stale after a second")
			}
			storetest.Advance(250 * time.Millisecond) // to notice
			now, begin := b.Now(), time.Now()
			refusesWrites(t, b)
			if took := time.Since(begin); took > 0 {
				t.Errorf("the errors took %v", took)
			}
			storetest.Advance(time.Second) // what is under way may be tried once more
			for range 2 {
				select {
				case err := <-waiting:
					if !errors.Is(err, store.ErrUnconfirmed) {
						t.Errorf("what waited: %v", err)
					}
				default:
					t.Error("somebody still waits")
				}
			}
			sample(20*time.Second, 100*time.Millisecond, func() {
				if !b.stale() || !b.has("1") || b.Now() != now {
					t.Fatalf("stale: %v, has it: %v, the clock shows %v, before %v", b.stale(), b.has("1"), b.Now(), now)
				}
			})
			since, _ := b.Stale()
			if since < 21*time.Second || since > 22*time.Second {
				t.Errorf("stale for %v", since)
			}
			b.client.Heal()
			storetest.Advance(600 * time.Millisecond)
			if b.stale() || !b.has("1") {
				t.Errorf("healed for 600 ms: stale: %v, has it: %v", b.stale(), b.has("1"))
			}
			b.mustBeat(t, "1")
			storetest.Advance(time.Second)
			same(t, a, b)
			if began, ended := b.told(); began != 1 || ended != 1 {
				t.Errorf("it was told of %d troubles and of the end of %d", began, ended)
			}
			if c := b.etcd.Counts(); c.CutOffs != 1 || c.CutOff {
				t.Errorf("it counts %+v", c)
			}
		})
	}
}

// refusesWrites checks that all writes fail, and say so at once.
func refusesWrites(t *testing.T, s *server) {
	t.Helper()
	ttl := 9 * time.Second
	for name, err := range map[string]error{
		"heartbeat":  s.beat(t.Context(), "1"),
		"change":     second(s.Heartbeat(t.Context(), "web", "1", store.Beat{TTL: &ttl})),
		"register":   second(s.Register(t.Context(), instance("3", ttl), false)),
		"deregister": second(s.Deregister(t.Context(), "web", "1")),
		"drain":      second(s.Drain(t.Context(), "web", "1")),
		"cover":      s.Cover(t.Context(), nil),
	} {
		if !errors.Is(err, store.ErrCutOff) || !strings.Contains(err.Error(), "etcd at fake cannot be reached") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A cut of one server lengthens no lease there: others have gone on. Nor does
// it shorten one by more than clocks differ anyway.
func TestPrivateCutLengthensNothing(t *testing.T) {
	for _, lasts := range []time.Duration{1500 * time.Millisecond, 10 * time.Second, 25 * time.Second} {
		subbubble(t, lasts.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			storetest.Register(t, a.Registry, instance("heard-by-a", 40*time.Second))
			storetest.Register(t, b.Registry, instance("heard-by-b", 40*time.Second))
			began := time.Now()
			b.client.Cut(etcdtest.Hangs)
			storetest.Advance(lasts)
			b.client.Heal()
			sample(time.Second, 5*time.Millisecond, func() {
				if d := b.ends(t, "heard-by-b").Sub(began.Add(40 * time.Second)); !b.stale() && d > 0 {
					t.Fatalf("not stale any more, on b the lease ends %v later than its time", d)
				}
			})
			if b.stale() {
				t.Fatal("it is stale")
			}
			for _, id := range []string{"heard-by-a", "heard-by-b"} {
				for name, s := range map[string]*server{"a": a, "b": b} {
					// Whatever was known before, ends may have moved back by what
					// clocks are apart at most.
					d := s.ends(t, id).Sub(began.Add(40 * time.Second))
					if d > 0 || d < -1200*time.Millisecond {
						t.Errorf("%s: on %s the lease ends %v later than its time", id, name, d)
					}
				}
			}
			if d := b.ends(t, "heard-by-a").Sub(a.ends(t, "heard-by-a")); d > 0 {
				t.Errorf("heard by a, on b the lease ends %v later", d)
			}
		})
	}
}

// A server that is reached for so short a time that it does not learn what others'
// clocks did, and is cut off again, makes up for both when it is back.
func TestCutOffTwice(t *testing.T) {
	for between := time.Duration(0); between <= 400*time.Millisecond; between += 20 * time.Millisecond {
		subbubble(t, between.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			storetest.Register(t, a.Registry, instance("1", 20*time.Second))
			b.client.Cut(etcdtest.Hangs)
			storetest.Advance(4 * time.Second)
			b.client.Heal()
			storetest.Advance(between)
			b.client.Cut(etcdtest.Hangs)
			storetest.Advance(2 * time.Second)
			a.mustBeat(t, "1")
			ends := time.Now().Add(20 * time.Second)
			storetest.Advance(2 * time.Second)
			b.client.Heal()
			storetest.Advance(2 * time.Second) // its clock is put right, if it was wrong
			if b.stale() {
				t.Fatal("it is stale")
			}
			if d := b.ends(t, "1").Sub(ends); d > 0 || d < -400*time.Millisecond {
				t.Errorf("the lease ends %v later than its time", d)
			}
		})
	}
}

// A server that was cut off, and makes up for that right before all are, has not
// gone on while the others' clocks stood: they make up for nothing then, and what
// is renewed afterwards lasts.
func TestCutOffBeforeAll(t *testing.T) {
	for between := time.Duration(0); between <= 500*time.Millisecond; between += 20 * time.Millisecond {
		subbubble(t, between.String(), func(t *testing.T, cluster *etcdtest.Cluster) {
			servers := three(t, cluster)
			storetest.Register(t, servers[0].Registry, instance("1", 20*time.Second))
			c := servers[2]
			c.client.Cut(etcdtest.Hangs)
			storetest.Advance(4 * time.Second)
			c.client.Heal()
			storetest.Advance(between)
			for _, s := range servers {
				s.client.Cut(etcdtest.Hangs)
			}
			storetest.Advance(5 * time.Second)
			for _, s := range servers {
				s.client.Heal()
			}
			var ends time.Time
			sample(3*time.Second, 5*time.Millisecond, func() {
				for _, s := range servers {
					if ends.IsZero() && s.beat(t.Context(), "1") == nil {
						ends = time.Now().Add(20 * time.Second)
					}
				}
			})
			for k, s := range servers {
				if d := s.ends(t, "1").Sub(ends); s.stale() || d > 0 || d < -600*time.Millisecond {
					t.Errorf("server %d: stale: %v, the lease ends %v later than its time", k, s.stale(), d)
				}
			}
		})
	}
}

// What was heard by a server that came and went while another was cut off counts
// there as well: by the ticks of a third one it is known when it was heard. So it
// does where that server has stopped, and was forgotten, and too much has been
// ticked since to find out anew.
func TestHeardByOneThatCameAndWent(t *testing.T) {
	for name, c := range map[string]struct {
		goes  func(s *server)
		later time.Duration
	}{
		"Killed":      {(*server).kill, time.Second},
		"Stopped":     {func(s *server) { s.close() }, 20 * time.Second},
		"LongStopped": {func(s *server) { s.close() }, 200 * time.Second},
	} {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			a, b := two(t, cluster)
			storetest.Register(t, a.Registry, instance("1", 300*time.Second))
			b.client.Cut(etcdtest.Hangs)
			storetest.Advance(4 * time.Second)
			third := start(t, cluster, "c")
			storetest.Advance(500 * time.Millisecond)
			third.mustBeat(t, "1")
			ends := time.Now().Add(300 * time.Second)
			storetest.Advance(time.Second)
			c.goes(third)
			storetest.Advance(c.later)
			b.client.Heal()
			storetest.Advance(600 * time.Millisecond)
			if b.stale() {
				t.Fatal("it is stale")
			}
			// Each of the two others' clocks may have gone apart from b's by a hundredth.
			if d := b.ends(t, "1").Sub(ends); d > 0 || d < -400*time.Millisecond-c.later/50 {
				t.Errorf("the lease ends %v later than its time", d)
			}
		})
	}
}

// Where nobody could reach etcd, all leases are longer by that.
func TestCommonCutLengthensAll(t *testing.T) {
	for name, fault := range faults {
		subbubble(t, name, func(t *testing.T, cluster *etcdtest.Cluster) {
			const lasts = 20 * time.Second
			servers := three(t, cluster)
			for k, s := range servers {
				storetest.Register(t, s.Registry, instance(fmt.Sprint("i", k), 5*time.Second))
			}
			storetest.Advance(time.Second)
			left := 4 * time.Second
			for _, s := range servers {
				s.client.Cut(fault)
			}
			sample(lasts, 100*time.Millisecond, func() {
				for k, s := range servers {
					if live := storetest.Live(s.Registry, "web"); len(live) != 3 {
						t.Fatalf("server %d only has %v", k, live)
					}
				}
			})
			for _, s := range servers {
				s.client.Heal()
			}
			storetest.Advance(4 * time.Second / 4)
			healed := time.Now().Add(-time.Second)
			for k, s := range servers {
				if s.stale() {
					t.Fatalf("server %d is stale", k)
				}
				for n := range servers {
					// The clocks have stood since a second after the last tick at
					// most, and go on when the servers have heard of each other.
					id := fmt.Sprint("i", n)
					d := s.ends(t, id).Sub(healed.Add(left))
					if d > 600*time.Millisecond || d < -2*time.Second {
						t.Errorf("server %d: the lease of %s ends %v later than it would if nothing of the cut counted", k, id, d)
					}
				}
			}
			for k := range servers {
				servers[(k+1)%3].mustBeat(t, fmt.Sprint("i", k))
			}
			storetest.Advance(3 * time.Second)
			same(t, servers...)
			if servers[0].Len() != 3 {
				t.Errorf("there is %v", servers[0].all())
			}
		})
	}
}

// What etcd refuses, another server cannot write either.
func TestRefusedIsNotCutOff(t *testing.T) {
	if err := etcd.WhileRefused(); !errors.Is(err, store.ErrNotDurable) || errors.Is(err, store.ErrCutOff) || !strings.Contains(err.Error(), "full") {
		t.Errorf("got %v", err)
	}
}
