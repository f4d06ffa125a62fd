// Package check probes the instances of a [store.Registry] that have a check,
// and tells the registry what it finds.
//
// check.go follows the registry and runs what is due, target.go knows when that
// is and what a row of outcomes comes to, probe.go and grpc.go ask an instance,
// allow.go says which addresses may be asked.
//
// The package promises: never more than Config.MaxProbes connections at a time,
// none to an address that Config.Allow does not permit or that is not the
// instance's own, whatever it answers; and that trouble of the server's own (no
// sockets, no route, a stall) counts against no instance.
package check

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/store"
)

// Config is what a [Checker] needs to know.
type Config struct {
	// Registry is whose instances are probed. Required.
	Registry *store.Registry

	// Allow says which addresses may be probed.
	Allow Allow

	// MaxProbes is how many probes run at a time, and so how many connections
	// there are; more wait. Default 1024.
	MaxProbes int

	// Log gets each change of a status, and why. Default: the standard logger.
	Log logrus.FieldLogger
}

func (c Config) withDefaults() Config {
	if c.MaxProbes == 0 {
		c.MaxProbes = 1024
	}
	if c.Log == nil {
		c.Log = logrus.StandardLogger()
	}
	return c
}

const (
	// buffer is how many events may wait while the checker is busy.
	buffer = 1024
	// resyncPause is how long it waits to look again where the registry was
	// between two revisions.
	resyncPause = 10 * time.Millisecond
	// stall is how much later than its deadline a probe may end before the
	// server itself must have stood still, so that the outcome says nothing.
	stall = time.Second
)

// Checker runs the checks of one registry.
type Checker struct {
	cfg   Config
	probe func(context.Context, *store.Instance) error
	trial *rand.Rand // of jitter; only Run's goroutine draws

	// What follows belongs to Run's goroutine.
	targets  map[name]*target
	schedule schedule
	hung     schedule       // of those whose last probe hung: they may not hold up the others
	seen     store.Revision // events up to here have been taken in; 0: none yet

	ended  chan *target // probes that have ended
	probes sync.WaitGroup

	failing atomic.Bool // the last outcome could not be stored
}

// New returns a checker; Run makes it work.
func New(cfg Config) *Checker {
	return &Checker{
		cfg:     cfg.withDefaults(),
		probe:   probe,
		trial:   rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		targets: map[name]*target{},
	}
}

// Run probes until ctx is done or the registry is closed, and returns when
// every probe has ended.
func (c *Checker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.probes.Wait()
	defer cancel()
	c.ended = make(chan *target, c.cfg.MaxProbes) // so that a probe never waits to be heard
	for {
		sub, err := c.subscribe()
		if err == nil {
			err = c.follow(ctx, sub)
			sub.Close()
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		case errors.Is(err, store.ErrCompacted):
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(resyncPause):
			}
		case !errors.Is(err, store.ErrLagged):
			return err
		}
	}
}

// subscribe goes on after the last event that was seen. Where the history does
// not reach back to it, the whole registry is looked through.
func (c *Checker) subscribe() (*store.Subscription, error) {
	sub, past, err := c.cfg.Registry.Subscribe("", c.seen, buffer)
	if errors.Is(err, store.ErrCompacted) {
		at := c.cfg.Registry.Revision() // before the views: they are no older
		if sub, past, err = c.cfg.Registry.Subscribe("", at, buffer); err == nil {
			c.resync(at)
		}
	}
	if err != nil {
		return nil, err
	}
	for k := range past {
		c.take(&past[k])
	}
	return sub, nil
}

// resync makes the targets what the registry has now. New ones are spread over
// their interval: after a restart all are.
func (c *Checker) resync(at store.Revision) {
	r := c.cfg.Registry
	there := map[name]bool{}
	refused := 0
	for v := range r.Services {
		for m := range v.Members(r.Now()) {
			if m.Check == nil {
				continue
			}
			there[nameOf(m.Instance)] = true
			if !c.aim(m, false) {
				refused++
			}
		}
	}
	for n, t := range c.targets {
		if !there[n] {
			c.drop(t)
		}
	}
	if refused > 0 {
		c.cfg.Log.Warnf("%d instances with a check are not probed: their addresses are not among those that checks may connect to (--check-allow); they keep the status they have", refused)
	}
	c.seen = at
}

// take takes in one event.
func (c *Checker) take(e *store.Event) {
	c.seen = e.Revision
	i := e.Instance()
	t := c.targets[nameOf(i)]
	switch {
	case t != nil && t.Revision >= e.Revision:
		// The view had it already when the registry was looked through.
	case e.After == nil || i.Check == nil:
		c.drop(t)
	case !c.aim(c.member(i), true) && e.Kind == store.Registered:
		c.cfg.Log.Warnf("%s is not probed: not all of its addresses are among those that checks may connect to (--check-allow); it keeps the status it has", i)
	}
}

// member returns i with the lease that is at its place now. That may be a later
// one's, whose event is still to come: then what probes find from now on is
// about that one. None is there where i has gone.
func (c *Checker) member(i *store.Instance) store.Member {
	m := store.Member{Instance: i}
	if v := c.cfg.Registry.Service(i.Service); v != nil {
		now, _ := v.ByLabel(i.Label, c.cfg.Registry.Now())
		m.Lease = now.Lease
	}
	return m
}

// aim makes the instance a target if it is to be probed, and reports false
// where its addresses do not allow that. fresh says that it has just changed.
func (c *Checker) aim(m store.Member, fresh bool) bool {
	t := c.targets[nameOf(m.Instance)]
	permitted := c.cfg.Allow.PermitsAll(m.Instance)
	if !m.Checkable() || !permitted || m.Lease == nil {
		c.drop(t)
		return permitted
	}
	if t != nil && t.Lease == m.Lease && t.SameTarget(m.Instance) {
		t.Member = m
		return true
	}
	c.drop(t)
	t = &target{Member: m, place: notScheduled}
	c.targets[nameOf(m.Instance)] = t
	c.schedule.add(t, time.Now().Add(c.first(m.Check, fresh)))
	return true
}

// first returns how long the first probe waits. What has just registered and
// is to be up when it passes is probed at once; the seed API's is up already,
// and perhaps not listening yet.
func (c *Checker) first(k *store.Check, fresh bool) time.Duration {
	switch {
	case !fresh:
		return time.Duration(c.trial.Int64N(int64(k.Interval)))
	case k.Removes:
		return c.jitter(k.Interval)
	}
	return 0
}

// jitter varies d by a tenth either way, so that checks that began together
// drift apart.
func (c *Checker) jitter(d time.Duration) time.Duration {
	return d + time.Duration(c.trial.Int64N(int64(d/5)+1)) - d/10
}

// drop forgets a target; nil is none. A probe of it that is under way is
// broken off, and comes to nothing.
func (c *Checker) drop(t *target) {
	if t == nil {
		return
	}
	t.dropped = true
	if t.cancel != nil {
		t.cancel()
	}
	t.unschedule()
	delete(c.targets, nameOf(t.Instance))
}

// follow runs what is due and takes in what happens, until the subscription
// ends, which is the error, or ctx.
func (c *Checker) follow(ctx context.Context, sub *store.Subscription) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(c.startDue(ctx))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-sub.C:
			if !open {
				return sub.Err()
			}
			c.take(&e)
		case t := <-c.ended:
			c.end(t)
		case <-timer.C:
		}
	}
}

// idle is how long the checker sleeps where nothing is due.
const idle = time.Hour

// startDue starts what is due, as far as there is room, and returns how long
// it is until more is. Those that hang get half of the room: a probe of theirs
// is in the way for long, and a few of them would fill all of it.
func (c *Checker) startDue(ctx context.Context) time.Duration {
	now := time.Now()
	hung := c.startFrom(ctx, &c.hung, max(c.cfg.MaxProbes/2, 1), now)
	return min(hung, c.startFrom(ctx, &c.schedule, c.cfg.MaxProbes, now))
}

// startFrom starts what is due in one schedule, of which at most so many run.
func (c *Checker) startFrom(ctx context.Context, s *schedule, most int, now time.Time) time.Duration {
	for s.running < most && c.schedule.running+c.hung.running < c.cfg.MaxProbes {
		t, wait := s.next(now)
		if t == nil {
			return wait
		}
		if !c.cfg.Registry.Judges(t.Instance) { // another server runs it
			t.restart()
			s.add(t, now.Add(c.jitter(t.Check.Interval)))
			continue
		}
		c.start(ctx, t, now)
	}
	return idle // the end of a probe makes room
}

// end takes back a target whose probe has ended.
func (c *Checker) end(t *target) {
	t.in.running--
	t.cancel = nil
	if t.dropped {
		return
	}
	s := &c.schedule
	if t.hung {
		s = &c.hung
	}
	s.add(t, t.started.Add(c.jitter(t.Check.Interval)))
}

func (c *Checker) start(ctx context.Context, t *target, now time.Time) {
	m, began := t.Member, c.cfg.Registry.Age()
	t.started = now
	probing, cancel := context.WithTimeout(ctx, m.Check.Timeout)
	t.cancel = cancel
	t.in.running++
	c.probes.Go(func() {
		defer func() { c.ended <- t }()
		err := c.probe(probing, m.Instance)
		late := time.Since(now) > m.Check.Timeout+stall
		broken := errors.Is(probing.Err(), context.Canceled)
		t.hung = err != nil && errors.Is(probing.Err(), context.DeadlineExceeded)
		cancel()
		if broken || errors.Is(err, errOurs) || err != nil && late {
			return
		}
		if t.count(m, began, err == nil) {
			c.conclude(ctx, m, began, err)
		}
	})
}

// conclude tells the registry what the check of m has come to with the probe
// that began then, and the log why.
func (c *Checker) conclude(ctx context.Context, m store.Member, began time.Duration, why error) {
	changed, err := c.cfg.Registry.Checked(ctx, m, began, why == nil)
	switch {
	case err == nil:
		if c.failing.Swap(false) {
			c.cfg.Log.Info("what checks find is being stored again")
		}
	case errors.Is(err, store.ErrNotFound), ctx.Err() != nil, errors.Is(err, store.ErrClosed):
		return // it has gone or changed meanwhile
	default:
		if !c.failing.Swap(true) {
			c.cfg.Log.WithError(err).Error("what checks find cannot be stored; it is tried again after each probe")
		}
		return
	}
	switch {
	case !changed: // somebody else was quicker, or the instance has the say
	case why == nil:
		c.cfg.Log.Infof("%s is up: its check passes", m)
	case m.Check.Removes:
		c.cfg.Log.Warnf("%s is deregistered: %d probes in a row failed: %v", m, m.Check.Fall, why)
	default:
		c.cfg.Log.Warnf("%s is down: %d checks in a row failed: %v", m, m.Check.Fall, why)
	}
}
