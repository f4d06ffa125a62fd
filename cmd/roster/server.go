package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
)

// plan is what there is to be served, as the flags say: everything that needs
// no store.
type plan struct {
	flags      *serveFlags
	log        *logrus.Logger
	zone       string
	servers    []dnsserver.NameServer
	reverse    []netip.Prefix
	secret     dnsserver.CookieSecret
	checkAllow check.Allow
	transfers  transfers
	files      *reloadable
	etcd       *etcd.Config // nil with another store
	hup        chan os.Signal
}

// server is one life of the server, from the opening of its store to its last
// answer. DNS runs by itself, so that it can go on when all else has ended.
type server struct {
	*plan
	registry *store.Registry
	shared   *etcd.Store // nil with another store
	dns      *dnsserver.Server
	http     *httpapi.Server
	metrics  *metricsServer
	checks   *check.Checker

	group     *errgroup.Group
	ctx       context.Context //nolint:containedctx // of the group: done when any part has failed
	answering part
	taking    part // everything but DNS
}

// part is what is stopped together.
type part struct {
	ctx     context.Context //nolint:containedctx // it is what stop ends
	stop    context.CancelFunc
	running sync.WaitGroup
}

// end stops the part and returns when it has ended.
func (p *part) end() {
	p.stop()
	p.running.Wait()
}

// run runs f as one of the part.
func (s *server) run(p *part, f func(context.Context) error) {
	p.running.Add(1)
	s.group.Go(func() error {
		defer p.running.Done()
		return f(p.ctx)
	})
}

// former is who has served until now on the same sockets.
type former interface {
	// letGo returns when it has let go of the store, which is to be the same.
	letGo(spec string) error
	// fallSilent tells it that DNS is answered here, and returns when it gives
	// no more answers.
	fallSilent() error
}

// start starts a server in place of another, nil for none: see handover.go for
// the order. It runs until ctx is done.
func (p *plan) start(ctx context.Context, in sockets, before former) (*server, error) {
	s := &server{plan: p}
	var err error
	if s.metrics, err = p.flags.openMetrics(in.metrics, p.log); err != nil {
		return nil, err
	}
	if before != nil {
		if err := before.letGo(p.flags.store); err != nil {
			s.metrics.close()
			return nil, err
		}
	}
	if err := s.open(ctx, in, before != nil); err != nil {
		s.metrics.close()
		return nil, err
	}
	s.group, s.ctx = errgroup.WithContext(ctx)
	s.answering.ctx, s.answering.stop = context.WithCancel(s.ctx)
	s.taking.ctx, s.taking.stop = context.WithCancel(s.ctx)
	s.run(&s.answering, s.dns.Serve)
	if before != nil {
		if err := before.fallSilent(); err != nil {
			s.answering.end()
			return nil, errors.Join(err, s.http.Close(), s.wait())
		}
	}
	s.run(&s.taking, s.registry.Run)
	s.run(&s.taking, s.http.Serve)
	s.run(&s.taking, s.metrics.serve)
	s.run(&s.taking, s.checks.Run)
	s.run(&s.taking, newSpare().run)
	s.run(&s.taking, func(ctx context.Context) error { p.files.run(ctx, p.hup, p.log); return nil })
	return s, nil
}

// open opens the store and makes what works on it.
func (s *server) open(ctx context.Context, in sockets, standing bool) error {
	backend, err := s.openBackend(ctx)
	if err != nil {
		return err
	}
	s.shared, _ = backend.(*etcd.Store)
	reserved := dnsserver.Reserved(s.zone, s.servers)
	s.registry, err = store.Open(ctx, backend, store.Config{
		Reserved:  reserved,
		MaxTTL:    time.Duration(s.flags.maxTTL) * time.Second,
		Derive:    dnsserver.Compile(s.zone),
		Addresses: s.reverse,
		Standing:  standing,
		Stalled:   func(lasted, extended time.Duration) { logStall(s.log, lasted, extended) },
	})
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	warnReserved(s.log, s.registry, reserved)
	if s.dns, err = s.openDNS(in); err != nil {
		return errors.Join(err, s.registry.Close())
	}
	if s.http, err = s.openHTTP(in, backend); err != nil {
		return errors.Join(err, s.dns.Close(), s.registry.Close())
	}
	s.metrics.registry.MustRegister(collector{s.registry, s.dns, s.http, backend})
	s.checks = check.New(check.Config{Registry: s.registry, Allow: s.checkAllow, Log: s.log})
	return nil
}

func (s *server) openDNS(in sockets) (*dnsserver.Server, error) {
	plain, overTLS := s.flags.dns, s.flags.dot
	if len(in.dns) > 0 {
		plain = nil
	}
	if len(in.dot) > 0 {
		overTLS = nil
	}
	return dnsserver.New(dnsserver.Config{
		Registry:    s.registry,
		Listen:      plain,
		TLS:         overTLS,
		TLSConfig:   s.files.dnsTLS(),
		Sockets:     in.dns,
		TLSSockets:  in.dot,
		Zone:        s.zone,
		Reverse:     s.reverse,
		NameServers: s.servers,
		MaxTTL:      s.flags.maxTTL,
		NegativeTTL: s.flags.negativeTTL,
		Backend:     s.flags.backend(),
		StaleFor:    s.flags.staleFor,
		EDNSSize:    s.flags.ednsSize,
		NSID:        s.flags.identity(),
		Version:     "roster " + version(),
		Transfer:    s.transfers.acl,
		Notify:      s.transfers.notify,
		Keys:        s.transfers.keys,
		Log:         s.log,

		RRL:          s.flags.rrl,
		CookieSecret: s.secret,
	})
}

func (s *server) openHTTP(in sockets, backend store.Backend) (*httpapi.Server, error) {
	l, err := listener(in.http)
	if err != nil {
		return nil, err
	}
	return httpapi.New(httpapi.Config{
		Registry:   s.registry,
		Backend:    s.flags.backend(),
		Listen:     s.flags.http,
		Listener:   l,
		TLS:        s.files.httpTLS(),
		Rights:     s.files.httpRights(),
		DNS:        s.flags.dnsOverHTTPS(s.dns),
		Name:       func(i *store.Instance) string { return dnsserver.InstanceName(i, s.zone) },
		CheckAllow: s.checkAllow,
		Metrics:    s.metrics.forHTTP(),
		Backup:     backupOf(backend),
		NoBackup:   s.noBackup(),
		UI:         s.flags.ui,
		DNSAddress: s.dns.Addrs()[0].String(),
		Log:        s.log,
	})
}

// wait returns when all has ended, and closes the store.
func (s *server) wait() error {
	err := s.group.Wait()
	return errors.Join(err, s.registry.Close())
}

// retireTime is for how long connections end with their next response before
// HTTP stops for a hand-over.
const retireTime = 2 * time.Second

// takeNoMore ends everything but DNS, which goes on from memory: nothing is
// registered or renewed any more, and as the lease clock stands from then on,
// nothing ends. Then it closes the store.
func (s *server) takeNoMore(steps *laps) error {
	s.http.Retire()
	select {
	case <-s.ctx.Done():
	case <-time.After(retireTime):
	}
	steps.last = time.Now()
	s.taking.end()
	steps.add("finish")
	err := s.registry.Close()
	steps.add("close")
	return err
}

// letGo implements [former]: takeNoMore has been called.
func (s *server) letGo(string) error { return nil }

// fallSilent implements [former].
func (s *server) fallSilent() error {
	s.answering.end()
	return nil
}

// sockets returns copies of those that the server listens on.
func (s *server) sockets() (out sockets, err error) {
	defer func() {
		if err != nil {
			out.close()
		}
	}()
	if out.dns, out.dot, err = s.dns.Sockets(); err != nil {
		return out, err
	}
	if out.http, err = s.http.Socket(); err != nil {
		return out, err
	}
	if l, ok := s.metrics.listener.(*net.TCPListener); ok {
		if out.metrics, err = l.File(); err != nil {
			return out, fmt.Errorf("copy the socket of the metrics: %w", err)
		}
	}
	return out, out.keepMode()
}
