package etcd_test

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// server is one of several roster servers on a cluster.
type server struct {
	*store.Registry
	etcd   *etcd.Store
	client *etcdtest.Client
	close  func() // as where it is told to end

	mu      sync.Mutex
	trouble []error  // what it was told of; guarded by mu, as is what follows
	rereads []reread // forgotten once they were asked for
}

// reread is that a server has read everything again.
type reread struct {
	why error
	by  store.Difference
}

// bubble runs a test on a new cluster, in a bubble of its own.
func bubble(t *testing.T, test func(t *testing.T, cluster *etcdtest.Cluster)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, etcdtest.NewCluster()) })
}

// start starts a server.
func start(t *testing.T, cluster *etcdtest.Cluster, name string) *server {
	t.Helper()
	return startAs(t, cluster, etcd.Config{Name: name}, store.Config{}, "")
}

// startAs starts a server with an identity of its own, "" for any.
func startAs(t *testing.T, cluster *etcdtest.Cluster, cfg etcd.Config, registry store.Config, id string) *server {
	t.Helper()
	s := &server{client: cluster.Client()}
	cfg.Endpoints = []string{"fake"}
	cfg.Trouble = func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.trouble = append(s.trouble, err)
	}
	cfg.Reread = func(why error, by store.Difference) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rereads = append(s.rereads, reread{why, by})
	}
	s.etcd = etcd.New(s.client, cfg)
	if id != "" {
		etcd.SetID(s.etcd, id)
	}
	s.Registry, s.close = storetest.Open(t, func(*testing.T) store.Backend { return s.etcd }, registry)
	return s
}

// two and three start servers a, b and c, and let them hear of each other.
func two(t *testing.T, cluster *etcdtest.Cluster) (a, b *server) {
	t.Helper()
	a, b = start(t, cluster, "a"), start(t, cluster, "b")
	storetest.Advance(time.Second)
	return a, b
}

func three(t *testing.T, cluster *etcdtest.Cluster) []*server {
	t.Helper()
	a, b := two(t, cluster)
	c := start(t, cluster, "c")
	storetest.Advance(time.Second)
	return []*server{a, b, c}
}

// kill has a server end without a word: nothing of it comes to etcd any more.
func (s *server) kill() { s.client.Cut(etcdtest.Refuses) }

// told returns how often the server was told of trouble, and of its end.
func (s *server) told() (began, ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.trouble {
		if err == nil {
			ended++
		} else {
			began++
		}
	}
	return began, ended
}

// reread returns what a server has read again since it was last asked: why the
// first time, and what that and all that followed have made of its registry.
func (s *server) reread(t *testing.T) (why string, by store.Difference) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rereads) == 0 {
		t.Fatal("it has not said that it has read everything again")
	}
	why = s.rereads[0].why.Error()
	for _, r := range s.rereads {
		by.Registered += r.by.Registered
		by.Changed += r.by.Changed
		by.Gone += r.by.Gone
	}
	s.rereads = nil
	return why, by
}

// instance is one of web with a TTL in whole seconds.
func instance(id string, ttl time.Duration) *store.Instance {
	i := storetest.Instance("web", id)
	i.TTL = ttl
	return i
}

// lease returns the lease of an instance of web, nil where it is not there.
func (s *server) lease(id string) *store.Lease {
	v := s.Service("web")
	if v == nil {
		return nil
	}
	for _, m := range v.All() {
		if m.ID == id {
			return m.Lease
		}
	}
	return nil
}

// ends returns when the lease of an instance of web will end, if the lease clock
// goes on. The wall clock of the bubble is the same for all servers.
func (s *server) ends(t *testing.T, id string) time.Time {
	t.Helper()
	l := s.lease(id)
	if l == nil {
		t.Fatalf("%s is not there", id)
	}
	return s.Wall(l.End())
}

// has reports whether an instance of web is in answers.
func (s *server) has(id string) bool { return slices.Contains(storetest.Live(s.Registry, "web"), id) }

// beat renews an instance of web.
func (s *server) beat(ctx context.Context, id string) error {
	_, err := s.Heartbeat(ctx, "web", id, store.Beat{})
	return err
}

func (s *server) mustBeat(t *testing.T, id string) {
	t.Helper()
	if err := s.beat(t.Context(), id); err != nil {
		t.Errorf("heartbeat of %s: %v", id, err)
	}
}

// keep renews an instance of web at once and from then on, to the end of the test.
func (s *server) keep(t *testing.T, id string, every time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			_ = s.beat(ctx, id) // what comes of it is looked at elsewhere
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// all returns everything that a server has.
func (s *server) all() map[string]store.Instance {
	all := map[string]store.Instance{}
	for v := range s.Services {
		for _, m := range v.All() {
			all[m.Service+"/"+m.ID] = *m.Instance
		}
	}
	return all
}

// same checks that all servers have the same, at the same revision.
func same(t *testing.T, servers ...*server) {
	t.Helper()
	synctest.Wait()
	first := servers[0]
	for k, s := range servers[1:] {
		if got, want := s.Revision(), first.Revision(); got != want {
			t.Errorf("server %d is at revision %d, the first one at %d", k+1, got, want)
		}
		if got, want := s.all(), first.all(); !reflect.DeepEqual(got, want) {
			t.Errorf("server %d has %v, the first one has %v", k+1, got, want)
		}
	}
}

// watchEvents returns what returns all events that a server has published since.
func (s *server) watchEvents(t *testing.T) func() []store.Event {
	t.Helper()
	sub, _, err := s.Subscribe("", s.Revision(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return func() (events []store.Event) {
		synctest.Wait()
		for {
			select {
			case e, open := <-sub.C:
				if !open {
					t.Fatalf("the subscription has ended: %v", sub.Err())
				}
				events = append(events, e)
			default:
				return events
			}
		}
	}
}

// count returns how many events are of a kind.
func count(events []store.Event, kind store.Kind) (n int) {
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// sample calls look each step for a while.
func sample(d, step time.Duration, look func()) {
	for range d / step {
		storetest.Advance(step)
		look()
	}
}
