package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// Every request is counted once, by its route and never by what is in its
// path.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		s := httpapi.NewOfflineWith(r, httpapi.Config{Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			storetest.Advance(30 * time.Millisecond)
		})})
		a := api{r, s.Handler()}
		if counts, times := s.Requests(); len(counts) != 0 || len(times) != 0 {
			t.Errorf("before the first: %v, %v", counts, times)
		}
		a.want(t, 201, "PUT "+web+"a1", "{}")
		a.want(t, 200, "PUT "+web+"a1/heartbeat", "")
		a.want(t, 200, "PUT "+web+"a1/heartbeat", "")
		a.want(t, 404, "PUT "+web+"a2/heartbeat", "")
		a.want(t, 405, "BREW /v1/services", "")
		a.want(t, 200, "HEAD /v1/services", "")
		a.want(t, 404, "GET /nowhere", "")
		a.want(t, 403, "POST /register", "{}", "Sec-Fetch-Site: cross-site")
		a.want(t, 200, "GET /metrics", "")
		counts, times := s.Requests()
		var got []string
		for _, c := range counts {
			got = append(got, fmt.Sprint(c.Route, " ", c.Method, " ", c.Status, " ", c.N))
		}
		want := []string{
			"/metrics GET 200 1",
			"/v1/services HEAD 200 1",
			"/v1/services other 405 1",
			"/v1/services/{service}/instances/{id} PUT 201 1",
			"/v1/services/{service}/instances/{id}/heartbeat PUT 200 2",
			"/v1/services/{service}/instances/{id}/heartbeat PUT 404 1",
			"other GET 404 1",
			"other POST 403 1",
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%q, want\n%q", got, want)
		}
		for _, one := range times {
			if n := total(one.Took); one.Route == "/metrics" && (n != 1 || one.Took.Sum != int64(30*time.Millisecond)) {
				t.Errorf("/metrics took %+v", one.Took)
			} else if one.Route == "/v1/services" && (n != 2 || one.Took.Cells[0] != 2) {
				t.Errorf("/v1/services took %+v", one.Took)
			}
		}
	})
}

func total(d store.Distribution) (n uint64) {
	for _, c := range d.Cells {
		n += c
	}
	return n
}

// BenchmarkCounted is what counting a request costs it.
func BenchmarkCounted(b *testing.B) {
	r, err := store.Open(b.Context(), store.NewMemory(), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	plain := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil) })
	for name, h := range map[string]http.Handler{"without": plain, "with": httpapi.Counted(httpapi.NewOffline(r), plain)} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodPut, web+"a1/heartbeat", nil)
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, req)
			}
		})
	}
}
