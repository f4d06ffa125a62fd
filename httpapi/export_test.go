package httpapi

import (
	"context"
	"net"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/rosterdns/roster/store"
)

// NewOffline returns a server without a listener.
func NewOffline(r *store.Registry) *Server { return NewOfflineWith(r, Config{}) }

// NewOfflineWith returns a server without a listener that has more to its
// configuration than the registry.
func NewOfflineWith(r *store.Registry, cfg Config) *Server {
	cfg.Registry = r
	cfg.Name = func(i *store.Instance) string { return i.Label + "." + i.Service + ".service." }
	s := newServer(cfg.withDefaults())
	s.ready.Store(true)
	return s
}

// ParseInstance reads a registration's body as register does.
func ParseInstance(b []byte, i *store.Instance) error { return parseInstance(b, i) }

// GrantOf returns the grant that a handler sees.
func GrantOf(s *Server, r *http.Request) *Grant { return s.grant(r) }

// CountedClients returns for how many clients unknown tokens are counted.
func (s *Server) CountedClients() int {
	s.attempts.mu.Lock()
	defer s.attempts.mu.Unlock()
	return len(s.attempts.by)
}

// Access is the outermost middleware around a handler.
func Access(s *Server, next http.Handler) http.Handler { return s.access(next) }

// CutToken takes the token out of a query.
func CutToken(query string) (rest, token string, found bool) { return cutToken(query) }

// ScanBatch reads the plain form of a batch of heartbeats: service and ID of
// each item, and whether it is the plain form.
func ScanBatch(b []byte) ([][2]string, bool) {
	items, ok := scanBatch(b, nil)
	return names(items), ok
}

// ParseBatch reads any batch of heartbeats.
func ParseBatch(b []byte) ([][2]string, error) {
	items, err := parseBatch(b, nil)
	return names(items), err
}

func names(items []batchItem) [][2]string {
	var list [][2]string
	for _, i := range items {
		list = append(list, [2]string{string(i.service), string(i.id)})
	}
	return list
}

// Thrifty wraps a connection as those of the server are.
func Thrifty(c net.Conn) net.Conn { return &thriftyConn{Conn: c} }

// Routes returns the methods of every path that the server has.
func Routes(s *Server) map[string][]string {
	routes := map[string][]string{}
	router, _ := s.router()
	_ = router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		list, ok := r.GetHandler().(*counted).methods.(methods)
		if !ok { // DNS over HTTPS, which is one handler
			list = methods{http.MethodGet: nil, http.MethodPost: nil}
		}
		for method := range list {
			routes[path] = append(routes[path], method)
		}
		return nil
	})
	return routes
}

// Counted is the counter of requests around a handler.
func Counted(s *Server, h http.Handler) http.Handler { return s.counted("/", h) }

// IsOwnName reports whether a server on loopback answers to a name.
func IsOwnName(host string) bool { return isOwnName(host) }

// TakeAllRoom takes all the room that lists have, until leave is called.
func TakeAllRoom(s *Server) (leave func()) {
	leave, err := s.lists.take(context.Background(), allEntries)
	if err != nil {
		panic(err)
	}
	return leave
}

// ProblemOf returns the status and the detail that an error gets.
func ProblemOf(err error) (status int, detail string) {
	d := documentOf(err)
	return d.Status, d.Detail
}

// MarkStale marks an answer where the registry is stale.
func MarkStale(s *Server, h http.Header) { s.markStale(h) }
