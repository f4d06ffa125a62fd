package httpapi_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func addresses(list ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	a := newAPI(t, store.Config{})
	made := regexp.MustCompile(`^[0-9a-f]{10}-[0-9]+$`)
	seen := map[string]bool{}
	for _, request := range []string{"GET /v1/services", "GET /v1/services", "GET /nowhere", "PATCH /v1/services", "PUT " + web + "a1", "POST /register"} {
		id := a.do(t, request, "").header.Get("X-Request-Id")
		if !made.MatchString(id) || seen[id] {
			t.Errorf("%s: the ID is %q", request, id)
		}
		seen[id] = true
	}
	for _, id := range []string{"a", "0f8fad5b-d9cb-469f-a165-70867728950e", "Root=1-67891233-abcdef012345678912345678", strings.Repeat("x", 128)} {
		if got := a.do(t, "GET /nowhere", "", "X-Request-Id: "+id).header.Get("X-Request-Id"); got != id {
			t.Errorf("%q came back as %q", id, got)
		}
	}
	for _, id := range []string{"a b", "a\x00", `a"b`, "é", "<script>", strings.Repeat("x", 129)} {
		if got := a.do(t, "GET /nowhere", "", "X-Request-Id: "+id).header.Get("X-Request-Id"); !made.MatchString(got) {
			t.Errorf("%q came back as %q", id, got)
		}
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetFormatter(&logrus.JSONFormatter{})
	h := httpapi.NewOfflineWith(r, httpapi.Config{Log: log}).Handler()
	a := api{r, h}
	a.want(t, 200, "GET /v1/services", "")
	if out.Len() != 0 {
		t.Errorf("at info level it logs %s", out.String())
	}
	log.SetLevel(logrus.DebugLevel)
	reply := a.want(t, 404, "GET /v1/services/none?tag=a%0Ab&token=x", "", "X-Request-Id: r1")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	for field, want := range map[string]any{
		"method": "GET", "path": "/v1/services/none?tag=a%0Ab", "status": 404.0, "bytes": float64(len(reply.text)),
		"peer": "192.0.2.7:4711", "request": "r1", "level": "debug", "token": nil,
	} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	if d, _ := line["duration"].(string); !regexp.MustCompile(`^[0-9.]+[nµm]?s$`).MatchString(d) {
		t.Errorf("duration %v", line["duration"])
	}
}

// A handler can flush and set deadlines under the log as without it.
func TestAccessLogPassesThrough(t *testing.T) {
	t.Parallel()
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.DebugLevel)
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, ok := w.(http.Flusher); !ok {
			t.Error("it is no Flusher")
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})
	w := httptest.NewRecorder()
	httpapi.Access(httpapi.NewOfflineWith(r, httpapi.Config{Log: log}), inner).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if !w.Flushed {
		t.Error("nothing was flushed")
	}
}

// discard is a response that goes nowhere and costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkAccess is what the middleware costs each request at info level.
func BenchmarkAccess(b *testing.B) {
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	h := httpapi.Access(httpapi.NewOffline(r), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, id := range map[string]string{"made": "", "given": "0f8fad5b-d9cb-469f-a165-70867728950e"} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodPut, web+"a1/heartbeat", nil)
			if id != "" {
				req.Header.Set("X-Request-Id", id)
			}
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, req)
			}
		})
	}
}

// BenchmarkGuard is a heartbeat with and without rights.
func BenchmarkGuard(b *testing.B) {
	for name, rights := range map[string]func() *httpapi.Rights{"none": nil, "token": nil} {
		b.Run(name, func(b *testing.B) {
			r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			if name == "token" {
				g, err := httpapi.NewRights(httpapi.RightsConfig{Grants: []httpapi.Grant{grant("web", "web-token", both, []string{"web"})}})
				if err != nil {
					b.Fatal(err)
				}
				rights = func() *httpapi.Rights { return g }
			}
			i := &store.Instance{Service: "web", ID: "a1", Addresses: addresses("10.1.0.1"), TTL: store.DefaultTTL}
			if _, err := r.Register(b.Context(), i, false); err != nil {
				b.Fatal(err)
			}
			h := httpapi.NewOfflineWith(r, httpapi.Config{Rights: rights}).Handler()
			req := httptest.NewRequest(http.MethodPut, web+"a1/heartbeat", http.NoBody)
			req.Header.Set("Authorization", "Bearer web-token")
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, req)
			}
		})
	}
}
