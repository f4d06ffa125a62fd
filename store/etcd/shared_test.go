package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// Every kind of change, made with one server, is there at once with the others.
func TestChangedHereThereAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		servers := three(t, cluster)
		at, down := servers[0].Revision(), store.Down
		for k, change := range []func(r *store.Registry) error{
			func(r *store.Registry) error {
				_, err := r.Register(t.Context(), instance("1", 30*time.Second), true)
				return err
			},
			func(r *store.Registry) error {
				i := instance("1", time.Minute)
				i.Tags = []string{"blue"}
				_, err := r.Register(t.Context(), i, false)
				return err
			},
			func(r *store.Registry) error {
				_, err := r.Heartbeat(t.Context(), "web", "1", store.Beat{Status: &down})
				return err
			},
			func(r *store.Registry) error { _, err := r.Drain(t.Context(), "web", "1"); return err },
			func(r *store.Registry) error { _, err := r.Deregister(t.Context(), "web", "1"); return err },
		} {
			if err := change(servers[k%3].Registry); err != nil {
				t.Fatalf("change %d: %v", k, err)
			}
			same(t, servers...)
			if now := servers[0].Revision(); now <= at {
				t.Errorf("change %d: revision %d after %d", k, now, at)
			}
			at = servers[0].Revision()
			if n := servers[2].Len(); n != map[bool]int{true: 1, false: 0}[k < 4] {
				t.Errorf("after change %d, %d instances are there", k, n)
			}
		}
		for _, s := range servers {
			events, err := s.Since("", at)
			if err != nil || len(events) != 0 {
				t.Errorf("since the end: %v, %v", events, err)
			}
		}
	})
}

// Heartbeats move no revision, here or there.
func TestRenewalsMoveNoRevision(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		servers := three(t, cluster)
		storetest.Register(t, servers[0].Registry, instance("1", 5*time.Second))
		same(t, servers...)
		at := servers[0].Revision()
		for k := range 60 {
			servers[k%3].mustBeat(t, "1")
			storetest.Advance(time.Second)
		}
		same(t, servers...)
		if now := servers[0].Revision(); now != at {
			t.Errorf("revision %d, want %d", now, at)
		}
	})
}

// Servers that change the same instance at once decide again until all agree on
// what has happened, and in which order.
func TestDecidedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		servers := three(t, cluster)
		var histories []func() []store.Event
		for k, s := range servers {
			s.client.Delay(time.Duration(k) * 7 * time.Millisecond)
			histories = append(histories, s.watchEvents(t))
		}
		var done sync.WaitGroup
		for k, s := range servers {
			done.Go(func() {
				for n := range 40 {
					weight := uint16(1 + k*100 + n)
					var err error
					switch n % 4 {
					case 0, 1:
						i := instance("1", 30*time.Second)
						i.Meta = []store.Pair{{Key: "by", Value: strconv.Itoa(int(weight))}}
						_, err = s.Register(t.Context(), i, false)
					case 2:
						ttl := time.Duration(weight) * time.Second
						_, err = s.Heartbeat(t.Context(), "web", "1", store.Beat{TTL: &ttl})
					case 3:
						_, err = s.Deregister(t.Context(), "web", "1")
					}
					if gone := n%4 > 1 && errors.Is(err, store.ErrNotFound); err != nil && !gone {
						t.Errorf("server %d, change %d: %v", k, n, err)
					}
				}
			})
		}
		done.Wait()
		storetest.Advance(time.Second)
		same(t, servers...)
		conflicts := uint64(0)
		want := brief(histories[0]())
		for k, s := range servers {
			conflicts += s.etcd.Counts().Conflicts
			if k > 0 {
				if got := brief(histories[k]()); !reflect.DeepEqual(got, want) {
					t.Errorf("server %d has published\n%v\nthe first one\n%v", k, got, want)
				}
			}
		}
		if conflicts == 0 || len(want) < 30 {
			t.Errorf("%d conflicts in %d changes: this tests nothing", conflicts, len(want))
		}
		there := false // each event follows on the one before
		for _, e := range want {
			removes := e.kind == store.Deregistered || e.kind == store.Expired
			if (e.kind == store.Registered) == there {
				t.Fatalf("revision %d: %v where the instance is there: %v", e.revision, e.kind, there)
			}
			there = !removes
		}
	})
}

// what is what is the same of an event on all servers.
type what struct {
	revision store.Revision
	kind     store.Kind
	id       string
	ttl      time.Duration
}

func brief(events []store.Event) (all []what) {
	for _, e := range events {
		w := what{e.Revision, e.Kind, e.Instance().ID, 0}
		if e.After != nil {
			w.ttl = e.After.TTL
		}
		all = append(all, w)
	}
	return all
}

// Two IDs that come to the same label: the second is refused, wherever it comes.
func TestLabelClash(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		a, b := two(t, cluster)
		const id = "not_a.label"
		b.client.Delay(100 * time.Millisecond) // it decides before it has seen the other's
		errs := make(chan error, 2)
		go func() {
			_, err := a.Register(t.Context(), instance(id, 30*time.Second), false)
			errs <- err
		}()
		go func() {
			_, err := b.Register(t.Context(), instance(store.Label(id), 30*time.Second), false)
			errs <- err
		}()
		var conflict *store.ConflictError
		if err := errors.Join(<-errs, <-errs); !errors.As(err, &conflict) || conflict.Name != store.Label(id)+".web" {
			t.Errorf("got %v, want that the label is taken", err)
		}
		storetest.Advance(time.Second)
		same(t, a, b)
		if !b.has(id) || b.Len() != 1 {
			t.Errorf("there is %v", b.all())
		}
	})
}

// Of several that create the same instance one does.
func TestOneCreates(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		servers := three(t, cluster)
		for round := range 20 {
			created := make(chan bool)
			for _, s := range servers {
				go func() {
					reg, err := s.Register(t.Context(), instance(fmt.Sprint("i", round), 30*time.Second), true)
					if err != nil && !errors.Is(err, store.ErrExists) {
						t.Errorf("register: %v", err)
					}
					created <- err == nil && reg.Created
				}()
			}
			n := 0
			for range servers {
				if <-created {
					n++
				}
			}
			if n != 1 {
				t.Fatalf("round %d: %d have created the instance", round, n)
			}
		}
		same(t, servers...)
	})
}

// What one server has registered can be renewed, changed and deregistered with
// another at once, although that one has not heard of it yet.
func TestHeardOfJustNow(t *testing.T) {
	for name, do := range map[string]func(ctx context.Context, r *store.Registry) error{
		"Heartbeat": func(ctx context.Context, r *store.Registry) error {
			_, err := r.Heartbeat(ctx, "web", "1", store.Beat{})
			return err
		},
		"Deregister": func(ctx context.Context, r *store.Registry) error {
			_, err := r.Deregister(ctx, "web", "1")
			return err
		},
		"Drain": func(ctx context.Context, r *store.Registry) error {
			_, err := r.Drain(ctx, "web", "1")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
				a, b := two(t, cluster)
				b.client.Pause()
				storetest.Register(t, a.Registry, instance("1", 30*time.Second))
				done, begin := make(chan error, 1), time.Now()
				go func() { done <- do(t.Context(), b.Registry) }()
				storetest.Advance(400 * time.Millisecond)
				select {
				case err := <-done:
					t.Fatalf("it has not waited: %v", err)
				default:
				}
				b.client.Resume()
				if err := <-done; err != nil {
					t.Errorf("it fails: %v", err)
				}
				if took := time.Since(begin); took > 700*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				same(t, a, b)
			})
		})
	}
}

// What is nowhere is not found, and that takes no longer than a tick.
func TestNotFound(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		_, b := two(t, cluster)
		b.client.Delay(20 * time.Millisecond)
		begin := time.Now()
		if err := b.beat(t.Context(), "1"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("heartbeat: %v", err)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		synctest.Wait()
	})
}
