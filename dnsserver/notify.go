package dnsserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"

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

// notify tells one secondary of every change until ctx is done, and at the
// start of the present state.
func (s *Server) notify(ctx context.Context, to Secondary) {
	log := s.cfg.Log.WithField("secondary", to.Addr)
	silent := false
	for ctx.Err() == nil {
		at := s.registry.Revision()
		err := s.notifyOnce(ctx, to, at)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !silent:
			log.WithError(err).Warnf("a secondary does not acknowledge NOTIFY (--notify): it finds changes only by its own refresh, every %v", soaRefresh)
		case err == nil && silent:
			log.Info("the secondary acknowledges NOTIFY again")
		}
		silent = err != nil
		if !sleep(ctx, notifyPause) {
			return
		}
		select {
		case <-ctx.Done():
		case <-s.registry.Changed(at):
		}
	}
}

// notifyOnce sends a NOTIFY until it is acknowledged.
func (s *Server) notifyOnce(ctx context.Context, to Secondary, at store.Revision) error {
	var err error
	for wait := notifyWait; ; wait *= 2 {
		if err = s.sendNotify(ctx, to, at, wait); err == nil {
			return nil
		}
		if wait >= notifyWait<<(notifyTries-1) {
			return err
		}
		// Newer changes go with the next try.
		at = s.registry.Revision()
	}
}

// sendNotify sends one NOTIFY and waits for its acknowledgement, for so long in
// all, answer or not.
func (s *Server) sendNotify(ctx context.Context, to Secondary, at store.Revision, wait time.Duration) error {
	m := new(dns.Msg).SetNotify(s.zone.name)
	m.Id = uint16(rand.Uint32())
	m.Answer = []dns.RR{s.zone.soa(at)}
	c := dns.Client{Timeout: wait}
	if to.Key != nil {
		c.TsigSecret = map[string]string{to.Key.Name: to.Key.secret}
		m.SetTsig(to.Key.Name, to.Key.Algorithm, 300, time.Now().Unix())
	}
	deadline := time.Now().Add(wait)
	resp, _, err := c.ExchangeContext(ctx, m, to.Addr)
	if err == nil && resp.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("it answers %s", dns.RcodeToString[resp.Rcode])
	}
	if err != nil && !sleep(ctx, time.Until(deadline)) {
		return ctx.Err()
	}
	return err
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
