package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/etcd"
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

// serve runs the server until ctx is done, or until another process has taken
// over. The ready line goes to stdout, the log to stderr.
func serve(ctx context.Context, f *serveFlags, stdout, stderr io.Writer) error {
	// A pipe that nobody reads any more is no reason to end: of the ready line,
	// of the log, or to a process that was to take over and has ended.
	signal.Ignore(syscall.SIGPIPE)
	upgrades := make(chan os.Signal, 1)
	if len(upgradeSignals) > 0 {
		signal.Notify(upgrades, upgradeSignals...)
		defer signal.Stop(upgrades)
	}
	in, from, err := inherited()
	defer in.close()
	if err != nil {
		return err
	}
	p, err := f.plan(in, stderr)
	if err != nil {
		return err
	}
	signal.Notify(p.hup, syscall.SIGHUP)
	defer signal.Stop(p.hup)
	defer tuneCollector()()
	var before former
	if from != nil {
		before = from
	}
	s, err := p.start(ctx, in, before)
	if err != nil {
		return err
	}
	in.close() // it has copies
	if _, err := fmt.Fprintln(stdout, s.readyLine()); err != nil {
		p.log.WithError(err).Warn("nobody reads the ready line")
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // where systemd did not start it, it does nothing
	return s.untilEnded(ctx, upgrades)
}

// untilEnded returns when the server has ended, or has handed over.
func (s *server) untilEnded(ctx context.Context, upgrades <-chan os.Signal) error {
	for {
		select {
		case <-s.ctx.Done():
			s.log.WithFields(logrus.Fields{"instances": s.registry.Len()}).Info("stopping")
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
			return s.wait()
		case <-upgrades:
		}
		again, err := s.handOver(ctx)
		switch {
		case err == nil:
			return nil
		case errors.As(err, new(fatalError)):
			return errors.Join(err, s.wait())
		case ctx.Err() == nil:
			s.log.WithError(err).Error("the upgrade failed; this process goes on")
		}
		if again != nil {
			s = again
		}
	}
}

// plan makes of the flags, and of the files that they name, what is to be
// served.
func (f *serveFlags) plan(in sockets, stderr io.Writer) (*plan, error) {
	if in.http != nil {
		l, err := listener(in.http)
		if err != nil {
			return nil, err
		}
		f.http = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	if err := f.check(); err != nil {
		return nil, usageError{err}
	}
	p := &plan{flags: f, hup: make(chan os.Signal, 1)}
	var err error
	if p.log, err = f.logger(stderr); err != nil {
		return nil, usageError{err}
	}
	if p.zone, p.servers, p.reverse, err = f.zones(); err != nil {
		return nil, usageError{err}
	}
	p.secret, _ = f.cookieSecret() // which check has checked
	if p.checkAllow, err = check.ParseAllow(f.checkAllow); err != nil {
		return nil, usageError{fmt.Errorf("--check-allow: %w", err)}
	}
	if p.transfers, err = f.transfers(); err != nil {
		return nil, err
	}
	if p.files, err = f.openReloadable(); err != nil {
		return nil, err
	}
	if p.etcd, err = f.etcdConfig(p.files, p.log); err != nil {
		return nil, err
	}
	if f.tokens != "" && f.tlsCert == "" && !isLoopback(f.http) {
		p.log.Warnf("tokens pass over the network in the clear: --http %s has no TLS (--tls-cert)", f.http)
	}
	return p, nil
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
func (p *plan) openBackend(ctx context.Context) (store.Backend, error) {
	spec := p.flags.store
	scheme, rest, _ := strings.Cut(spec, ":")
	switch {
	case p.etcd != nil:
		return etcd.Open(ctx, *p.etcd)
	case scheme == "bolt" && rest != "":
		return bolt.Open(rest, bolt.Config{Trouble: func(err error) { logTrouble(p.log, err) }})
	case scheme == "memory":
		return openMemory(rest)
	}
	return nil, usageError{fmt.Errorf("--store %s: neither bolt:PATH, etcd://HOST/PREFIX nor memory: was given", spec)}
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

func (s *server) readyLine() string {
	var addrs []string
	for _, a := range s.dns.Addrs() {
		addrs = append(addrs, a.String())
	}
	dot := strings.Builder{}
	for _, a := range s.dns.TLSAddrs() {
		fmt.Fprintf(&dot, ", %s (TLS)", a)
	}
	scheme := "http"
	if s.flags.tlsCert != "" {
		scheme = "https"
	}
	where := s.flags.store
	if s.shared != nil {
		where += describeEtcd(s.ctx, s.shared, s.etcd)
	}
	return fmt.Sprintf("roster is ready: zone %s on DNS %s (UDP and TCP)%s, HTTP API on %s://%s, store %s%s",
		s.zone, strings.Join(addrs, ", "), dot.String(), scheme, s.http.Addr(), where, s.metrics.where())
}
