// Package httpapi is the HTTP side of a [store.Registry]: services register
// over it, keep themselves alive and are listed.
//
// The life of a request: server.go has the whole table of routes and the
// limits, access.go gives it an ID and logs it, guard.go holds it to the rights
// of who sends it (rights.go), body.go reads what was sent and names what is wrong with it,
// instances.go and lists.go do the work, seed.go is the API that roster began
// with, ui.go has the page for people, errors.go turns every error into a problem document (RFC 9457).
package httpapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
)

// Config is what a [Server] needs to know.
type Config struct {
	// Registry is what the API reads and changes. Required.
	Registry *store.Registry

	// Listen is the address, host:port; port 0 takes a free one. Default
	// 127.0.0.1:0.
	Listen string

	// Listener is one that is bound already, in place of Listen.
	Listener net.Listener

	// Backend is what the registry is cut off from while it is stale, as /readyz
	// then names it ([store.Registry.Stale]). Default "the backend".
	Backend string

	// DNS answers /dns-query, DNS over HTTPS (RFC 8484), to everybody. Default:
	// there is no such path.
	DNS http.Handler

	// Name returns an instance's name in DNS, the dns_name of replies.
	// Required.
	Name func(*store.Instance) string

	// TLS turns the address into HTTPS, with HTTP/2 where the client has it.
	// It is used as it is: what it lets in by client certificate, Rights
	// judge. Default: plain HTTP.
	TLS *tls.Config

	// Rights returns who may do what, as things are now, and never nil; it is
	// asked for each request. Default: everybody may do everything.
	Rights func() *Rights

	// CheckAllow is which addresses a check may be registered for.
	CheckAllow check.Allow

	// Metrics is what /metrics serves, to those who may read. Default: there
	// is no /metrics.
	Metrics http.Handler

	// Backup writes the store as it is at one moment to where /v1/backup is
	// read. Default: there is nothing to back up.
	Backup func(io.Writer) error

	// NoBackup tells those who ask for a backup what to do where there is no
	// Backup. Default: that there is nothing to back up.
	NoBackup string

	// UI has the page for people served at /ui/. Default: there is no such path.
	UI bool

	// DNSAddress is where the server answers DNS, host:port, for the page's dig
	// lines. Default: they ask the resolver of whoever runs them.
	DNSAddress string

	// MaxConns bounds the open connections, and MaxConnsPerClient those of one
	// client among them, an IPv4 address or IPv6 /64. Where more come, those go
	// that have waited for a request for the longest; where none does, the
	// newcomer. Defaults 32768, and a quarter of MaxConns.
	MaxConns, MaxConnsPerClient int

	// MaxWatchers bounds the watches that are open, streams of events and GETs
	// that wait: more get 503. Default 16384.
	MaxWatchers int

	// MaxWatchersPerClient does so for one client address: more get 429.
	// Default 4096.
	MaxWatchersPerClient int

	// Log gets what the operator should know. Default: the standard logger.
	Log logrus.FieldLogger
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Backend == "" {
		c.Backend = "the backend"
	}
	if c.MaxConns == 0 {
		c.MaxConns = 32768
	}
	if c.MaxConnsPerClient == 0 {
		c.MaxConnsPerClient = max(c.MaxConns/4, 1)
	}
	if c.MaxWatchers == 0 {
		c.MaxWatchers = 16384
	}
	if c.MaxWatchersPerClient == 0 {
		c.MaxWatchersPerClient = 4096
	}
	if c.NoBackup == "" {
		c.NoBackup = "this server's store keeps nothing that could be backed up (--store)"
	}
	if c.Log == nil {
		c.Log = logrus.StandardLogger()
	}
	return c
}

// The limits on what a client may send and how long it may take.
const (
	maxBody       = 64 << 10
	maxHeader     = 12 << 10 // net/http adds 4 KiB; 431 above
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTime      = 5 * time.Second
	freshTime     = 250 * time.Millisecond // at the end, for connections from which no request has come yet
)

// Server is the API on one listener.
type Server struct {
	cfg      Config
	registry *store.Registry
	listener net.Listener
	conns    *connections
	ready    atomic.Bool
	retiring atomic.Bool
	attempts attempts
	requests requests
	batches  sync.Pool // of *batch
	hub      *hub
	uiFiles  map[string]uiFile // by name; nil: no page
	judged   judged

	backingUp    sync.Mutex    // held by the one backup that is being taken
	largeBatches chan struct{} // one for each that is under way
	lists        room
}

// New binds the address, so that a port in use is known at once. Serve must
// follow, or Close.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.Listener != nil {
		s := newServer(cfg)
		s.listenOn(cfg.Listener)
		return s, nil
	}
	network := "tcp"
	if a, err := netip.ParseAddrPort(cfg.Listen); err == nil && a.Addr().Is4() {
		network = "tcp4" // or Go would take 0.0.0.0 for every IPv6 address as well
	}
	l, err := net.Listen(network, cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP (--http): %w", err)
	}
	s := newServer(cfg)
	s.listenOn(l)
	return s, nil
}

func (s *Server) listenOn(l net.Listener) {
	s.listener = l
	s.conns = newConnections(l, s.cfg.MaxConns, s.cfg.MaxConnsPerClient)
}

// newServer makes a server without a listener.
func newServer(cfg Config) *Server {
	s := &Server{cfg: cfg, registry: cfg.Registry, largeBatches: make(chan struct{}, maxLargeBatches), lists: newRoom()}
	s.hub = newHub(s.registry, cfg.MaxWatchers, cfg.MaxWatchersPerClient, s.words, s.staleness)
	s.judged.since(s.rights, s.registry.Revision) // which rights there were before, nobody knows
	if cfg.UI {
		s.uiFiles = readUI(cfg.DNSAddress)
	}
	return s
}

// Watchers returns how many watches are open.
func (s *Server) Watchers() int { return s.hub.count() }

// WatchersCut returns how many watches were cut because their clients did not
// keep up.
func (s *Server) WatchersCut() uint64 { return s.hub.cut.Load() }

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close releases the listener of a server that was never served.
func (s *Server) Close() error { return s.listener.Close() }

// Socket returns a copy of the listener's socket, on which another server may
// go on; the caller closes it. It works until Serve is to end.
func (s *Server) Socket() (*os.File, error) {
	l, ok := s.listener.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("copy the socket of HTTP: a %T has no file", s.listener)
	}
	return l.File()
}

// Retire ends each connection with its next response, so that when Serve is to
// end soon after, hardly a client has a request on its way over one.
func (s *Server) Retire() { s.retiring.Store(true) }

// Serve answers until ctx is done, then finishes the requests under way and
// returns when every goroutine it started has ended. An error is of a listener
// that failed.
func (s *Server) Serve(ctx context.Context) error {
	h := &http.Server{
		Handler:           s.Handler(),
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		TLSConfig:         s.cfg.TLS,
		ErrorLog:          log.New(connectionLog{s.cfg.Log}, "", 0),
		Protocols:         new(http.Protocols),
	}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(true)
	h.Protocols.SetUnencryptedHTTP2(true) // what clients of DNS over HTTPS speak without TLS
	h.ConnState = s.conns.note
	stop := context.AfterFunc(ctx, func() {
		s.ready.Store(false)
		s.Retire()
		_ = s.conns.Close() // so that Serve ends, and nothing else yet
	})
	defer stop()
	s.ready.Store(true)
	err := s.serve(h, s.conns)
	if ctx.Err() != nil {
		err = nil
		s.conns.settle(freshTime)
	}
	s.hub.stop()
	defer s.hub.running.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if h.Shutdown(end) != nil {
		s.cfg.Log.Warnf("some HTTP requests were still open %v after the end and were cut off", stopTime)
		_ = h.Close()
	}
	if err != nil {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (s *Server) serve(h *http.Server, l net.Listener) error {
	if s.cfg.TLS == nil {
		return h.Serve(l)
	}
	return h.ServeTLS(l, "", "")
}

// Handler returns the API without a listener.
func (s *Server) Handler() http.Handler {
	// A browser on this host must not be made to register services by a page
	// from elsewhere.
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(s.counted(elsewhere, handlerFunc(func(http.ResponseWriter, *http.Request) error {
		return problemf(http.StatusForbidden, "a page from another origin may not change the registry")
	})))
	return s.access(s.ownNames(crossOrigin.Handler(s.heartbeatsFirst(s.router()))))
}

// router has the whole table of routes. The heartbeat's is also returned.
func (s *Server) router() (r *mux.Router, heartbeat *counted) {
	r = mux.NewRouter()
	// IDs may hold slashes and dots, which arrive escaped: they are not to be
	// read as a path.
	r.UseEncodedPath().SkipClean(true)
	const instance = "/v1/services/{service}/instances/{id}"
	type route struct {
		path    string
		methods methods
	}
	routes := []route{
		{instance + "/heartbeat", methods{http.MethodPut: s.heartbeat}},
		{"/v1/heartbeats", methods{http.MethodPost: s.heartbeats}},
		{instance, methods{http.MethodGet: s.reading(s.instance), http.MethodPut: s.register, http.MethodDelete: s.deregister}},
		{"/v1/services/{service}/instances", methods{http.MethodPost: s.registerUnnamed}},
		{"/v1/services/{service}", methods{http.MethodGet: s.reading(s.service)}},
		{"/v1/services", methods{http.MethodGet: s.reading(s.services)}},
		{"/v1/backup", methods{http.MethodGet: s.backup}},
		{"/v1/events", methods{http.MethodGet: s.reading(s.events)}},
		{"/register", methods{http.MethodPost: s.seedRegister}},
		{"/deregister", methods{http.MethodPost: s.seedDeregister}},
		{"/services", methods{http.MethodGet: s.reading(s.seedServices)}},
		{"/v1/prometheus", methods{http.MethodGet: s.reading(s.targets)}},
		{"/metrics", methods{http.MethodGet: s.metrics}},
		{"/openapi.yaml", methods{http.MethodGet: s.describeAPI}},
		{"/healthz", methods{http.MethodGet: s.healthz}},
		{"/readyz", methods{http.MethodGet: s.readyz}},
	}
	if s.cfg.UI {
		routes = append(routes, route{"/ui", methods{http.MethodGet: s.uiFolder}},
			route{"/ui/", methods{http.MethodGet: s.ui}}, route{"/ui/{file}", methods{http.MethodGet: s.ui}})
	}
	for _, route := range routes {
		h := s.counted(route.path, s.guard(route.path, route.methods))
		r.Handle(route.path, h)
		if route.path == instance+"/heartbeat" {
			heartbeat = h
		}
	}
	if s.cfg.DNS != nil {
		r.Handle("/dns-query", s.counted("/dns-query", s.cfg.DNS))
	}
	r.NotFoundHandler = s.counted(elsewhere, handlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		return problemf(http.StatusNotFound, "there is no %s here; docs/api.md has the paths", r.URL.EscapedPath())
	}))
	return r, heartbeat
}

// handlerFunc is a handler whose error becomes the response.
type handlerFunc func(http.ResponseWriter, *http.Request) error

// ServeHTTP implements [http.Handler].
func (f handlerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f(w, r); err != nil {
		writeProblem(w, r, err)
	}
}

// methods has a path's handler for each method.
type methods map[string]handlerFunc

// ServeHTTP implements [http.Handler].
func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves out the body
	}
	f, ok := m[method]
	if !ok {
		f = m.notAllowed
	}
	f.ServeHTTP(w, r)
}

func (m methods) notAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for method := range m {
		allowed = append(allowed, method)
		if method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	return problemf(http.StatusMethodNotAllowed, "%s does not take %s; it takes %s", r.URL.EscapedPath(), r.Method, list)
}

// healthz says that the process runs.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return writeText(w, "ok\n")
}

// readyz says that the registry is loaded, the server has not begun to end, and
// it is in touch with the others that share its backend.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if !s.ready.Load() {
		return problemf(http.StatusServiceUnavailable, "the server is starting or stopping; ask again, or another server")
	}
	if since, stale := s.registry.Stale(); stale {
		return problemf(http.StatusServiceUnavailable,
			"the server has been cut off from %s for %v: it takes no registrations and heartbeats, and what it says of others may be out of date; ask another server",
			s.cfg.Backend, since.Truncate(time.Second))
	}
	return writeText(w, "ok\n")
}

// metrics serves what cmd has put together.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	if s.cfg.Metrics == nil {
		return problemf(http.StatusNotFound, "the metrics are not served here; --metrics names their address")
	}
	s.cfg.Metrics.ServeHTTP(w, r)
	return nil
}

func writeText(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte(text))
	return ignoreGone(err)
}
