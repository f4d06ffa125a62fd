package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Shared is a [Backend] on which several servers work at the same time, each
// with a registry of its own. It decides the order of all their changes, and
// makes each known to every one of them; and it carries what only one has
// heard, heartbeats, to the others.
type Shared interface {
	Backend

	// Join is called once, before Start, with the registry as the backend
	// drives it. Start then restores by [Replica.Restore] and applies by
	// [Replica.Apply], and not by the functions that it is given.
	Join(r *Replica)

	// Renew makes it known to all servers, and to those that will be started,
	// until when leases last. It returns nil when that is so, and this registry
	// has seen every change that was made before; without leases it waits for
	// the latter alone. An error wraps ErrNotDurable or ErrClosed; then it may
	// or may not have become known. It may be called concurrently; calls share
	// what is written. It does not keep the leases after it has returned.
	Renew(ctx context.Context, leases []Renewal) error

	// Alone reports whether no other server works on the backend. It may say
	// false for a while after the last one has gone.
	Alone() bool

	// Judges reports whether it is for this server to run the check of an
	// instance. Of all servers that are up, one judges; while one comes or
	// goes, none or two may.
	Judges(service, label string) bool
}

// Renewal says until when a lease lasts at least.
type Renewal struct {
	Service, Label string
	End            Instant
}

// Replica is a [Registry] as a [Shared] backend drives it. Its lease clock goes
// only while the backend winds it by Confirm, and stands otherwise. The clocks of
// all replicas show nearly the same, so that instants mean something to all;
// how they are kept together is the backend's business. All methods may be
// called concurrently, but for those that change instances, which are called one
// at a time and in the order of revisions.
type Replica struct {
	*Registry
	restored  map[*service]*View
	open      chan struct{} // closed when the registry can be changed
	confirmed chan struct{} // closed by the first Confirm
	once      atomic.Bool
}

func newReplica(r *Registry, restored map[*service]*View) *Replica {
	return &Replica{Registry: r, restored: restored, open: make(chan struct{}), confirmed: make(chan struct{})}
}

// begin lets changes in, and returns once what is here has been confirmed.
func (p *Replica) begin(ctx context.Context) error {
	p.restored = nil
	close(p.open)
	select {
	case <-p.confirmed:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Close())
	}
}

// Opened returns a channel that is closed once the registry has what was
// restored, and can be changed.
func (p *Replica) Opened() <-chan struct{} { return p.open }

// MaxTTL returns the longest TTL that this server's answers carry.
func (p *Replica) MaxTTL() time.Duration { return p.cfg.MaxTTL }

// elsewhere is what other servers hand out.
type elsewhere struct {
	longest atomic.Int64 // a Duration: the longest TTL of any that was heard of
	cached  atomic.Int64 // an Instant: until when caches hold what was theirs when one was last heard of
}

// HandsOut takes in that another server is there, and the longest TTL that its
// answers carry. Which server that was is forgotten: what it has answered is in
// caches when it is gone.
func (p *Replica) HandsOut(maxTTL time.Duration) {
	raise(&p.elsewhere.longest, int64(maxTTL))
	raise(&p.elsewhere.cached, int64(p.Now().Add(p.longest()+shareTime)))
}

// LongestTTL returns the longest TTL that the answers of any server carry that has
// been heard of since this one was started, its own included.
func (p *Replica) LongestTTL() time.Duration { return p.longest() }

func (r *Registry) longest() time.Duration {
	return max(r.cfg.MaxTTL, time.Duration(r.elsewhere.longest.Load()))
}

// raise makes a at least to, and reports whether it was less.
func raise(a *atomic.Int64, to int64) bool {
	for {
		old := a.Load()
		if to <= old {
			return false
		}
		if a.CompareAndSwap(old, to) {
			return true
		}
	}
}

// Restore takes in an instance that is stored, whose lease lasts until end; others
// says that another server may have heard from it later. It is called before
// Start returns.
func (p *Replica) Restore(i *Instance, end Instant, others bool) {
	p.restore(p.restored, i, end).others.Store(others)
}

// Apply makes changes visible that have been committed, here or elsewhere. It
// waits until the registry is open.
func (p *Replica) Apply(ctx context.Context, events []Event) {
	select {
	case <-p.open:
		p.apply(events)
	case <-ctx.Done():
	}
}

// Restored is an instance that is stored, and until when its lease lasts at least.
type Restored struct {
	*Instance
	End Instant
}

// Difference is how many instances a [Replica.Reset] has registered, changed and
// removed. One that has only got another revision is not among them.
type Difference struct{ Registered, Changed, Gone int }

// count takes in what is about to be applied.
func (d *Difference) count(e *Event) {
	switch {
	case e.After == nil:
		d.Gone++
	case e.Kind == Registered:
		d.Registered++
	case e.After.Status != e.Before.Status || !e.After.sameAs(e.Before):
		d.Changed++
	}
}

// Reset makes the registry what is stored at a revision, where it has missed
// changes, and returns what that has come to. What is the same stays as it is, its
// lease is extended at most. Subscribers are told that history has been compacted.
func (p *Replica) Reset(ctx context.Context, state []Restored, at Revision) (by Difference) {
	select {
	case <-p.open:
	case <-ctx.Done():
		return by
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := batch{Registry: p.Registry, views: map[*service]*View{}, reread: true}
	for _, e := range p.difference(state, at) {
		by.count(&e)
		b.apply(&e)
	}
	b.publish()
	p.revision.Store(uint64(at))
	p.feed.restart(at)
	p.forgetLocked()
	return by
}

// difference returns what makes of the registry what is stored, and extends the
// leases of what stays.
func (p *Replica) difference(state []Restored, at Revision) (events []Event) {
	stays := make(map[slot]bool, len(state))
	for _, s := range state {
		place := slot{s.Service, s.Label}
		stays[place] = true
		m, known := p.member(place)
		switch {
		case known && m.Revision == s.Revision:
			p.heard(m.Lease, s.End)
		case known:
			events = append(events, Event{Revision: s.Revision, Kind: Updated, Before: m.Instance, After: s.Instance, End: s.End, Elsewhere: true})
		default:
			events = append(events, Event{Revision: s.Revision, Kind: Registered, After: s.Instance, End: s.End, Elsewhere: true})
		}
	}
	for v := range p.Services {
		for _, m := range v.members {
			if !stays[m.Lease.slot] {
				events = append(events, Event{Revision: at, Kind: Deregistered, Before: m.Instance, Elsewhere: true})
			}
		}
	}
	return events
}

// Extend takes in until when leases last at least, as other servers have heard.
// What is not there is passed over.
func (p *Replica) Extend(leases []Renewal) {
	for _, l := range leases {
		if m, ok := p.member(slot{l.Service, l.Label}); ok {
			p.heard(m.Lease, l.End)
		}
	}
}

// heard extends a lease because another server has heard from the instance.
func (r *Registry) heard(l *Lease, end Instant) {
	if end <= l.End() {
		return
	}
	l.others.Store(true)
	if l.extend(end) == ended { // it was to be removed, which cannot work any more
		r.deadlines.schedule(l, end)
	}
}

// Lasts reports whether the lease of an instance still lasts: it may have been
// extended since it was judged.
func (p *Replica) Lasts(i *Instance) bool {
	m, ok := p.member(slot{i.Service, i.Label})
	return ok && m.Lease.lasts(p.Now())
}

// Set has the lease clock show a moment, before it goes.
func (p *Replica) Set(to Instant) { p.clock.set(to) }

// Confirm says that what is here is confirmed until an Age, and has the lease
// clock go until then. It never takes anything back.
func (p *Replica) Confirm(until time.Duration) {
	p.clock.windUntil(until)
	p.confirm(until)
}

// GoOn is Confirm where the lease clock has stood: it shows the Age, and ahead
// more, from now on, but never goes back.
func (p *Replica) GoOn(ahead, until time.Duration) {
	p.clock.goOn(ahead, until)
	p.drains.settle(p.Registry, p.clock.real())
	p.confirm(until)
}

func (p *Replica) confirm(until time.Duration) {
	if raise(&p.Registry.confirmed, int64(until)) && !p.once.Swap(true) {
		close(p.confirmed)
	}
}

// Advance puts the lease clock forward to a moment, if it is not there yet.
func (p *Replica) Advance(to Instant) {
	p.clock.advance(to)
	p.drains.settle(p.Registry, p.clock.real())
}

// Stood counts for how much longer leases last because the lease clock stood.
func (p *Replica) Stood(d time.Duration) {
	p.clock.counts.n.Add(1)
	p.clock.counts.stood.Add(int64(d))
}

// alone reports whether no other server hears from instances.
func (r *Registry) alone() bool { return r.shared == nil || r.shared.Alone() }

// shareTime is how long it takes at most until no other server hands out what was
// there when a change was decided: the change is written, and is known where what
// is there counts as confirmed; and one second more.
const shareTime = 5 * time.Second

// cachedUntil returns the moment at which the last honest cache has forgotten
// what was answered from any view of a service. What other servers have answered
// is not known here; they keep to the ends of leases and to the longest TTL.
func (r *Registry) cachedUntil(s *service) Instant {
	cached := max(Instant(s.cached.Load()), Instant(r.elsewhere.cached.Load()))
	if !r.alone() {
		return max(cached, r.Now().Add(r.longest()+shareTime))
	}
	return cached
}

// EndAfter returns until when the lease lasts that an event leaves, for other
// servers to know. It has to be asked right before the event is written: what it
// says of a lease that gets shorter hangs on which servers are known then.
func (p *Replica) EndAfter(e *Event) Instant {
	length := e.After.leaseLength()
	end := endAt(p.Now(), length)
	m, known := p.member(slot{e.After.Service, e.After.Label})
	switch v := p.Service(e.After.Service); {
	case !known, e.Kind == Registered, v == nil:
		return end
	case time.Duration(m.Lease.length.Load()) == length:
		return m.Lease.End()
	default:
		return max(end, min(p.lastsUntil(m.Lease), p.cachedUntil(v.home)))
	}
}

// Shortens reports whether an event may make a lease end earlier than others know:
// it gets another length.
func (e *Event) Shortens() bool {
	return e.Before != nil && e.After != nil && e.Before.leaseLength() != e.After.leaseLength()
}

// lastsUntil returns until when a lease lasts at most. Another server may have
// just renewed it, and answer by that, before it is known here.
func (r *Registry) lastsUntil(l *Lease) Instant {
	if end, drains := r.drains.end(r, l); drains { // the lease is shorter while the clock stands
		return end
	}
	end, length := l.End(), time.Duration(l.length.Load())
	if length <= drainLength || r.alone() {
		return end
	}
	return max(end, endAt(r.Now(), length))
}

// cover returns once all servers know until when a lease lasts.
func (r *Registry) cover(ctx context.Context, l *Lease) error {
	if r.shared == nil {
		return nil
	}
	end, length := l.End(), time.Duration(l.length.Load())
	if end == Never || length <= drainLength {
		return nil
	}
	if err := r.shared.Renew(ctx, []Renewal{{l.slot.service, l.slot.label, end}}); err != nil {
		return fmt.Errorf("renew the lease of %s/%s: %w", l.slot.service, l.slot.label, err)
	}
	if m, ok := r.member(l.slot); !ok || m.Lease != l {
		return fmt.Errorf("%s/%s: %w", l.slot.service, l.slot.label, ErrNotFound)
	}
	return nil
}

// decideTries is how often something is decided that other servers change at the
// same time.
const decideTries = 30

// decided calls decide, which decides by what is there and commits that, until no
// other server has changed it meanwhile.
func decided[T any](decide func() (T, error)) (result T, err error) {
	for range decideTries {
		if result, err = decide(); !errors.Is(err, ErrConflict) {
			return result, err
		}
	}
	return result, fmt.Errorf("%w: tried %d times: %w", ErrNotDurable, decideTries, err)
}

// ErrCutOff is when a [Shared] backend is out of this server's reach. It is an
// ErrNotDurable of which another server may know better.
var ErrCutOff = fmt.Errorf("%w", ErrNotDurable)

// ErrUnconfirmed is when a [Shared] backend lost touch before it could learn whether
// the change was made. It is an ErrNotDurable of which nobody can say that
// nothing has happened: the change may yet become visible.
var ErrUnconfirmed = fmt.Errorf("%w, as far as this server knows", ErrNotDurable)

// Stale reports whether the backend has been out of reach for so long that what
// the registry holds can no longer be confirmed, and for how long that has been
// so. Such a registry still answers, but the lease clock stands. It is never so
// for a backend that nobody shares. It allocates nothing and may be called for
// every query.
func (r *Registry) Stale() (since time.Duration, stale bool) { return r.staleAt(r.clock.real()) }

// Present is Now and Stale of the same moment, by one look at the clock.
func (r *Registry) Present() (now Instant, since time.Duration, stale bool) {
	real := r.clock.real()
	since, stale = r.staleAt(real)
	return r.nowAt(real), since, stale
}

func (r *Registry) staleAt(real time.Duration) (since time.Duration, stale bool) {
	until := r.confirmed.Load()
	if until == math.MaxInt64 {
		return 0, false
	}
	since = real - time.Duration(until)
	return max(since, 0), since > 0
}

// staleness is what Stale said last, for those who wait until it says otherwise.
type staleness struct {
	mu      sync.Mutex
	stale   bool          // guarded by mu
	changed chan struct{} // closed when stale changes; guarded by mu
}

// note takes in what Stale says.
func (s *staleness) note(stale bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale == stale {
		return
	}
	s.stale = stale
	close(s.changed)
	s.changed = make(chan struct{})
}

// Staleness returns whether the registry was stale when Run looked last, which
// is 20 ms ago at most, and a channel that is closed when that changes; nil, and
// so never, for a backend that nobody shares.
func (r *Registry) Staleness() (stale bool, changed <-chan struct{}) {
	if r.shared == nil {
		return false, nil
	}
	r.staleness.mu.Lock()
	defer r.staleness.mu.Unlock()
	return r.staleness.stale, r.staleness.changed
}

// Judges reports whether it is for this server to run an instance's check, which
// of several servers one does.
func (r *Registry) Judges(i *Instance) bool {
	return r.shared == nil || r.shared.Judges(i.Service, i.Label)
}

// Shared reports whether other servers work on the same backend, so that a
// renewed lease has to be made known to them: see Cover.
func (r *Registry) Shared() bool { return r.shared != nil }

// Cover returns once all servers know until when these leases last, and this
// registry has seen every change that was made before it was called: who was
// removed elsewhere is no longer here then. Without leases it waits for the
// latter alone. It is for a registry that is Shared; errors are those of
// [Shared.Renew].
func (r *Registry) Cover(ctx context.Context, leases []Renewal) error {
	if err := r.shared.Renew(ctx, leases); err != nil {
		return fmt.Errorf("make %d leases known to the other servers: %w", len(leases), err)
	}
	return nil
}
