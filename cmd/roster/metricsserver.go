package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"
)

// metricsServer serves /metrics: on the HTTP address, which asks for the right
// to read, or where --metrics says, with /debug/pprof beside it.
type metricsServer struct {
	registry *prometheus.Registry
	log      logrus.FieldLogger
	listener net.Listener // nil without --metrics
}

// openMetrics binds the address of --metrics, so that a port in use is known at
// once, unless it is inherited.
func (f *serveFlags) openMetrics(inherited *os.File, log logrus.FieldLogger) (*metricsServer, error) {
	m := &metricsServer{registry: newMetrics(), log: log}
	if f.metrics == "" {
		return m, nil
	}
	if inherited != nil {
		var err error
		m.listener, err = listener(inherited)
		return m, err
	}
	l, err := net.Listen("tcp", f.metrics)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics (--metrics): %w", err)
	}
	m.listener = l
	return m, nil
}

// close releases the address of a server that was never served.
func (m *metricsServer) close() {
	if m.listener != nil {
		_ = m.listener.Close()
	}
}

// forHTTP returns what the HTTP address serves as /metrics, nil where they
// have an address of their own.
func (m *metricsServer) forHTTP() http.Handler {
	if m.listener != nil {
		return nil
	}
	return m.handler()
}

// where is the end of the ready line.
func (m *metricsServer) where() string {
	if m.listener == nil {
		return ""
	}
	return fmt.Sprintf(", metrics on http://%s", m.listener.Addr())
}

func (m *metricsServer) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: m.log})
}

const (
	metricsConns        = 64
	metricsStopTime     = 2 * time.Second
	metricsWriteTimeout = 5 * time.Minute // a profile takes as long as it is asked to
)

// serve answers on the address of --metrics, if there is one, until ctx is
// done.
func (m *metricsServer) serve(ctx context.Context) error {
	if m.listener == nil {
		return nil
	}
	routes := http.NewServeMux()
	routes.Handle("GET /metrics", m.handler())
	routes.HandleFunc("/debug/pprof/", pprof.Index)
	routes.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	routes.HandleFunc("/debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	routes.HandleFunc("/debug/pprof/trace", pprof.Trace)
	h := &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      metricsWriteTimeout,
		IdleTimeout:       2 * time.Minute,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), metricsStopTime)
		defer cancel()
		if h.Shutdown(end) != nil {
			_ = h.Close() // a profile that is being taken is nobody's loss
		}
	})
	err := h.Serve(netutil.LimitListener(m.listener, metricsConns))
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	stop()
	return fmt.Errorf("serve metrics: %w", err)
}
