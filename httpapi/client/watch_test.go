package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// puller takes one event after the other.
type puller struct {
	next func() (client.Event, error, bool)
}

func pull(t *testing.T, seq iter.Seq2[client.Event, error]) puller {
	t.Helper()
	next, stop := iter.Pull2(seq)
	t.Cleanup(stop)
	return puller{next}
}

func (p puller) want(t *testing.T, kind client.EventKind, id string) client.Event {
	t.Helper()
	e, err, ok := p.next()
	if err != nil || !ok || e.Kind != kind || e.Revision == 0 || id != "" && e.Instance.ID != id {
		t.Fatalf("got %+v, %v, %t; want %s of %s", e, err, ok, kind, id)
	}
	return e
}

// Every change comes, with what it is about, after the state at the beginning.
func TestWatch(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	storetest.Register(t, r, storetest.Instance("other", "b1"))
	p := pull(t, c.Watch(t.Context(), "web"))
	if e := p.want(t, client.Reset, ""); len(e.Instances) != 1 || e.Instances[0].ID != "a1" || e.Instance != nil {
		t.Errorf("reset: %+v", e)
	}
	storetest.Register(t, r, storetest.Instance("web", "a2"))
	storetest.Register(t, r, storetest.Instance("other", "b2"))
	if e := p.want(t, client.Registered, "a2"); e.Instance.Service != "web" || e.Instance.Revision != e.Revision || e.Instances != nil {
		t.Errorf("register: %+v", e)
	}
	one := uint16(1)
	if _, err := c.Heartbeat(t.Context(), "web", "a2", client.Beat{Weight: &one}); err != nil {
		t.Fatal(err)
	}
	if e := p.want(t, client.Updated, "a2"); e.Instance.Weight != 1 {
		t.Errorf("update: %+v", e.Instance)
	}
	if _, err := c.Drain(t.Context(), "web", "a2"); err != nil {
		t.Fatal(err)
	}
	if e := p.want(t, client.StatusSet, "a2"); e.Instance.Status != client.Draining {
		t.Errorf("status: %+v", e.Instance)
	}
	p.want(t, client.Deregistered, "a2") // which had been in no answer
	if _, err := c.Deregister(t.Context(), "web", "a1"); err != nil {
		t.Fatal(err)
	}
	p.want(t, client.Deregistered, "a1")

	all := pull(t, c.Watch(t.Context(), ""))
	if e := all.want(t, client.Reset, ""); len(e.Instances) != 2 || e.Instances[1].ID != "b2" {
		t.Errorf("reset of all: %+v", e)
	}
}

// cuts is a transport whose connections can be cut.
type cuts struct {
	mu   sync.Mutex
	open []func()
	last []string // the Last-Event-ID of each request

	tried chan struct{} // nil, or told of each request
}

// RoundTrip implements [http.RoundTripper].
func (c *cuts) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	c.mu.Lock()
	c.open = append(c.open, cancel)
	c.last = append(c.last, req.Header.Get("Last-Event-ID"))
	c.mu.Unlock()
	if c.tried != nil {
		c.tried <- struct{}{}
	}
	return http.DefaultTransport.RoundTrip(req.WithContext(ctx))
}

func (c *cuts) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.open {
		f()
	}
	c.open = nil
}

// A connection that is lost costs no event: one error tells of it, and what
// happened meanwhile comes next.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	transport := &cuts{}
	c.HTTP = &http.Client{Transport: transport}
	storetest.Register(t, r, storetest.Instance("web", "first"))
	p := pull(t, c.Watch(t.Context(), "web"))
	at := p.want(t, client.Reset, "").Revision
	for k := range 3 {
		transport.cut()
		if _, err, ok := p.next(); err == nil || !ok || !strings.HasPrefix(err.Error(), "watch web: ") {
			t.Fatalf("the loss: %v, %t", err, ok)
		}
		storetest.Register(t, r, storetest.Instance("web", fmt.Sprintf("a%d", k)))
		storetest.Register(t, r, storetest.Instance("web", fmt.Sprintf("b%d", k)))
		p.want(t, client.Registered, fmt.Sprintf("a%d", k))
		p.want(t, client.Registered, fmt.Sprintf("b%d", k))
	}
	if transport.last[0] != "" || transport.last[1] != fmt.Sprint(at) {
		t.Errorf("resumed after %q, want first nothing, then %d", transport.last, at)
	}
}

// A server that restarts without its history says how things are; while it is
// away there is one error and not more.
func TestWatchRestart(t *testing.T) {
	t.Parallel()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	url, stop := serve(t, r, "")
	transport := &cuts{tried: make(chan struct{}, 100)}
	c := &client.Client{Servers: []string{url}, HTTP: &http.Client{Transport: transport}}
	p := pull(t, c.Watch(t.Context(), ""))
	p.want(t, client.Reset, "")
	stop()
	if _, err, ok := p.next(); err == nil || !ok {
		t.Fatalf("the loss: %v, %t", err, ok)
	}
	later := store.NewMemory()
	later.At = r.Revision() + 1000
	again, closeAgain := storetest.Open(t, func(*testing.T) store.Backend { return later }, store.Config{})
	t.Cleanup(closeAgain)
	storetest.Register(t, again, storetest.Instance("web", "new"))
	type next struct {
		client.Event
		err error
	}
	came := make(chan next)
	go func() {
		e, err, _ := p.next()
		came <- next{e, err}
	}()
	for range 3 { // it tries, and finds nobody
		select {
		case <-transport.tried:
		case n := <-came:
			t.Fatalf("while the server was away: %+v, %v", n.Event, n.err)
		}
	}
	serve(t, again, strings.TrimPrefix(url, "http://"))
	if n := <-came; n.err != nil || n.Kind != client.Reset || len(n.Instances) != 1 {
		t.Errorf("after the restart: %+v, %v", n.Event, n.err)
	}
}

// The sequence ends when the caller breaks off, when its context is done, and
// with what no retry can help.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	for e, err := range c.Watch(t.Context(), "") {
		if err != nil || e.Kind != client.Reset {
			t.Fatalf("%+v, %v", e, err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for range c.Watch(ctx, "") {
		n++
		cancel()
	}
	if n != 1 {
		t.Errorf("%d events before the context was done, want one", n)
	}
	for service, servers := range map[string][]string{"a b": c.Servers, "web": {"ftp://x"}} {
		var errs []error
		for _, err := range (&client.Client{Servers: servers}).Watch(t.Context(), service) {
			errs = append(errs, err)
		}
		if len(errs) != 1 || errs[0] == nil {
			t.Errorf("watch %s of %s: %v, want one error and the end", service, servers, errs)
		}
	}
	var e *client.Error
	next, stop := iter.Pull2(c.Watch(t.Context(), "a b"))
	defer stop()
	if _, err, _ := next(); !errors.As(err, &e) || e.Status != 400 || e.Field != "service" {
		t.Errorf("watch of a service that cannot be: %v", err)
	}
}

// A large state comes whole, in order.
func TestWatchLarge(t *testing.T) {
	t.Parallel()
	r, c := start(t)
	const n = 5000
	for k := range n {
		storetest.Register(t, r, storetest.Instance(fmt.Sprintf("s%d", k%7), fmt.Sprintf("i%d", k)))
	}
	e := pull(t, c.Watch(t.Context(), "")).want(t, client.Reset, "")
	sorted := slices.IsSortedFunc(e.Instances, func(a, b client.Instance) int {
		return strings.Compare(a.Service+" "+a.ID, b.Service+" "+b.ID)
	})
	if len(e.Instances) != n || !sorted {
		t.Errorf("%d instances, sorted: %t", len(e.Instances), sorted)
	}
}
