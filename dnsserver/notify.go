package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/store"
)

// NOTIFY (RFC 1996): secondaries are told that the serial has moved, so that
// they need not ask.

// Secondary is a server that is told when the zone has changed.
type Secondary struct {
	Addr string   // host:port
	Key  *TSIGKey // signs the message; nil: it is not signed
}

const (
	// notifyPause is between two NOTIFYs to one secondary: changes in between
	// go together.
	notifyPause = time.Second
	// notifyTries is how often one is sent that is not answered, each time after
	// a wait twice as long as the one before, from notifyWait up to notifyMost.
	notifyTries = 6
	notifyWait  = time.Second
	notifyMost  = 4 * time.Second
	// refusedPause is how long a secondary is let alone that says that it does
	// not have the zone.
	refusedPause = 10 * time.Second
)

// notify tells one secondary of every change of a zone until ctx is done, and
// at the start of the present state.
func (s *Server) notify(ctx context.Context, to Secondary, z *zone) {
	log := s.cfg.Log.WithFields(logrus.Fields{"secondary": to.Addr, "zone": z.name})
	failed := false
	for ctx.Err() == nil {
		at := s.registry.Revision()
		err := s.notifyOnce(ctx, to, z, at)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failed:
			log.WithError(err).Warnf("a secondary takes no NOTIFY of the zone (--notify): if it has the zone it finds changes by its own refresh only, every %v", soaRefresh)
		case err == nil && failed:
			log.Info("the secondary takes NOTIFY again")
		}
		failed = err != nil
		pause := notifyPause
		if errors.As(err, new(refusedError)) {
			pause = refusedPause
		}
		if !sleep(ctx, pause) {
			return
		}
		select {
		case <-ctx.Done():
		case <-s.registry.Changed(at):
		}
	}
}

// notifyOnce sends a NOTIFY until there is an answer to it.
func (s *Server) notifyOnce(ctx context.Context, to Secondary, z *zone, at store.Revision) error {
	wait := notifyWait
	for try := 1; ; try++ {
		if !s.awaitFresh(ctx) {
			return ctx.Err()
		}
		err := s.sendNotify(ctx, to, z, at, wait)
		if err == nil || errors.As(err, new(refusedError)) || try == notifyTries || ctx.Err() != nil {
			return err
		}
		wait = min(2*wait, notifyMost)
		// Newer changes go with the next try.
		at = s.registry.Revision()
	}
}

// awaitFresh waits until the registry is not stale, so that no secondary comes
// for what it would not get; it reports whether ctx is not done yet.
func (s *Server) awaitFresh(ctx context.Context) bool {
	for {
		stale, changed := s.registry.Staleness()
		if !stale {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// refusedError is an answer to NOTIFY that is no acknowledgement.
type refusedError int

func (e refusedError) Error() string {
	return fmt.Sprintf("it answers %s; configure the zone there", dns.RcodeToString[int(e)])
}

// sendNotify sends one NOTIFY and waits for the answer to it; without one it
// takes as long as the wait.
func (s *Server) sendNotify(ctx context.Context, to Secondary, z *zone, at store.Revision, wait time.Duration) error {
	m := new(dns.Msg).SetNotify(z.name)
	m.Id = uint16(rand.Uint32())
	m.Answer = []dns.RR{z.soa(at)}
	c := dns.Client{Timeout: wait}
	if to.Key != nil {
		c.TsigSecret = map[string]string{to.Key.Name: to.Key.secret}
		m.SetTsig(to.Key.Name, to.Key.Algorithm, 300, time.Now().Unix())
	}
	deadline := time.Now().Add(wait)
	resp, _, err := c.ExchangeContext(ctx, m, to.Addr)
	if err != nil {
		sleep(ctx, time.Until(deadline))
		return err
	}
	if resp.Rcode != dns.RcodeSuccess {
		return refusedError(resp.Rcode)
	}
	return nil
}

// sleep waits, and reports whether ctx is not done yet.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
