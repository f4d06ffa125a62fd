package dnsserver

import (
	"context"
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
	// notifyTries is how often one is sent that is not acknowledged, each time
	// after a wait twice as long as the one before, beginning with notifyWait.
	notifyTries = 6
	notifyWait  = time.Second
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
			log.WithError(err).Warnf("a secondary does not acknowledge NOTIFY (--notify): if it has the zone it finds changes by its own refresh only, every %v", soaRefresh)
		case err == nil && failed:
			log.Info("the secondary acknowledges NOTIFY again")
		}
		failed = err != nil
		if !sleep(ctx, notifyPause) {
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
	for wait := notifyWait; ; wait *= 2 {
		answered, err := s.sendNotify(ctx, to, z, at, wait)
		if answered {
			return err // it has heard, whatever it thinks of it
		}
		if wait >= notifyWait<<(notifyTries-1) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Newer changes go with the next try.
		at = s.registry.Revision()
	}
}

// sendNotify sends one NOTIFY and waits for the answer to it; without one it
// takes as long as the wait.
func (s *Server) sendNotify(ctx context.Context, to Secondary, z *zone, at store.Revision, wait time.Duration) (answered bool, err error) {
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
		return false, err
	}
	if resp.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("it answers %s", dns.RcodeToString[resp.Rcode])
	}
	return true, err
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
