package httpapi_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// batchOf is the body of a batch of heartbeats of web's instances.
func batchOf(ids ...string) string {
	var items []string
	for _, id := range ids {
		items = append(items, fmt.Sprintf(`{"service":"web","id":%q}`, id))
	}
	return `{"instances":[` + strings.Join(items, ",") + `]}`
}

func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		for _, id := range []string{"a1", "Host:80", "late"} {
			a.want(t, 201, "PUT "+web+id, `{}`)
		}
		at := a.Revision()
		batch := func(body string, want ...any) {
			t.Helper()
			a.want(t, 200, "POST /v1/heartbeats", body).same(t, "results", append([]any{}, want...))
		}
		for range 3 {
			storetest.Advance(20 * time.Second)
			batch(batchOf("Host:80", "nobody", "a1", "a1"), "renewed", "unknown", "renewed", "renewed")
		}
		batch(batchOf("late"), "unknown")
		batch(`{"instances":[]}`)
		// What the quick reader leaves to the other one.
		batch(`{"instances":[{"id":"a\u0031","service":"WEB"},{"id":"ü","service":"web"},{"id":"","service":""}]}`, "renewed", "unknown", "unknown")
		if got := a.Revision(); got != at+1 { // late has ended
			t.Errorf("the revision moved by %d, want 1", got-at)
		}
		storetest.Advance(30 * time.Second)
		batch(batchOf("a1", "Host:80"), "unknown", "unknown")
	})
}

func TestBatchRefuses(t *testing.T) {
	a := newAPI(t, store.Config{})
	a.want(t, 201, "PUT "+web+"a1", `{}`)
	for _, c := range []struct {
		body   string
		status int
		field  any
		detail string
	}{
		{``, 400, nil, "the body is empty"},
		{`null`, 400, nil, "null"},
		{`[]`, 400, nil, "a JSON object"},
		{`{}`, 400, "instances", "missing"},
		{`{"instances":{}}`, 400, "instances", ""},
		{`{"instances":null}`, 400, "instances", ""},
		{`{"instances":[]} x`, 400, nil, ""},
		{`{"instances":[],"x":1}`, 400, "x", "there is no such field"},
		{`{"instances":[{"service":"web","id":"a1"},{"service":"web","id":"a1","ttl":5}]}`, 400, "instances[1].ttl", "there is no such field; allowed: id, service"},
		{`{"instances":[{"service":"web","id":"a1"},7]}`, 400, "instances[1]", "7"},
		{`{"instances":[{"service":"web"}]}`, 400, "instances[0].id", "missing"},
		{`{"instances":[{"id":"a1"}]}`, 400, "instances[0].service", "missing"},
		{`{"instances":[{"service":"web","id":7}]}`, 400, "instances[0].id", "7"},
		{`{"instances":[{"service":"web","id":"a1","id":"a1"}]}`, 400, "instances[0].id", "twice"},
		{"{\"instances\":[\xff]}", 400, nil, "UTF-8"},
		{batchOf(slices.Repeat([]string{"a1"}, 10_001)...), 413, nil, "10000"},
		{`{"instances":[` + strings.Repeat(" ", 4<<20) + `]}`, 413, nil, "4194304 octets"},
	} {
		r := a.want(t, c.status, "POST /v1/heartbeats", c.body)
		r.same(t, "field", c.field)
		if detail, _ := r.json["detail"].(string); !strings.Contains(detail, c.detail) {
			t.Errorf("%.80s: detail %q, want %q in it", c.body, detail, c.detail)
		}
	}
	a.want(t, 200, "POST /v1/heartbeats", batchOf(slices.Repeat([]string{"a1"}, 10_000)...))
	a.want(t, 415, "POST /v1/heartbeats", batchOf("a1"), "Content-Type: text/plain")
	a.want(t, 400, "POST /v1/heartbeats?x=1", batchOf("a1"))
	a.want(t, 405, "GET /v1/heartbeats", "")
}

// What comes after the first bad item, or after one too many, is not looked at.
func TestBatchStopsEarly(t *testing.T) {
	a := newAPI(t, store.Config{})
	escaped := `{"service":"web","id":"\u0061"}` // not for the quick reader
	for _, c := range []struct {
		body   string
		status int
		field  any
	}{
		{`{"instances":[0` + strings.Repeat(",0", 1<<20) + `]}`, 400, "instances[0]"},
		{`{"instances":[` + escaped + `,[],!`, 400, "instances[1]"},
		{`{"instances":[` + strings.Repeat(escaped+",", 10_001) + `!`, 413, nil},
		{`{"instances":[` + escaped + `,!`, 400, nil},
		{`{"instances":[` + escaped, 400, nil},
		{`{"instances":[` + escaped + `}`, 400, nil},
		{`{"instances" : "[]"}`, 400, "instances"},
		{`{"instances" "[]"}`, 400, nil},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a.want(t, c.status, "POST /v1/heartbeats", c.body).same(t, "field", c.field)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 24<<20 {
			t.Errorf("%.60s: it took %d octets", c.body, n)
		}
	}
}

// Batches that promise much and send little take little, and of large ones
// only so many are read at once. Small ones go on.
func TestLargeBatchesAreBounded(t *testing.T) {
	const most = 64
	a := newAPI(t, store.Config{})
	large := func(body io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/v1/heartbeats", body)
		r.ContentLength = 4 << 20
		w := httptest.NewRecorder()
		a.handler.ServeHTTP(w, r)
		return w
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var ends []*io.PipeWriter
	var under sync.WaitGroup
	for range most {
		body, end := io.Pipe()
		ends = append(ends, end)
		under.Go(func() {
			if w := large(body); w.Code != 200 {
				t.Errorf("a large batch: %d %s", w.Code, w.Body)
			}
		})
		fmt.Fprint(end, "{") // it returns when that was read
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d batches of one octet each took %d octets", most, n)
	}
	if w := large(strings.NewReader("{")); w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("one too many: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	a.want(t, 200, "POST /v1/heartbeats", batchOf("a1"))
	for _, end := range ends {
		fmt.Fprint(end, `"instances":[]}`)
		end.Close()
	}
	under.Wait()
	if w := large(strings.NewReader(`{"instances":[]}`)); w.Code != 200 {
		t.Errorf("when they have ended: %d %s", w.Code, w.Body)
	}
}

// A heartbeat that brings a weight says which one is in force.
func TestHeartbeatWithWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		a.want(t, 201, "PUT "+web+"a1", `{}`)
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"weight": 10}`).same(t, "weight", 10.0)
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"weight": 20}`).same(t, "weight", 20.0)
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"weight": 30}`).same(t, "weight", 20.0)
		storetest.Advance(time.Second)
		a.want(t, 200, "GET "+web+"a1", "").same(t, "weight", 30.0)
		a.want(t, 200, "PUT "+web+"a1/heartbeat", "").same(t, "weight", nil)
	})
}
