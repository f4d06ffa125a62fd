package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// asked is a GET that may still wait for its answer.
type asked struct {
	reply
	at    time.Time     // when it was answered
	ended chan struct{} // closed when it was
}

func (q *asked) done() bool {
	select {
	case <-q.ended:
		return true
	default:
		return false
	}
}

// ask sends a GET that waits; it is for synctest bubbles.
func (a api) ask(t *testing.T, path string) *asked {
	t.Helper()
	q := &asked{ended: make(chan struct{})}
	go func() {
		defer close(q.ended)
		q.reply = a.do(t, "GET "+path, "")
		q.at = time.Now()
	}()
	synctest.Wait()
	return q
}

// A GET that waits is answered by the first change of its own result, and by
// nothing else.
func TestWaitEndsWithTheResult(t *testing.T) {
	change := func(request, body string) func(t *testing.T, a api) {
		return func(t *testing.T, a api) {
			t.Helper()
			if r := a.do(t, request, body); r.status >= 300 {
				t.Errorf("%s: %d %s", request, r.status, r.text)
			}
		}
	}
	const waits = "after=%d&wait=20s"
	for name, c := range map[string]struct {
		path   string
		change func(*testing.T, api)
		ends   bool
	}{
		"a registration":               {"/v1/services/web?" + waits, change("PUT "+web+"new", `{}`), true},
		"an update":                    {"/v1/services/web?" + waits, change("PUT "+web+"a1", `{"port":1}`), true},
		"a status":                     {"/v1/services/web?" + waits, change("PUT "+web+"a1/heartbeat", `{"status":"down"}`), true},
		"a deregistration":             {"/v1/services/web?" + waits, change("DELETE "+web+"a1", ""), true},
		"a drain":                      {"/v1/services/web?" + waits, change("DELETE "+web+"a1?drain=true", ""), true},
		"a lease's end":                {"/v1/services/web?" + waits, func(*testing.T, api) { storetest.Advance(5 * time.Second) }, true},
		"a heartbeat":                  {"/v1/services/web?" + waits, change("PUT "+web+"a1/heartbeat", ""), false},
		"a batch":                      {"/v1/services/web?" + waits, change("POST /v1/heartbeats", batchOf("a1")), false},
		"the same again":               {"/v1/services/web?" + waits, change("PUT "+web+"a1", `{"permanent":true,"tags":["v1"]}`), false},
		"another service":              {"/v1/services/web?" + waits, change("PUT /v1/services/db/instances/new", `{}`), false},
		"another tag":                  {"/v1/services/web?tag=v2&" + waits, change("PUT "+web+"new", `{"tags":["v1"]}`), false},
		"this tag":                     {"/v1/services/web?tag=v2&" + waits, change("PUT "+web+"new", `{"tags":["v2"]}`), true},
		"a tag that goes":              {"/v1/services/web?tag=v1&" + waits, change("PUT "+web+"a1", `{"tags":["v2"]}`), true},
		"another status":               {"/v1/services/web?status=down&" + waits, change("PUT "+web+"new", `{}`), false},
		"this status":                  {"/v1/services/web?status=down&" + waits, change("PUT "+web+"a1/heartbeat", `{"status":"down"}`), true},
		"a status that goes":           {"/v1/services/web?status=up&" + waits, change("PUT "+web+"a1/heartbeat", `{"status":"down"}`), true},
		"the first of a service":       {"/v1/services/new?" + waits, change("PUT /v1/services/new/instances/x", `{}`), true},
		"the name in capitals":         {"/v1/services/WEB?" + waits, change("PUT "+web+"new", `{}`), true},
		"all: a new service":           {"/v1/services?" + waits, change("PUT /v1/services/new/instances/x", `{}`), true},
		"all: another instance":        {"/v1/services?" + waits, change("PUT "+web+"new", `{}`), true},
		"all: one goes":                {"/v1/services?" + waits, change("DELETE "+web+"a1", ""), true},
		"all: a status":                {"/v1/services?" + waits, change("PUT "+web+"a1/heartbeat", `{"status":"down"}`), true},
		"all: a tag":                   {"/v1/services?" + waits, change("PUT "+web+"a1", `{"permanent":true,"tags":["v9"]}`), true},
		"all: a port":                  {"/v1/services?" + waits, change("PUT "+web+"a1", `{"permanent":true,"tags":["v1"],"port":1}`), false},
		"all: a weight":                {"/v1/services?" + waits, change("PUT "+web+"a1/heartbeat", `{"weight":1}`), false},
		"all: a heartbeat":             {"/v1/services?" + waits, change("PUT "+web+"a1/heartbeat", ""), false},
		"down: one that is up":         {"/v1/services?status=down&" + waits, change("PUT "+web+"new", `{"tags":["v9"]}`), false},
		"down: one that is down":       {"/v1/services?status=down&" + waits, change("PUT "+web+"a1/heartbeat", `{"status":"down"}`), true},
		"tag: one with another":        {"/v1/services?tag=v2&" + waits, change("PUT /v1/services/db/instances/new", `{"tags":["v3"]}`), false},
		"tag: one with it":             {"/v1/services?tag=v2&" + waits, change("PUT /v1/services/db/instances/new", `{"tags":["v2"]}`), true},
		"tag: a further one beside it": {"/v1/services?tag=v1&" + waits, change("PUT "+web+"new", `{"tags":["v9"]}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPI(t, store.Config{})
				a.want(t, 201, "PUT "+web+"a1", `{"permanent":true,"tags":["v1"]}`)
				a.want(t, 201, "PUT "+web+"short", `{"ttl":5}`)
				if name != "a lease's end" {
					a.want(t, 200, "PUT "+web+"short", `{"permanent":true}`)
				}
				begin := time.Now()
				q := a.ask(t, fmt.Sprintf(c.path, a.Revision()))
				if q.done() {
					t.Fatalf("it did not wait: %s", q.text)
				}
				c.change(t, a)
				synctest.Wait()
				if q.done() != c.ends {
					t.Errorf("after the change: answered %v, want %v", q.done(), c.ends)
				}
				storetest.Advance(20 * time.Second)
				if !q.done() || q.status != 200 || !c.ends && q.at.Sub(begin) != 20*time.Second {
					t.Fatalf("at the end of the wait: answered %v with %d after %v", q.done(), q.status, q.at.Sub(begin))
				}
				// The same question without waiting has the same answer.
				path, _, _ := strings.Cut(c.path, waits)
				if plain := a.do(t, "GET "+strings.TrimRight(path, "?&"), ""); plain.status == 200 && name != "a drain" {
					got, want := q.json, plain.json
					if !q.done() || fmt.Sprint(got["services"]) != fmt.Sprint(want["services"]) || len(q.ids("instances", "id")) != len(plain.ids("instances", "id")) {
						t.Errorf("got %v, want %v", got, want)
					}
					if q.header.Get("ETag") != plain.header.Get("ETag") && c.ends {
						t.Errorf("ETag %s, want %s", q.header.Get("ETag"), plain.header.Get("ETag"))
					}
				}
			})
		})
	}
}

// A GET whose result has changed already is answered at once, and a client
// that asks after each reply's revision sees every state.
func TestWaitFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{History: 16})
		at := 0.0
		ask := func(path string) *asked { return a.ask(t, fmt.Sprintf("%s&after=%.0f&wait=10s", path, at)) }
		revision := func(q *asked) {
			t.Helper()
			if !q.done() || q.status != 200 {
				t.Fatalf("answered %v, %d %s", q.done(), q.status, q.text)
			}
			at = q.json["revision"].(float64)
		}
		q := ask("/v1/services/web?") // nobody is there, and nothing was seen
		revision(q)
		if got := q.ids("instances", "id"); len(got) != 0 {
			t.Errorf("%q are there", got)
		}
		q = ask("/v1/services/web?")
		if q.done() {
			t.Fatal("answered without a change")
		}
		a.want(t, 201, "PUT "+web+"a1", `{"permanent":true}`)
		synctest.Wait()
		revision(q)
		if got := q.ids("instances", "id"); !slices.Equal(got, []string{"a1"}) {
			t.Errorf("got %q", got)
		}
		a.want(t, 200, "PUT "+web+"a1", `{"permanent":true,"port":1}`)
		revision(ask("/v1/services/web?"))
		// Others change more than the history holds: nothing of it is web's.
		for k := range 40 {
			a.do(t, "PUT /v1/services/db/instances/a1", fmt.Sprintf(`{"permanent":true,"port":%d}`, k))
		}
		if q = ask("/v1/services/web?"); q.done() {
			t.Error("answered without a change of web")
		}
		a.want(t, 200, "DELETE "+web+"a1", "")
		synctest.Wait()
		revision(q)
		if q = ask("/v1/services/web?"); q.done() {
			t.Error("answered without a change of what is not there")
		}
		storetest.Advance(10 * time.Second)
		revision(q)
		// Of another registry's life.
		at += 1000
		revision(ask("/v1/services/web?"))
		at = 0
		revision(ask("/v1/services?"))
		if q = ask("/v1/services?"); q.done() {
			t.Error("answered without a change of any")
		}
		storetest.Advance(10 * time.Second)
		revision(q)
	})
}

func TestWaitRefuses(t *testing.T) {
	a := newAPI(t, store.Config{})
	for query, want := range map[string]string{
		"after=1": "wait", "wait=1s": "after", "after=1&wait=0s": "wait", "after=1&wait=-1s": "wait", "after=1&wait=5": "wait",
		"after=x&wait=1s": "after", "after=-1&wait=1s": "after", "after=1&after=2&wait=1s": "after", "after=1&wait=1s&wait=2s": "wait",
	} {
		for _, path := range []string{"/v1/services?", "/v1/services/web?"} {
			r := a.want(t, 400, "GET "+path+query, "")
			if detail, _ := r.json["detail"].(string); !strings.Contains(detail, want) {
				t.Errorf("%s: %q, want %s in it", query, detail, want)
			}
		}
	}
	a.want(t, 400, "GET /v1/services/we.b?after=0&wait=1s", "").same(t, "field", "service")
	a.want(t, 200, "HEAD /v1/services/web?after=99999999999&wait=1m", "")
}

// The longest wait is bounded.
func TestLongestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		begin := time.Now()
		q := a.ask(t, fmt.Sprintf("/v1/services?after=%d&wait=24h", a.Revision()))
		storetest.Advance(24 * time.Hour)
		if !q.done() || q.at.Sub(begin) != 10*time.Minute {
			t.Errorf("answered after %v", q.at.Sub(begin))
		}
	})
}

// Over HTTP/2 there is no connection to be had, and all is the same.
func TestWatchHTTP2(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	srv := httptest.NewUnstartedServer(httpapi.NewOffline(r).Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func(path string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Error(err)
			return nil
		}
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
			t.Errorf("%s: %s %s", path, resp.Proto, resp.Status)
		}
		return resp
	}
	read := func(resp *http.Response, want string) {
		t.Helper()
		var got []byte
		b := make([]byte, 1000)
		for !bytes.Contains(got, []byte(want)) {
			n, err := resp.Body.Read(b)
			if got = append(got, b[:n]...); err != nil {
				t.Fatalf("%v after %q, want %q", err, got, want)
			}
		}
	}
	stream := get("/v1/events?service=web")
	defer stream.Body.Close()
	read(stream, "event: reset\n")
	var g sync.WaitGroup
	at := r.Revision()
	g.Go(func() {
		resp := get(fmt.Sprintf("/v1/services/web?after=%d&wait=1m", at))
		if resp == nil {
			return
		}
		defer resp.Body.Close()
		var list struct{ Instances []any }
		if b, err := io.ReadAll(resp.Body); err != nil || json.Unmarshal(b, &list) != nil || len(list.Instances) != 1 {
			t.Errorf("%s, %v", b, err)
		}
	})
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	read(stream, "event: register\n")
	g.Wait()
	cancel()
	for {
		if _, err := stream.Body.Read(make([]byte, 100)); err != nil {
			break
		}
	}
}
