package store

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a check that leaves a field out gets; its timeout is half the interval
// where that is less.
const (
	DefaultInterval = 10 * time.Second
	DefaultTimeout  = 2 * time.Second
	DefaultRise     = 1
	DefaultFall     = 3
)

// What [Instance.Normalize] takes of a check.
const (
	MinInterval   = time.Second
	MaxInterval   = time.Hour
	MinTimeout    = 100 * time.Millisecond
	MaxTimeout    = time.Minute
	MaxRise       = 100  // and of Fall
	MaxPath       = 1024 // octets
	MaxCheckAddrs = 16   // addresses of an instance with a check
)

// CheckType is how a check asks an instance whether it works.
type CheckType uint8

// The types of checks.
const (
	CheckTCP  CheckType = iota // a connection is accepted
	CheckHTTP                  // a GET is answered with 2xx
	CheckGRPC                  // the standard health service says SERVING
)

var checkTypeNames = [...]string{CheckTCP: "tcp", CheckHTTP: "http", CheckGRPC: "grpc"}

func (t CheckType) String() string {
	if int(t) >= len(checkTypeNames) {
		return "unknown"
	}
	return checkTypeNames[t]
}

// ParseCheckType reads "http", "tcp" or "grpc".
func ParseCheckType(s string) (CheckType, error) {
	if i := slices.Index(checkTypeNames[:], s); i >= 0 {
		return CheckType(i), nil
	}
	return 0, invalid("check.type", s, "http, tcp, grpc")
}

// Check is a probe that the server runs against an instance. It is shared and
// never modified once it is registered.
type Check struct {
	Type     CheckType
	Interval time.Duration // from one probe to the next; whole milliseconds, as is Timeout
	Timeout  time.Duration // for one probe of all addresses, below Interval
	Path     string        // what an http check asks for
	Port     uint16        // 0: the instance's own
	Rise     uint8         // so many passes in a row make the instance up
	Fall     uint8         // so many failures in a row make it down

	// Removes: a permanent instance is deregistered where another would be
	// down, and up from the start. That is the check of the seed API.
	Removes bool

	// Peer is the address that the check was registered from; it may be
	// probed where others may not. Invalid: not known.
	Peer netip.Addr
}

// SeedCheck returns the check of a permanent registration by the seed API.
func SeedCheck(peer netip.Addr) *Check {
	return &Check{Type: CheckTCP, Interval: DefaultInterval, Timeout: DefaultTimeout, Rise: DefaultRise, Fall: DefaultFall,
		Removes: true, Peer: peer}
}

// same reports whether both say the same; who registered them is no part of
// that, or two hosts that register one instance would change it each time.
func (c *Check) same(o *Check) bool {
	if c == nil || o == nil {
		return c == o
	}
	a, b := *c, *o
	a.Peer, b.Peer = netip.Addr{}, netip.Addr{}
	return a == b
}

// SameTarget reports whether a probe of i says the same as one of o.
func (i *Instance) SameTarget(o *Instance) bool {
	return i.Check.same(o.Check) && i.CheckPort() == o.CheckPort() && slices.Equal(i.Addresses, o.Addresses)
}

// CheckPort returns the port that the check asks, 0 where there is no check.
func (i *Instance) CheckPort() uint16 {
	switch {
	case i.Check == nil:
		return 0
	case i.Check.Port != 0:
		return i.Check.Port
	}
	return i.Port
}

// Checkable reports whether the check's outcome can change anything: while an
// instance itself says that it is down or draining, or is drained, it cannot,
// and one with a lease is not removed by its check.
func (i *Instance) Checkable() bool {
	switch {
	case i.Check == nil, i.Leaving:
		return false
	case i.Check.Removes:
		return i.Permanent()
	}
	return !i.ownWord()
}

// ownWord reports whether the status is what the instance itself said, against
// which a check has no say.
func (i *Instance) ownWord() bool {
	return i.Status == Draining || i.Status == Down && !i.Failing
}

// judged reports whether a check decides about the status of i.
func (i *Instance) judged() bool { return i.Check != nil && !i.Check.Removes }

// say sets the status that a heartbeat brings. To say that it is up takes the
// instance's own word back; the check, if there is one, has the say then, and
// must pass first.
func (i *Instance) say(s Status) {
	switch {
	case s != Up || !i.judged():
		i.Status, i.Failing = s, false
	case i.ownWord():
		i.Status = Starting
	}
}

// inherit gives a registration the status of the one that it replaces: whoever
// was up stays so until its check fails. Where no check is left to end it, a
// status that only a check had set is over.
func (i *Instance) inherit(from *Instance) {
	i.Status, i.Failing = from.Status, from.Failing
	if !i.judged() && !from.ownWord() {
		i.Status, i.Failing = Up, false
	}
}

func (i *Instance) normalizeCheck() error {
	c := i.Check
	if c == nil {
		return nil
	}
	seconds := func(field string, d, low, high time.Duration) error {
		if d < low || d > high || d%time.Millisecond != 0 {
			return Invalid(field, fmt.Sprint(d.Seconds()), fmt.Sprintf("%v to %v seconds", low.Seconds(), high.Seconds()))
		}
		return nil
	}
	times := func(field string, n uint8) error {
		if n < 1 || n > MaxRise {
			return Invalid(field, fmt.Sprint(n), fmt.Sprintf("1 to %d", MaxRise))
		}
		return nil
	}
	if int(c.Type) >= len(checkTypeNames) {
		return invalid("check.type", c.Type.String(), "http, tcp, grpc")
	}
	for _, err := range []error{
		seconds("check.interval", c.Interval, MinInterval, MaxInterval),
		seconds("check.timeout", c.Timeout, MinTimeout, min(MaxTimeout, c.Interval)),
		times("check.rise", c.Rise),
		times("check.fall", c.Fall),
		c.checkPath(),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case c.Timeout >= c.Interval:
		return &InvalidError{"check.timeout", fmt.Sprintf("%v seconds is not below the interval of %v", c.Timeout.Seconds(), c.Interval.Seconds())}
	case i.CheckPort() == 0:
		return &InvalidError{"check.port", "the instance has no port of its own; say which one the check is to ask"}
	case len(i.Addresses) > MaxCheckAddrs:
		return &InvalidError{"check", fmt.Sprintf("the instance has %d addresses; with a check at most %d are allowed", len(i.Addresses), MaxCheckAddrs)}
	}
	return nil
}

func (c *Check) checkPath() error {
	if c.Type != CheckHTTP {
		if c.Path != "" {
			return &InvalidError{"check.path", "only an http check has a path; leave it out"}
		}
		return nil
	}
	bad := func(r rune) bool { return r <= 0x20 || r > 0x7e || r == '#' }
	if !strings.HasPrefix(c.Path, "/") || len(c.Path) > MaxPath || strings.ContainsFunc(c.Path, bad) {
		return invalid("check.path", c.Path, fmt.Sprintf("1 to %d printable ASCII characters without space and #, the first a /", MaxPath))
	}
	return nil
}

// Spares reports whether a failure of a probe that began at that [Registry.Age] counts
// for nothing: the instance has since said that it is there, or had just said
// so.
func (l *Lease) Spares(began time.Duration) bool { return began < time.Duration(l.spared.Load()) }

// spare makes failures of probes that began before the given [Registry.Age]
// count for nothing.
func (l *Lease) spare(until time.Duration) { l.spared.Store(int64(until)) }

// Checked takes in what the check of an instance has come to, as it stood when
// the last probe began, at that [Registry.Age]: it is up or down from now on, or
// deregistered where the check removes. It reports whether that is a change: not
// where the instance is so already, has itself said that it is down or draining,
// or is spared ([Lease.Spares]). It renews no lease. Where the instance is gone,
// even if it has been registered anew since, or is probed otherwise by now, the
// error is ErrNotFound.
func (r *Registry) Checked(ctx context.Context, seen Member, began time.Duration, passes bool) (changed bool, err error) {
	at := slot{seen.Service, seen.Label}
	if err := r.writing.lock(ctx, at); err != nil {
		return false, err
	}
	defer r.writing.unlock(at)
	present, known := r.member(at)
	// Who has gone and come again has another lease.
	if !known || present.Lease != seen.Lease || !present.Lease.Alive(r.Now()) || !present.SameTarget(seen.Instance) {
		return false, fmt.Errorf("%s: %w", seen, ErrNotFound)
	}
	if !passes && present.Lease.Spares(began) {
		return false, nil
	}
	e, any := present.outcome(passes)
	if !any {
		return false, nil
	}
	if err := r.backend.Commit(ctx, []Event{e}); err != nil {
		return false, fmt.Errorf("store what the check of %s found: %w", seen, err)
	}
	return true, nil
}

// outcome returns the change that the check's outcome makes of i, if any.
func (i *Instance) outcome(passes bool) (Event, bool) {
	if !i.Checkable() {
		return Event{}, false
	}
	if i.Check.Removes {
		return Event{Kind: Deregistered, Before: i}, !passes
	}
	after := *i
	after.Status, after.Failing = Up, false
	if !passes {
		after.Status, after.Failing = Down, true
	}
	return Event{Kind: StatusChanged, Checked: true, Before: i, After: &after}, after.Status != i.Status
}
