package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func memory(*testing.T) store.Backend { return store.NewMemory() }

// serve runs the real API over a registry until stop, or the test's end. addr
// is where, "" for any free port.
func serve(t *testing.T, r *store.Registry, addr string) (url string, stop func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := httpapi.New(httpapi.Config{
		Registry: r, Listen: addr, Log: log,
		Name: func(i *store.Instance) string { return i.Label + "." + i.Service + ".service." },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); g.Wait() })
	t.Cleanup(stop)
	return "http://" + s.Addr().String(), stop
}

// start runs a registry and its API.
func start(t *testing.T) (*store.Registry, *client.Client) {
	t.Helper()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	url, _ := serve(t, r, "")
	return r, &client.Client{Servers: []string{url}}
}

// network is the way to servers without sockets, for bubbles: each is the real
// API behind a host name, and may be out of reach.
type network struct {
	hosts map[string]*host
}

type host struct {
	handler  http.Handler
	away     atomic.Bool // connections are refused
	hangs    atomic.Bool // nothing comes back
	says     atomic.Int64
	requests atomic.Int64
	changes  atomic.Int64 // of which are registrations
}

// RoundTrip implements [http.RoundTripper].
func (n network) RoundTrip(req *http.Request) (*http.Response, error) {
	h := n.hosts[req.URL.Host]
	h.requests.Add(1)
	if h.hangs.Load() {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if h.away.Load() {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	if status := h.says.Load(); status != 0 {
		w.WriteHeader(int(status))
		return w.Result(), nil
	}
	if req.Method == http.MethodPost || req.Method == http.MethodPut && req.ContentLength > 40 {
		h.changes.Add(1)
	}
	req = req.Clone(req.Context())
	req.RemoteAddr = "192.0.2.7:4711"
	h.handler.ServeHTTP(w, req)
	w.Result().Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	return w.Result(), nil
}

// inBubble has a registry with two servers of its own, a and b, in fake time.
func inBubble(t *testing.T, f func(t *testing.T, r *store.Registry, c *client.Client, a, b *host)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		hosts := map[string]*host{}
		for _, name := range []string{"10.0.0.1:8054", "10.0.0.2:8054"} {
			s, err := httpapi.New(httpapi.Config{
				Registry: r, Listener: noListener{},
				Name: func(i *store.Instance) string { return i.Label + "." + i.Service + ".service." },
			})
			if err != nil {
				t.Fatal(err)
			}
			hosts[name] = &host{handler: s.Handler()}
		}
		c := &client.Client{
			Servers: []string{"10.0.0.1:8054", "http://10.0.0.2:8054/"},
			HTTP:    &http.Client{Transport: network{hosts}},
		}
		f(t, r, c, hosts["10.0.0.1:8054"], hosts["10.0.0.2:8054"])
	})
}
