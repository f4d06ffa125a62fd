package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// sharing is a registry on a backend that servers share, from which it can be cut
// off: it is confirmed for a while from its opening on.
func sharing(t *testing.T, confirmed time.Duration) (*storetest.Shared, *store.Registry) {
	t.Helper()
	b := &storetest.Shared{Confirmed: confirmed}
	b.At = 1000 // all have the same revisions
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	t.Cleanup(done)
	return b, r
}

// inTwo has two servers, of which the first is cut off from the start. It knows of
// old, the second of new.
func inTwo(t *testing.T, f func(t *testing.T, c *client.Client, said *[]client.Stale, a, b *host, fresh *storetest.Shared)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		hosts := map[string]*host{}
		var fresh *storetest.Shared
		for k, service := range []string{"old", "new"} {
			backend, r := sharing(t, time.Duration(k)*time.Hour+1)
			i := storetest.Instance(service, "a1")
			i.TTL = 0
			storetest.Register(t, r, i)
			s, err := httpapi.New(httpapi.Config{Registry: r, Listener: noListener{}, Name: func(*store.Instance) string { return "" }})
			if err != nil {
				t.Fatal(err)
			}
			hosts[fmt.Sprintf("%c:80", 'a'+k)] = &host{handler: s.Handler()}
			fresh = backend
		}
		var said []client.Stale
		c := &client.Client{
			Servers: []string{"a:80", "b:80"}, HTTP: &http.Client{Transport: network{hosts}},
			OnStale: func(s client.Stale) { said = append(said, s) },
		}
		storetest.Advance(2500 * time.Millisecond)
		f(t, c, &said, hosts["a:80"], hosts["b:80"], fresh)
	})
}

// What another server knows better is asked there, and then of that one at once;
// also that something is not there.
func TestStaleAsksElsewhere(t *testing.T) {
	inTwo(t, func(t *testing.T, c *client.Client, said *[]client.Stale, a, b *host, _ *storetest.Shared) {
		t.Helper()
		if _, err := c.Instances(t.Context(), "new", client.Query{}); err != nil {
			t.Errorf("what is new: %v", err)
		}
		asked := a.requests.Load()
		if _, err := c.Instances(t.Context(), "old", client.Query{}); !errors.Is(err, client.ErrNotFound) || a.requests.Load() != asked {
			t.Errorf("what is gone: %v, after %d requests to the one that is cut off", err, a.requests.Load()-asked)
		}
		again := &client.Client{Servers: c.Servers, HTTP: c.HTTP, OnStale: c.OnStale}
		list, err := again.Services(t.Context(), client.Query{})
		if err != nil || len(list.Services) != 1 || list.Services[0].Name != "new" {
			t.Errorf("the list is %+v, %v", list, err)
		}
		again = &client.Client{Servers: c.Servers, HTTP: c.HTTP, OnStale: c.OnStale}
		begin := time.Now()
		list, err = again.Services(t.Context(), client.Query{Wait: 30 * time.Second, After: list.Revision})
		if took := time.Since(begin); err != nil || list.Services[0].Name != "new" || took < 30*time.Second || took > 31*time.Second {
			t.Errorf("after a wait of %v the list is %+v, %v", took, list, err)
		}
		if len(*said) != 0 {
			t.Errorf("it was told of %v", *said)
		}
	})
}

// Where no other knows better, a stale answer is one, and the caller hears of it.
func TestStaleIsTaken(t *testing.T) {
	for name, trouble := range map[string]func(b *host, fresh *storetest.Shared){
		"away":     func(b *host, _ *storetest.Shared) { b.away.Store(true) },
		"failing":  func(b *host, _ *storetest.Shared) { b.says.Store(500) },
		"refusing": func(b *host, _ *storetest.Shared) { b.says.Store(401) },
		"hanging":  func(b *host, _ *storetest.Shared) { b.hangs.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			inTwo(t, func(t *testing.T, c *client.Client, said *[]client.Stale, a, b *host, fresh *storetest.Shared) {
				t.Helper()
				trouble(b, fresh)
				begin := time.Now()
				list, err := c.Services(t.Context(), client.Query{})
				if err != nil || len(list.Services) != 1 || list.Services[0].Name != "old" || time.Since(begin) > 2*time.Second {
					t.Errorf("after %v the list is %+v, %v", time.Since(begin), list, err)
				}
				want := []client.Stale{{Server: "http://a:80", Since: 2 * time.Second}}
				if !reflect.DeepEqual(*said, want) {
					t.Errorf("it was told of %+v, want %+v", *said, want)
				}
				if _, err := c.Instances(t.Context(), "gone", client.Query{}); !errors.Is(err, client.ErrNotFound) || !strings.HasPrefix(err.Error(), "list the instances of gone: http://a:80: ") {
					t.Errorf("what is not there: %v", err)
				}
				if _, err := c.Register(t.Context(), client.Registration{Service: "a b"}); err == nil || len(*said) != 2 {
					t.Errorf("a registration: %v, and it was told of %v", err, *said)
				}
			})
		})
	}
}

// refusing is servers that are cut off and refuse everything.
type refusing struct{ asked atomic.Int64 }

// RoundTrip implements [http.RoundTripper].
func (r *refusing) RoundTrip(*http.Request) (*http.Response, error) {
	r.asked.Add(1)
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Roster-Stale": {"7"}}, Body: http.NoBody}, nil
}

// What a server says to a change holds, whatever it knows of others: it is not
// made a second time elsewhere.
func TestStaleIsNoneOfAChange(t *testing.T) {
	t.Parallel()
	r := &refusing{}
	c := &client.Client{
		Servers: []string{"a:80", "b:80"}, HTTP: &http.Client{Transport: r},
		OnStale: func(s client.Stale) { t.Errorf("it was told of %+v", s) },
	}
	if _, err := c.Deregister(t.Context(), "web", "a1"); !errors.Is(err, client.ErrNotFound) || r.asked.Load() != 1 {
		t.Errorf("after %d requests it ended with %v", r.asked.Load(), err)
	}
}

// What a server's URL has of a password is in no text.
func TestPasswordsAreNotShown(t *testing.T) {
	inTwo(t, func(t *testing.T, c *client.Client, said *[]client.Stale, a, b *host, _ *storetest.Shared) {
		t.Helper()
		c.Servers = []string{"http://me:secret@a:80", "http://me:secret@b:80"}
		b.away.Store(true)
		_, err := c.Services(t.Context(), client.Query{})
		if err != nil || len(*said) != 1 || (*said)[0].Server != "http://me:xxxxx@a:80" {
			t.Errorf("%v, and it was told of %+v", err, *said)
		}
		a.away.Store(true)
		if _, err = c.Services(t.Context(), client.Query{}); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "http://me:xxxxx@b:80 (") {
			t.Errorf("nobody answers: %v", err)
		}
	})
}

// Of several servers, an error says which one spoke; one is known.
func TestErrorsNameTheServer(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *store.Registry, c *client.Client, a, b *host) {
		register := func() string {
			_, err := c.Register(t.Context(), client.Registration{Service: "web", ID: "a b"})
			return fmt.Sprint(err)
		}
		a.says.Store(500)
		if err := register(); !strings.HasPrefix(err, `register web/a b: http://10.0.0.2:8054: id: "a b" is not allowed`) {
			t.Errorf("refused by the second: %s", err)
		}
		b.says.Store(503)
		if err := register(); !strings.HasPrefix(err, "register web/a b: http://10.0.0.1:8054: PUT ") {
			t.Errorf("both are in trouble: %s", err)
		}
		c.Servers = c.Servers[1:]
		if err := register(); !strings.HasPrefix(err, "register web/a b: PUT http://10.0.0.2:8054/") {
			t.Errorf("one alone: %s", err)
		}
	})
}

// A watch on a server that is cut off goes to one that is not, and misses nothing.
func TestWatchMoves(t *testing.T) {
	t.Parallel()
	_, cut := sharing(t, 1)
	_, fresh := sharing(t, time.Hour)
	for _, r := range []*store.Registry{cut, fresh} {
		storetest.Register(t, r, storetest.Instance("web", "a1"))
	}
	storetest.Register(t, fresh, storetest.Instance("web", "a2")) // the other has not heard of it
	a, _ := serve(t, cut, "")
	b, _ := serve(t, fresh, "")
	said := make(chan client.Stale, 10)
	transport := &cuts{}
	c := &client.Client{Servers: []string{a, b}, HTTP: &http.Client{Transport: transport}, OnStale: func(s client.Stale) { said <- s }}
	p := pull(t, c.Watch(t.Context(), "web"))
	if e := p.want(t, client.Reset, ""); len(e.Instances) != 1 {
		t.Errorf("the first state: %+v", e)
	}
	p.want(t, client.Registered, "a2")
	if got, want := <-said, (client.Stale{Server: a, Watching: b, From: "the backend"}); got.Server != want.Server || got.Watching != want.Watching || got.From != want.From || got.Over {
		t.Errorf("it was told of %+v, want %+v", got, want)
	}
	storetest.Register(t, fresh, storetest.Instance("web", "a3"))
	p.want(t, client.Registered, "a3")
	if last := transport.last[len(transport.last)-1]; last != "1001" || len(said) != 0 {
		t.Errorf("it resumed after %q, and was told of %d more", last, len(said))
	}
}

// Where none is better it stays, and says so, once; and hears when that is over.
func TestWatchStays(t *testing.T) {
	t.Parallel()
	_, other := sharing(t, 1)
	b, _ := serve(t, other, "")
	for _, others := range [][]string{{b}, {"http://127.0.0.1:1"}, nil} {
		backend, r := sharing(t, 1)
		a, _ := serve(t, r, "")
		servers := append([]string{a}, others...)
		said := make(chan client.Stale, 10)
		c := &client.Client{Servers: servers, OnStale: func(s client.Stale) { said <- s }}
		p := pull(t, c.Watch(t.Context(), ""))
		p.want(t, client.Reset, "")
		came := make(chan client.Event)
		go func() {
			e, err, _ := p.next()
			if err != nil {
				t.Errorf("it was lost: %v", err)
			}
			came <- e
		}()
		if got := <-said; got.Server != a || got.Watching != a || got.Over {
			t.Errorf("of %v it was told of %+v", servers, got)
		}
		backend.Confirm(backend.Age() + time.Hour)
		if got := <-said; got.Server != a || got.Watching != a || got.From != "the backend" || !got.Over {
			t.Errorf("of %v it was told of %+v", servers, got)
		}
		storetest.Register(t, r, storetest.Instance("web", "a1"))
		if e := <-came; e.Kind != client.Registered {
			t.Errorf("then came %+v", e)
		}
	}
}

// fickle is two servers that are always cut off when they are watched, and never
// when they are asked, unless they are stale then as well.
type fickle struct {
	stale          bool
	watched, asked atomic.Int64
}

// RoundTrip implements [http.RoundTripper].
func (f *fickle) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
	if req.Method == http.MethodHead {
		f.asked.Add(1)
		if f.stale {
			resp.Header.Set("Roster-Stale", "7")
		}
		return resp, nil
	}
	f.watched.Add(1)
	r, w := io.Pipe()
	go func() {
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		_, _ = io.WriteString(w, "retry: 1000\nid: 7\n\nevent: stale\ndata: {\"stale\":true}\n\n") // the reader may have gone
		for {
			select {
			case <-tick.C:
				_, _ = io.WriteString(w, ":\n\n") // here, too
			case <-req.Context().Done():
				w.CloseWithError(req.Context().Err())
				return
			}
		}
	}()
	resp.Body = r
	return resp, nil
}

// watch watches for 10 minutes, in which nothing happens, and returns what it was
// told of servers.
func (f *fickle) watch(t *testing.T) (said []client.Stale) {
	t.Helper()
	c := &client.Client{
		Servers: []string{"a:80", "b:80"}, HTTP: &http.Client{Transport: f},
		OnStale: func(s client.Stale) { said = append(said, s) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		for e, err := range c.Watch(ctx, "") {
			t.Errorf("it was told of %v, %v", e, err)
		}
	})
	storetest.Advance(10 * time.Minute)
	cancel()
	watching.Wait()
	return said
}

// Between two servers that it would leave at once it goes to and fro ever slower.
func TestWatchDoesNotFlap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fickle{}
		said := f.watch(t)
		if n := f.watched.Load(); n < 100 || n > 300 || f.asked.Load() > n || int64(len(said)) != n-1 {
			t.Errorf("in 10 minutes it watched %d times, asked %d times, and told of %d moves", n, f.asked.Load(), len(said))
		}
	})
}

// Where all are cut off for long, it stays, says so once, and asks the others ever
// slower.
func TestWatchStaysForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &fickle{stale: true}
		said := f.watch(t)
		if n := f.asked.Load(); n < 100 || n > 300 || f.watched.Load() != 1 {
			t.Errorf("in 10 minutes it watched %d times and asked %d times", f.watched.Load(), n)
		}
		if want := []client.Stale{{Server: "http://a:80", Watching: "http://a:80"}}; !reflect.DeepEqual(said, want) {
			t.Errorf("it was told of %+v, want %+v", said, want)
		}
	})
}
