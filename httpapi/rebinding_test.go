package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// listening is an API with a socket, and what answers a request to a host.
func listening(t *testing.T, cfg httpapi.Config) (ask func(request, host string) *httptest.ResponseRecorder) {
	t.Helper()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	cfg.Registry = r
	cfg.Name = func(i *store.Instance) string { return i.ID }
	s, err := httpapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := s.Handler()
	return func(request, host string) *httptest.ResponseRecorder {
		method, path, _ := strings.Cut(request, " ")
		req := httptest.NewRequest(method, path, nil)
		req.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
}

// A page whose name leads to a loopback address gets nothing there, whatever
// path it asks for.
func TestRebinding(t *testing.T) {
	t.Parallel()
	requests := []string{"GET /v1/services", "PUT " + web + "a1/heartbeat", "GET /healthz"}
	ask := listening(t, httpapi.Config{})
	for host, allowed := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8054": true, "[::1]": true, "[::1]:8054": true, "10.0.0.1:80": true, "": true,
		"localhost": true, "LocalHost:8054": true, "localhost.": true, "roster.localhost:8054": true,
		"evil.example": false, "evil.example:8054": false, "127.0.0.1.evil.example": false, "evillocalhost": false,
		"localhost.evil.example": false, ":80": false, ".": false, ".localhost": false, "x": false, "[::1].evil.example:80": false,
	} {
		for _, request := range requests {
			w := ask(request, host)
			if allowed && w.Code != http.StatusOK || !allowed && (w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "--tokens")) {
				t.Errorf("%s to %q: %d %s, allowed: %v", request, host, w.Code, w.Body, allowed)
			}
		}
	}
	// With rights, or where others come as well, the name is nobody's business.
	rights := team(t, both)
	for _, cfg := range []httpapi.Config{{Rights: func() *httpapi.Rights { return rights }}, {Listen: "0.0.0.0:0"}} {
		ask := listening(t, cfg)
		for _, request := range requests {
			if w := ask(request, "roster.example:8054"); w.Code != http.StatusOK {
				t.Errorf("on %q: %s: %d %s", cfg.Listen, request, w.Code, w.Body)
			}
		}
	}
}
