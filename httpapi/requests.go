package httpapi

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rosterdns/roster/store"
)

// This file counts requests: by route, method and status, and how long they
// took. Everything is there before the first request comes, so that counting
// one is a few additions.

// requests has the counts of every route.
type requests struct {
	mu     sync.Mutex
	routes map[string]*routeCounts // guarded by mu
}

// routeCounts are those of one route.
type routeCounts struct {
	cells [len(countedMethods)][len(countedStatuses)]atomic.Uint64
	took  *store.Histogram // in nanoseconds
}

// What is counted by itself; index 0 is for all else.
var (
	countedMethods  = [...]string{"other", http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead}
	countedStatuses = [...]int{0, 200, 201, 304, 400, 401, 403, 404, 405, 409, 412, 413, 415, 429, 431, 500, 503}
)

// elsewhere is the route of requests that no route takes.
const elsewhere = "other"

// of returns the counts of a route.
func (q *requests) of(route string) *routeCounts {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.routes == nil {
		q.routes = map[string]*routeCounts{}
	}
	c := q.routes[route]
	if c == nil {
		const ms = int64(time.Millisecond)
		c = &routeCounts{took: store.NewHistogram(ms/4, ms/2, ms, 5*ms/2, 5*ms, 10*ms, 25*ms, 50*ms,
			100*ms, 250*ms, 500*ms, 1000*ms, 2500*ms, 5000*ms, 10000*ms)}
		q.routes[route] = c
	}
	return c
}

func (c *routeCounts) count(method string, status int, took time.Duration) {
	m := max(slices.Index(countedMethods[:], method), 0)
	s := max(slices.Index(countedStatuses[:], status), 0)
	c.cells[m][s].Add(1)
	c.took.Count(int64(took))
}

// counted is a route's handlers, whose requests are counted.
type counted struct {
	methods http.Handler
	counts  *routeCounts
}

// counted returns h with its requests counted as the route's.
func (s *Server) counted(route string, h http.Handler) *counted {
	return &counted{h, s.requests.of(route)}
}

// ServeHTTP implements [http.Handler].
func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec, ok := w.(*recorder) // the access log's
	if !ok {
		rec = &recorder{ResponseWriter: w, status: http.StatusOK}
	}
	begin := time.Now()
	c.methods.ServeHTTP(rec, r)
	c.counts.count(r.Method, rec.status, time.Since(begin))
}

// RequestCount is how many requests of one kind there have been.
type RequestCount struct {
	Route  string // the path's pattern, "other" for what no route takes
	Method string // "other" for the rare ones
	Status int    // 0 for the rare ones
	N      uint64
}

// RouteTime is how long a route's requests have taken, in nanoseconds. For a
// watch that is until it was taken over from net/http, where it was.
type RouteTime struct {
	Route string
	Took  store.Distribution
}

// Requests returns how many requests there have been and how long they took,
// sorted, without those kinds that there were none of. It may be called at any
// time.
func (s *Server) Requests() (counts []RequestCount, times []RouteTime) {
	s.requests.mu.Lock()
	defer s.requests.mu.Unlock()
	for route, c := range s.requests.routes {
		before := len(counts)
		for m := range c.cells {
			for k := range c.cells[m] {
				if n := c.cells[m][k].Load(); n > 0 {
					counts = append(counts, RequestCount{route, countedMethods[m], countedStatuses[k], n})
				}
			}
		}
		if len(counts) > before {
			times = append(times, RouteTime{route, c.took.Read()})
		}
	}
	slices.SortStableFunc(counts, func(a, b RequestCount) int { return cmp.Compare(a.Route, b.Route) })
	slices.SortFunc(times, func(a, b RouteTime) int { return cmp.Compare(a.Route, b.Route) })
	return counts, times
}
