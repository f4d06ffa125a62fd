//go:build !race

package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// What every request passes costs no allocation where the client sends an ID,
// and two small ones for an ID that is made.
func TestAccessAllocates(t *testing.T) {
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	h := httpapi.Access(httpapi.NewOffline(r), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w := discard{http.Header{}}
	for id, most := range map[string]float64{"": 2, "0f8fad5b-d9cb-469f-a165-70867728950e": 0} {
		req := httptest.NewRequest(http.MethodPut, web+"a1/heartbeat", nil)
		if id != "" {
			req.Header.Set("X-Request-Id", id)
		}
		if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, req) }); n > most {
			t.Errorf("with the ID %q: %v allocations, want %v", id, n, most)
		}
	}
}

// Nor does a look at the host.
func TestOwnNameAllocates(t *testing.T) {
	for _, host := range []string{"127.0.0.1:8054", "[::1]:8054", "localhost:8054", "a.localhost"} {
		if n := testing.AllocsPerRun(100, func() { httpapi.IsOwnName(host) }); n > 0 {
			t.Errorf("%s: %v allocations", host, n)
		}
	}
}

// While the registry is fresh, to look whether it is stale costs an answer nothing.
func TestFreshAllocates(t *testing.T) {
	b := &storetest.Shared{}
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	s, h := httpapi.NewOffline(r), http.Header{}
	if n := testing.AllocsPerRun(100, func() { httpapi.MarkStale(s, h) }); n > 0 || len(h) > 0 {
		t.Errorf("%v allocations, and the header is %v", n, h)
	}
}
