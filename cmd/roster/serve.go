package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
)

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: "Run the server: an HTTP API to register with, and DNS for the zone.\n" +
			"Each flag may be an environment variable (ROSTER_MAX_TTL) or a key of the --config file (max-ttl).",
		Example: "  roster serve\n  roster serve --dns 0.0.0.0:53 --zone service.example.com. --max-ttl 10",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := layer(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends it at once
			return serve(ctx, &f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// serve runs the server until ctx is done. The ready line goes to stdout, the
// log to stderr.
func serve(ctx context.Context, f *serveFlags, stdout, stderr io.Writer) (err error) {
	sockets, err := inherited()
	if err != nil {
		return err
	}
	defer sockets.close()
	if sockets.http != nil {
		f.http = sockets.http.Addr().String()
	}
	if err := f.check(); err != nil {
		return usageError{err}
	}
	log, err := f.logger(stderr)
	if err != nil {
		return usageError{err}
	}
	zone, servers, reverse, err := f.zones()
	if err != nil {
		return usageError{err}
	}
	secret, _ := f.cookieSecret() // which check has checked
	checkAllow, err := check.ParseAllow(f.checkAllow)
	if err != nil {
		return usageError{fmt.Errorf("--check-allow: %w", err)}
	}
	transfers, err := f.transfers()
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	files, err := f.openReloadable()
	if err != nil {
		return err
	}
	if f.tokens != "" && f.tlsCert == "" && !isLoopback(f.http) {
		log.Warnf("tokens pass over the network in the clear: --http %s has no TLS (--tls-cert)", f.http)
	}
	metrics, err := f.openMetrics(log)
	if err != nil {
		return err
	}
	defer metrics.close()
	backend, err := openBackend(f.store, log)
	if err != nil {
		return err
	}
	reserved := dnsserver.Reserved(zone, servers)
	registry, err := store.Open(ctx, backend, store.Config{
		Reserved:  reserved,
		MaxTTL:    time.Duration(f.maxTTL) * time.Second,
		Derive:    dnsserver.Compile(zone),
		Addresses: reverse,
		Stalled:   func(lasted, extended time.Duration) { logStall(log, lasted, extended) },
	})
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	warnReserved(log, registry, reserved)
	defer func() { err = errors.Join(err, registry.Close()) }()
	defer tuneCollector()()

	if len(sockets.dns) > 0 {
		f.dns = nil
	}
	d, err := dnsserver.New(dnsserver.Config{
		Registry:    registry,
		Listen:      f.dns,
		TLS:         f.dot,
		TLSConfig:   files.dnsTLS(),
		Sockets:     sockets.dns,
		Zone:        zone,
		Reverse:     reverse,
		NameServers: servers,
		MaxTTL:      f.maxTTL,
		NegativeTTL: f.negativeTTL,
		EDNSSize:    f.ednsSize,
		NSID:        f.identity(),
		Version:     "roster " + version(),
		Transfer:    transfers.acl,
		Notify:      transfers.notify,
		Keys:        transfers.keys,
		Log:         log,

		RRL:          f.rrl,
		CookieSecret: secret,
	})
	if err != nil {
		return err
	}
	h, err := httpapi.New(httpapi.Config{
		Registry:   registry,
		Listen:     f.http,
		Listener:   sockets.http,
		TLS:        files.httpTLS(),
		Rights:     files.httpRights(),
		DNS:        f.dnsOverHTTPS(d),
		Name:       func(i *store.Instance) string { return dnsserver.InstanceName(i, zone) },
		CheckAllow: checkAllow,
		Metrics:    metrics.forHTTP(),
		Backup:     backupOf(backend),
		Log:        log,
	})
	if err != nil {
		return errors.Join(err, d.Close())
	}
	metrics.registry.MustRegister(collector{registry, d, h, backend})

	checks := check.New(check.Config{Registry: registry, Allow: checkAllow, Log: log})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return registry.Run(ctx) })
	g.Go(func() error { return d.Serve(ctx) })
	g.Go(func() error { return h.Serve(ctx) })
	g.Go(func() error { return metrics.serve(ctx) })
	g.Go(func() error { files.run(ctx, hup, log); return nil })
	g.Go(func() error { return checks.Run(ctx) })
	if _, err := fmt.Fprintln(stdout, readyLine(f, zone, d, h)+metrics.where()); err != nil {
		log.WithError(err).Warn("nobody reads the ready line")
	}
	g.Go(func() error {
		<-ctx.Done()
		log.WithFields(logrus.Fields{"instances": registry.Len()}).Info("stopping")
		return nil
	})
	return g.Wait()
}

// warnReserved says which services an earlier run took in that this one would
// refuse.
func warnReserved(log logrus.FieldLogger, registry *store.Registry, reserved map[string]string) {
	for name, by := range reserved {
		if registry.Service(name) != nil {
			log.Warnf("service %s is in the store, but not in DNS: its name is taken by %s", name, by)
		}
	}
}

// heapFloor is memory that is asked for and never touched, so that the system
// never gives it. The garbage collector counts it: it begins when the heap has
// grown by gcPercent of the floor and what lives together. Without the floor a
// small registry is collected ten times a second while heartbeats come in by the
// thousand, and each time DNS answers wait; with Go's own 100 percent a large one
// would hold as much garbage as instances.
const (
	heapFloor = 512 << 20
	gcPercent = 25
)

// tuneCollector sets the garbage collector up, unless GOGC says how it is to be.
// The floor lasts until release is called.
func tuneCollector() (release func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	debug.SetGCPercent(gcPercent)
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}

// logTrouble says that the store's file cannot be written, or, with nil, that
// it can again.
func logTrouble(log logrus.FieldLogger, err error) {
	if err == nil {
		log.Info("the store can be written again: registrations are taken")
		return
	}
	log.WithError(err).Error("the store cannot be written: registrations get 503; DNS and heartbeats go on")
}

// longStall is how long a stall lasts that the log tells of at all levels;
// the metrics count shorter ones.
const longStall = time.Second

// logStall says that the server has stood still, and what that did to leases.
func logStall(log logrus.FieldLogger, lasted, extended time.Duration) {
	say := log.Warnf
	if lasted < longStall {
		say = log.Debugf
	}
	say("the server did not run for %v; all leases have been extended by %v, so that nobody is removed for it",
		lasted.Round(time.Millisecond), extended.Round(time.Millisecond))
}

// openBackend opens what --store names.
func openBackend(spec string, log logrus.FieldLogger) (store.Backend, error) {
	scheme, rest, _ := strings.Cut(spec, ":")
	switch {
	case scheme == "bolt" && rest != "":
		return bolt.Open(rest, bolt.Config{Trouble: func(err error) { logTrouble(log, err) }})
	case scheme == "memory":
		return openMemory(rest)
	case scheme == "etcd":
		return nil, usageError{fmt.Errorf("--store %s: this version of roster has no etcd store; use bolt:PATH", spec)}
	}
	return nil, usageError{fmt.Errorf("--store %s: neither bolt:PATH nor memory: was given", spec)}
}

// backupOf returns how the backend is backed up, nil where it cannot be.
func backupOf(b store.Backend) func(io.Writer) error {
	if b, ok := b.(interface{ Backup(w io.Writer) error }); ok {
		return b.Backup
	}
	return nil
}

// openMemory makes a store that keeps nothing. memory:N begins at that
// revision, for one whose predecessor's serial must not be gone back behind.
func openMemory(at string) (store.Backend, error) {
	m := store.NewMemory()
	if at == "" {
		return m, nil
	}
	n, err := strconv.ParseUint(at, 10, 63)
	if err != nil || n == 0 {
		return nil, usageError{fmt.Errorf("--store memory:%s: what follows is the revision to begin at, a whole number; leave it out for the unix time", at)}
	}
	m.At = store.Revision(n)
	return m, nil
}

func readyLine(f *serveFlags, zone string, d *dnsserver.Server, h *httpapi.Server) string {
	var addrs []string
	for _, a := range d.Addrs() {
		addrs = append(addrs, a.String())
	}
	dot := strings.Builder{}
	for _, a := range d.TLSAddrs() {
		fmt.Fprintf(&dot, ", %s (TLS)", a)
	}
	scheme := "http"
	if f.tlsCert != "" {
		scheme = "https"
	}
	return fmt.Sprintf("roster is ready: zone %s on DNS %s (UDP and TCP)%s, HTTP API on %s://%s, store %s",
		zone, strings.Join(addrs, ", "), dot.String(), scheme, h.Addr(), f.store)
}
