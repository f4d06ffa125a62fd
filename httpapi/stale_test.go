package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// sharedAPI is an API over a registry that servers share.
type sharedAPI struct {
	api
	server *httpapi.Server
}

func newSharedAPI(t *testing.T, confirmed time.Duration) (*storetest.Shared, sharedAPI) {
	t.Helper()
	b := &storetest.Shared{Confirmed: confirmed}
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	t.Cleanup(done)
	s := httpapi.NewOfflineWith(r, httpapi.Config{Backend: "etcd"})
	return b, sharedAPI{api{r, s.Handler()}, s}
}

// says fails the test where a problem does not have a text in its detail.
func (r reply) says(t *testing.T, want string) {
	t.Helper()
	if detail, _ := r.json["detail"].(string); !strings.Contains(detail, want) {
		t.Errorf("the detail is %q, want %q in it", detail, want)
	}
}

func TestReadyWhileStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Second)
		a.want(t, 201, "PUT "+web+"a1", `{}`)
		a.want(t, 200, "GET /readyz", "")
		storetest.Advance(13500 * time.Millisecond)
		a.want(t, 503, "GET /readyz", "").says(t, "cut off from etcd for 12s")
		a.want(t, 200, "GET /healthz", "")
		a.want(t, 200, "GET /v1/services/web", "")
		b.Confirm(a.Age() + time.Second)
		a.want(t, 200, "GET /readyz", "")
	})
}

// Whatever is read from a stale registry says since when it is so, also that
// nothing is there; what is no state of the registry does not.
func TestStaleReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Second)
		a.want(t, 201, "PUT "+web+"a1", `{"permanent":true}`)
		tag := a.want(t, 200, "GET /v1/services/web", "").header.Get("ETag")
		reads := map[string]int{
			"GET /v1/services": 200, "GET /v1/services/web": 200, "GET " + web + "a1": 200, "GET /v1/prometheus": 200, "GET /services": 200,
			"GET /v1/services/web?after=0&wait=5s": 200, "GET /v1/services?after=0&wait=5s": 200, "HEAD /v1/services/web": 200, "HEAD /v1/events": 200,
			"GET /v1/services/db": 404, "GET " + web + "a2": 404, "GET /v1/services/web If-None-Match: " + tag: 304,
		}
		others := map[string]int{"GET /healthz": 200, "GET /openapi.yaml": 200, "GET /nowhere": 404, "POST /v1/services": 405, "PUT " + web + "a9": 400}
		look := func(want string, requests map[string]int) {
			t.Helper()
			for request, status := range requests {
				request, header, _ := strings.Cut(request, " If")
				w := a.raw(request, "If"+header)
				if got := strings.Join(w.Header()["Roster-Stale"], ", "); w.Code != status || got != want {
					t.Errorf("%s: %d with Roster-Stale %q, want %d with %q", request, w.Code, got, status, want)
				}
			}
		}
		look("", reads)
		storetest.Advance(13500 * time.Millisecond)
		look("12", reads)
		look("", others)
		storetest.Advance(time.Hour) // DNS says SERVFAIL by now
		look("3612", reads)
		b.Confirm(a.Age() + time.Second)
		look("", reads)
		storetest.Advance(time.Second + 1) // stale for no whole second
		look("0", reads)
	})
}

// raw sends a request with one header, and takes any answer.
func (a api) raw(request, header string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(request, " ")
	req := httptest.NewRequest(method, path, strings.NewReader(""))
	if name, value, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, req)
	return w
}

// Of a GET that waits counts how it is when it is answered.
func TestStaleWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, 3*time.Second)
		a.want(t, 201, "PUT "+web+"a1", `{"permanent":true}`)
		path := fmt.Sprintf("/v1/services/web?after=%d&wait=5s", a.Revision())
		q := a.ask(t, path)
		storetest.Advance(5 * time.Second)
		if got := q.header.Get("Roster-Stale"); !q.done() || got != "2" {
			t.Errorf("it became stale meanwhile, and says %q", got)
		}
		q = a.ask(t, path)
		b.Confirm(a.Age() + time.Minute)
		storetest.Advance(5 * time.Second)
		if got := q.header.Values("Roster-Stale"); !q.done() || len(got) != 0 {
			t.Errorf("it was confirmed meanwhile, and says %q", got)
		}
		// A list may wait for room.
		storetest.Advance(54500 * time.Millisecond)
		for k := range 100 {
			storetest.Register(t, a.Registry, storetest.Instance("web", fmt.Sprint(k)))
		}
		leave := httpapi.TakeAllRoom(a.server)
		q = a.ask(t, "/v1/services/web")
		storetest.Advance(2 * time.Second)
		leave()
		synctest.Wait()
		if got := q.header.Get("Roster-Stale"); !q.done() || q.status != 200 || got != "1" {
			t.Errorf("it became stale while the list waited for room: %d %q", q.status, got)
		}
	})
}

// Streams are told when the registry becomes stale, and when it no longer is, and
// whoever begins while it is so is told then. It costs no place in the stream: a
// client resumes after the last change.
func TestStaleStreams(t *testing.T) {
	b := &storetest.Shared{Confirmed: 1}
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	s := serveWith(t, r, httpapi.Config{Backend: "etcd"})
	eventually(t, "it is stale", func() bool { stale, _ := r.Staleness(); return stale })
	stale := func(want bool, streams ...*stream) {
		t.Helper()
		for _, c := range streams {
			if data, _ := c.want(t, "stale"); data["stale"] != want || want != (data["backend"] == "etcd") {
				t.Fatalf("it says %v, want stale to be %t", data, want)
			}
		}
	}
	at := storetest.Register(t, r, port("web", "a1", 1)).Revision
	all, one, other := watch(t, s, "", ""), watch(t, s, "?service=web", ""), watch(t, s, "?service=db", "")
	for _, c := range []*stream{all, one, other} {
		c.want(t, "reset")
		if c.head.Get("Roster-Stale") == "" {
			t.Error("the head of a stream does not say that it is stale")
		}
	}
	resumed := watch(t, s, "", fmt.Sprint(uint64(at-1)))
	resumed.want(t, "register")
	upToDate := watch(t, s, "", fmt.Sprint(uint64(at)))
	streams := []*stream{all, one, other, resumed, upToDate}
	stale(true, streams...)
	if upToDate.last != at {
		t.Errorf("the event that began it has the id %d, want that of the last change, %d", upToDate.last, at)
	}
	waits := make(chan *http.Response, 1) // and is not ended by any of this
	go func() {
		resp, err := http.Get(fmt.Sprintf("http://%s/v1/services/web?after=%d&wait=5m", s.Addr(), at))
		if err != nil {
			t.Error(err)
		}
		waits <- resp
	}()
	eventually(t, "it waits", func() bool { return s.Watchers() == len(streams)+1 })
	b.Confirm(b.Age() + 2*time.Second)
	stale(false, streams...)
	stale(true, streams...)
	b.Confirm(b.Age() + time.Hour)
	stale(false, streams...)
	later := watch(t, s, "?service=web", "")
	later.want(t, "reset")
	at = storetest.Register(t, r, port("web", "a1", 2)).Revision
	for _, c := range []*stream{all, one, resumed, upToDate, later} {
		c.want(t, "update")
	}
	if got := later.head.Values("Roster-Stale"); len(got) != 0 {
		t.Errorf("confirmed again, the head of a stream has %q", got)
	}
	if resp := <-waits; resp != nil {
		defer resp.Body.Close()
		var list struct{ Revision store.Revision }
		err := json.NewDecoder(resp.Body).Decode(&list)
		if got := resp.Header.Values("Roster-Stale"); err != nil || list.Revision != at || len(got) != 0 {
			t.Errorf("the GET was answered at %d (%v) with %q, want %d and that it is fresh", list.Revision, err, got, at)
		}
	}
}

// A stream over a connection that cannot be taken over is told the same, among
// changes.
func TestStaleStreamAmongChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		w := httptest.NewRecorder()
		var watching sync.WaitGroup
		watching.Go(func() {
			a.handler.ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx))
		})
		for k := range 10 {
			storetest.Advance(200 * time.Millisecond)
			storetest.Register(t, a.Registry, port("web", "a1", k))
		}
		b.Confirm(a.Age() + time.Minute)
		storetest.Advance(30 * time.Second)
		cancel()
		watching.Wait()
		const told = "event: stale\ndata: {\"stale\":true,\"backend\":\"etcd\"}\n\n"
		if text := w.Body.String(); strings.Count(text, "event: stale\n") != 2 || !strings.Contains(text, told) || !strings.Contains(text, "event: stale\ndata: {\"stale\":false}\n\n") {
			t.Errorf("the stream was\n%s", text)
		}
	})
}

// The leases of a batch are made known together, and only who is there then is
// renewed.
func TestSharedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Hour)
		for _, id := range []string{"a1", "a2", "Host:80"} {
			a.want(t, 201, "PUT "+web+id, `{}`)
		}
		a.want(t, 201, "PUT "+web+"p", `{"permanent":true}`)
		storetest.Advance(10 * time.Second)
		var known [][]store.Renewal
		b.OnRenew = func(ctx context.Context, leases []store.Renewal) error {
			known = append(known, append([]store.Renewal(nil), leases...))
			storetest.Advance(5 * time.Second) // it takes its time
			_, err := a.Deregister(ctx, "web", "a2")
			return err
		}
		a.want(t, 200, "POST /v1/heartbeats", batchOf("a1", "a2", "nobody", "Host:80", "p")).
			same(t, "results", []any{"renewed", "unknown", "unknown", "renewed", "renewed"})
		if len(known) != 1 || len(known[0]) != 3 {
			t.Fatalf("made known was %v, want three leases at once", known)
		}
		for k, label := range []string{"a1", "a2"} {
			if l := known[0][k]; l.Service != "web" || l.Label != label || l.End != a.Now().Add(25*time.Second) {
				t.Errorf("made known was %v at %v", l, a.Now())
			}
		}
		// No lease lasts for longer here than the others know.
		for m := range a.Service("web").Members(a.Now()) {
			if end := m.Lease.End(); end != store.Never && end != known[0][0].End {
				t.Errorf("%s lasts until %v, known is %v", m.Label, end, known[0][0].End)
			}
		}
		// Who is unknown here may have been registered elsewhere just now.
		b.OnRenew = func(context.Context, []store.Renewal) error {
			storetest.Register(t, a.Registry, storetest.Instance("web", "new"))
			return nil
		}
		a.want(t, 200, "POST /v1/heartbeats", batchOf("new")).same(t, "results", []any{"renewed"})
		b.OnRenew = func(context.Context, []store.Renewal) error {
			return fmt.Errorf("etcd at 10.0.0.1:2379: %w", store.ErrNotDurable)
		}
		a.want(t, 503, "POST /v1/heartbeats", batchOf("a1")).says(t, "etcd at 10.0.0.1:2379: not stored durably; the leases may end: send the heartbeats again, here or to another server")
		a.want(t, 200, "POST /v1/heartbeats", batchOf())
	})
}

// Nobody is told that nothing has happened where that is not known.
func TestUnconfirmed(t *testing.T) {
	err := fmt.Errorf("register web/a1: etcd at 10.0.0.1:2379: %w", store.ErrUnconfirmed)
	if !errors.Is(err, store.ErrNotDurable) {
		t.Error("it is no ErrNotDurable")
	}
	status, detail := httpapi.ProblemOf(err)
	if status != 503 || strings.Contains(detail, "nothing") || !strings.Contains(detail, "here or at another server") {
		t.Errorf("got %d %s", status, detail)
	}
}

// A cut-off server sends those who write to another one; one that is alone does
// not.
func TestCutOffSendsElsewhere(t *testing.T) {
	for err, want := range map[error]string{
		store.ErrCutOff:     "not stored durably; nothing was changed: send it to another server, or try again",
		store.ErrNotDurable: "not stored durably; nothing was changed: try again",
	} {
		status, detail := httpapi.ProblemOf(fmt.Errorf("register web/a1: %w", err))
		if status != 503 || detail != "register web/a1: "+want {
			t.Errorf("got %d %s, want %s", status, detail, want)
		}
	}
}
