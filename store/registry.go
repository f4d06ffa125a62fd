package store

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a [Registry] can be told. The zero value is usable.
type Config struct {
	// Reserved are service names that are refused, each with what it is taken
	// by, as it stands in the error: {"ns": "the zone's name server (--ns)"}.
	Reserved map[string]string

	// MaxTTL is the largest TTL that answers carry. After a restart it bounds
	// how long caches may still hold what the last run answered. Default 30 s.
	MaxTTL time.Duration

	// MaxRegistering bounds the registrations that are being made durable, which
	// is what they mostly wait for: more get ErrBusy. They share the backend's
	// commits, so one that does its work never has as many. Heartbeats are not
	// among them, nor registrations that change nothing. Default 1024.
	MaxRegistering int

	// History is how many events are kept for subscribers who resume.
	// Default 16384.
	History int

	// Derive makes of every new view, before anybody sees it, what a reader
	// wants to have ready ([View.Derived]). It runs in the way of each change,
	// one call at a time, so its cost must hang on that service only. Default:
	// nothing.
	Derive func(*View) any

	// Addresses are the prefixes by whose addresses instances are found
	// ([Registry.Holders]). Default: none, which costs nothing.
	Addresses []netip.Prefix

	// Standing has the lease clock stand until Run is called: for a server that
	// reads what another has stored while that one still answers, and takes
	// heartbeats later. Default: it goes from the end of Open on.
	Standing bool

	// Stalled is called, from the goroutines of [Registry.Run], when the server
	// has not run, or not enough of it, for a while: how long that lasted, and
	// by how much all leases have been extended for it. Default: nothing.
	Stalled func(lasted, extended time.Duration)
}

func (c Config) withDefaults() Config {
	if c.MaxTTL == 0 {
		c.MaxTTL = 30 * time.Second
	}
	if c.MaxRegistering == 0 {
		c.MaxRegistering = 1024
	}
	if c.History == 0 {
		c.History = 16384
	}
	if c.Derive == nil {
		c.Derive = func(*View) any { return nil }
	}
	if c.Stalled == nil {
		c.Stalled = func(_, _ time.Duration) {}
	}
	return c
}

// Registry is the live set: every registered instance with its lease. All
// methods may be called concurrently. Reads take no lock and see a change
// whole or not at all; a change costs in proportion to its service.
type Registry struct {
	cfg     Config
	backend Backend
	shared  Shared // the backend, where several servers share it; else nil
	clock   *clock

	services *index
	labels   labelCounts
	holders  addresses
	revision atomic.Uint64

	// confirmed is the Age until which what is here counts as confirmed by the
	// backend; MaxInt64 where nobody shares that.
	confirmed atomic.Int64
	staleness staleness

	// mu is held while changes are made visible and published; readers of the
	// present state need it not.
	mu   sync.Mutex
	idle []idleService // services without instances, oldest first; guarded by mu

	registering chan struct{} // has an element for each that is being made durable
	writing     slotLocks
	deadlines   *deadlines
	weights     *weights
	drains      drains
	elsewhere   elsewhere
	feed        *feed
	counts      counts
}

// Open loads what the backend has kept. Every instance comes back with a full
// fresh lease: nobody could send a heartbeat while the server was away. The
// registry takes the backend over; Close closes it.
func Open(ctx context.Context, b Backend, cfg Config) (*Registry, error) {
	r := &Registry{
		cfg:       cfg.withDefaults(),
		backend:   b,
		clock:     newClock(), // stands until all are loaded
		services:  newIndex(),
		deadlines: newDeadlines(),
		weights:   newWeights(),
	}
	r.clock.goesOn = func(real time.Duration) { r.drains.settle(r, real) }
	r.holders.within = cfg.Addresses
	r.confirmed.Store(math.MaxInt64)
	r.registering = make(chan struct{}, r.cfg.MaxRegistering)
	restored := map[*service]*View{}
	var replica *Replica
	if shared, ok := b.(Shared); ok {
		r.shared, replica = shared, newReplica(r, restored)
		r.staleness.changed = make(chan struct{})
		r.confirmed.Store(0)
		shared.Join(replica)
	}
	at, err := b.Start(ctx, func(i *Instance) { r.restore(restored, i, 0) }, r.apply)
	if err != nil {
		return nil, err
	}
	for s, v := range restored {
		v.complete()
		// Its last change may have been a removal, of which nothing is left;
		// clients that hold an ETag from before are to see that it is another.
		v.Revision = at
		v.derived = r.cfg.Derive(v)
		s.view.Store(v)
	}
	r.revision.Store(uint64(at))
	r.feed = newFeed(r.cfg.History, at)
	switch {
	case replica != nil:
		if err := replica.begin(ctx); err != nil {
			return nil, err
		}
	case !cfg.Standing:
		r.clock.start()
	}
	return r, nil
}

// restore takes one stored instance in, before anybody reads the registry. Its
// lease ends when another server has said, or, where that is 0, is a fresh one.
func (r *Registry) restore(into map[*service]*View, i *Instance, end Instant) *Lease {
	s := r.home(i.Service)
	v := into[s]
	if v == nil {
		v = &View{Service: i.Service, home: s}
		into[s] = v
		s.cached.Store(int64(r.Now().Add(r.longest() + time.Second)))
	}
	i.Service = v.Service // one copy of the name for all its instances
	if i.Check == nil && i.Given != "" && i.Permanent() && i.Port != 0 {
		i.Check = SeedCheck(netip.Addr{}) // it was registered before there were checks
	}
	l := r.grant(i)
	switch {
	case end != 0:
		l.end.Store(int64(end))
		r.deadlines.schedule(l, end) // it may be well before that of a fresh one
		if i.Leaving {
			r.drains.add(r, l)
		}
	case i.Leaving:
		// Caches of the last run's answers have forgotten it by then.
		left := r.cfg.MaxTTL + time.Second
		if !i.Permanent() {
			left = min(left, i.TTL)
		}
		l.extend(r.Now().Add(left))
		r.drains.add(r, l)
	}
	v.members = append(v.members, Member{i, l}) // in order once it is complete
	r.labels.count(nil, i)
	r.holders.add(nil, i, l)
	return l
}

// grant makes the lease of a new member.
func (r *Registry) grant(i *Instance) *Lease {
	l := newLease(slot{i.Service, i.Label}, r.Now(), i.leaseLength())
	r.deadlines.schedule(l, l.End())
	return l
}

// Close ends all subscriptions and closes the backend.
func (r *Registry) Close() error {
	r.feed.stop()
	return r.backend.Close()
}

// Revision returns the revision of the last change.
func (r *Registry) Revision() Revision { return Revision(r.revision.Load()) }

// Service returns the present state of a service, nil where nothing is
// registered under that name. A view may still hold instances whose lease has
// ended; its methods leave them out.
func (r *Registry) Service(name string) *View {
	if s := r.services.get(name); s != nil {
		return s.view.Load()
	}
	return nil
}

// ServiceBytes is Service for a name in octets. It allocates nothing.
func (r *Registry) ServiceBytes(name []byte) *View {
	if s := r.services.getBytes(name); s != nil {
		return s.view.Load()
	}
	return nil
}

// Services calls yield with the view of every service, in no order, until it
// returns false.
func (r *Registry) Services(yield func(*View) bool) {
	r.services.all(func(_ string, s *service) bool {
		v := s.view.Load()
		return v == nil || yield(v)
	})
}

// Len returns how many instances are registered, those included whose lease
// has ended and whose removal is under way.
func (r *Registry) Len() int { return r.labels.total() }

// HasTag reports whether any registered instance carries a tag that reads, in
// names, as the label.
func (r *Registry) HasTag(label string) bool { return r.labels.has(label) }

// HasProtocol reports whether any registered instance speaks the protocol.
func (r *Registry) HasProtocol(p Protocol) bool { return r.labels.protocols[p].Load() > 0 }

// Registration is what a registration or a heartbeat has left in place.
type Registration struct {
	*Instance
	Expires  time.Time // the lease's end; zero where permanent
	Created  bool      // it was not there before
	Warnings []string  // allowed, but seldom meant
}

// Register takes an instance in, replaces the one with the same service and
// ID, or, where that would change nothing, is a heartbeat. With create it only
// takes in what is not there: ErrExists. The registry keeps the instance.
func (r *Registry) Register(ctx context.Context, in *Instance, create bool) (Registration, error) {
	if err := in.Normalize(); err != nil {
		return Registration{}, err
	}
	if by, ok := r.cfg.Reserved[in.Service]; ok {
		return Registration{}, &ConflictError{in.Service, by, "service " + in.Service, "choose another service name"}
	}
	if in.judged() {
		in.Status = Starting
	}
	at := slot{in.Service, in.Label}
	if err := r.writing.lock(ctx, at); err != nil {
		return Registration{}, err
	}
	defer r.writing.unlock(at)
	return decided(func() (Registration, error) {
		decided := *in // it gets the status of what it replaces
		return r.register(ctx, at, &decided, create)
	})
}

// register is Register once the caller holds the slot.
func (r *Registry) register(ctx context.Context, at slot, in *Instance, create bool) (Registration, error) {
	present, known := r.member(at)
	live := known && present.Lease.lasts(r.Now())
	switch {
	case live && present.ID != in.ID:
		return Registration{}, &ConflictError{at.label + "." + at.service, present.String(), in.String(), "choose another ID"}
	case live && create:
		return Registration{}, fmt.Errorf("%s: %w", in, ErrExists)
	case live && r.renew(present.Lease, r.Now()):
		// Hearing from it has renewed the lease it has, so that a slow disk
		// below does not let it end.
		r.weights.forget(present.Lease)
		if in.Check != nil && in.Check.Removes {
			// Whoever registers again may just have been started again, and gets
			// the time to listen that a new one has.
			present.Lease.spare(r.Age() + in.Check.Interval)
		}
		if present.sameAs(in) {
			err := r.cover(ctx, present.Lease)
			return r.warned(r.registration(present, false)), err
		}
		if !present.Leaving {
			in.inherit(present.Instance)
		}
		return r.take(ctx, at, Event{Kind: Updated, Before: present.Instance, After: in})
	case known:
		return r.take(ctx, at, Event{Kind: present.ending(), Before: present.Instance}, Event{Kind: Registered, After: in})
	}
	return r.take(ctx, at, Event{Kind: Registered, After: in})
}

// take is commit for a registration, of which only so many are let in.
func (r *Registry) take(ctx context.Context, at slot, events ...Event) (Registration, error) {
	select {
	case r.registering <- struct{}{}:
		defer func() { <-r.registering }()
	default:
		r.counts.shed.Add(1)
		return Registration{}, fmt.Errorf("register %s: %w", events[len(events)-1].After, ErrBusy)
	}
	return r.commit(ctx, at, events...)
}

// commit makes events durable and visible; the last one leaves the instance
// at the slot, which the caller has locked.
func (r *Registry) commit(ctx context.Context, at slot, events ...Event) (Registration, error) {
	last := &events[len(events)-1]
	if m, known := r.member(at); known && last.Kind != Registered {
		defer r.hear(ctx, m.Lease)()
	}
	if err := r.backend.Commit(ctx, events); err != nil {
		return Registration{}, fmt.Errorf("register %s: %w", last.After, err)
	}
	present, ok := r.member(at)
	if !ok && r.shared != nil { // another server has removed it since
		return r.warned(Registration{Instance: last.After, Created: last.Kind == Registered}), nil
	}
	if !ok {
		panic("store: internal error: a committed instance is not in the registry")
	}
	return r.warned(r.registration(present, last.Kind == Registered)), nil
}

// hear renews the lease of whoever waits for a change to be made durable, until
// done is called or ctx is done: a disk that is slower than the lease is no
// reason to end it.
func (r *Registry) hear(ctx context.Context, l *Lease) (done func()) {
	length := time.Duration(l.length.Load())
	if length <= drainLength { // permanent, or to end whatever happens
		return func() {}
	}
	stop := make(chan struct{})
	var again func()
	again = func() {
		select {
		case <-stop:
		case <-ctx.Done():
		default:
			if l.renew(r.Now()) {
				time.AfterFunc(length/3, again)
			}
		}
	}
	first := time.AfterFunc(length/3, again)
	return func() {
		close(stop)
		if !first.Stop() {
			l.renew(r.Now()) // it took long
		}
	}
}

func (r *Registry) registration(m Member, created bool) Registration {
	reg := Registration{Instance: m.Instance, Created: created}
	if end := m.Lease.End(); end != Never {
		reg.Expires = r.Wall(end)
	}
	return reg
}

// warned adds the warnings, which are for those who register.
func (r *Registry) warned(reg Registration) Registration {
	reg.Warnings = reg.Instance.Warnings()
	if v := r.Service(reg.Service); v != nil {
		for _, l := range v.ambiguous(reg.Instance) {
			reg.Warnings = append(reg.Warnings, fmt.Sprintf("tags: %s is the label of an instance and a tag of %s: the name %s.%s means the instance", l, reg.Service, l, reg.Service))
		}
	}
	return reg
}

func (r *Registry) member(at slot) (Member, bool) {
	v := r.Service(at.service)
	if v == nil {
		return Member{}, false
	}
	return v.at(at.label)
}

// home returns the place of a service, made where there is none. Only Open and
// apply may make one.
func (r *Registry) home(name string) *service {
	s := r.services.get(name)
	if s == nil {
		s = &service{}
		r.services.add(name, s)
	}
	return s
}

// apply is the registry's one state machine: it makes committed events
// visible. The backend calls it with one batch at a time.
func (r *Registry) apply(events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := batch{Registry: r, views: make(map[*service]*View, 1)}
	for k := range events {
		b.apply(&events[k])
	}
	b.publish()
	r.revision.Store(uint64(events[len(events)-1].Revision))
	r.feed.publish(events)
	r.forgetLocked()
}

// batch is a batch of events being applied: nobody sees it yet.
type batch struct {
	*Registry
	views   map[*service]*View
	reread  bool // the events are what was missed, of which nobody has said it in time
	changed []changedLease
	moved   []movedLease
}

// changedLease is a lease that has been given a new length.
type changedLease struct {
	lease *Lease
	home  *service
	event *Event
	old   Instant // its end before
}

// leftFor returns the moment before which a lease of a service does not end that an
// event makes shorter. Who decided it elsewhere has left time for what all servers
// hand out, and told somebody when that is over: only what was handed out here by
// a lease of which that one did not know yet may be later.
func (b *batch) leftFor(e *Event, s *service) Instant {
	if e.Elsewhere && !b.reread {
		return Instant(s.cached.Load())
	}
	return b.cachedUntil(s)
}

func (b *batch) apply(e *Event) {
	i := e.Instance()
	b.counts.changes[e.Kind].Add(1)
	s := b.home(i.Service)
	v := b.views[s]
	if v == nil {
		if v = s.view.Load(); v == nil {
			v = &View{Service: i.Service, home: s}
		}
		v = v.edit()
		b.views[s] = v
	}
	v.Revision = e.Revision
	if e.After != nil {
		e.After.Service = v.Service // one copy of the name for all its instances
	}
	old, known := v.at(i.Label)
	e.Before = old.Instance
	b.labels.count(e.Before, e.After)
	switch {
	case e.After == nil:
		v.drop(i.Label)
		if known {
			b.deadlines.remove(old.Lease)
			b.drains.remove(b.Registry, old.Lease)
			b.move(old.Lease, e)
		}
	case known && e.Checked:
		v.put(Member{i, old.Lease})
	case known:
		// A lease whose length stays is let alone: whoever sent a heartbeat has
		// renewed it, and not every change comes from one.
		if i.leaseLength() != old.leaseLength() {
			b.drains.remove(b.Registry, old.Lease) // to be one again if it still is
			end := e.End
			if end == 0 {
				end = endAt(b.Now(), i.leaseLength())
			}
			before := old.Lease.set(end, i.leaseLength(), b.leftFor(e, s))
			old.Lease.others.Store(!b.alone())
			b.changed = append(b.changed, changedLease{old.Lease, s, e, before})
		} else if e.Elsewhere {
			b.heard(old.Lease, e.End)
		}
		v.put(Member{i, old.Lease})
		b.move(old.Lease, e)
	default:
		l := b.grant(i)
		if e.End != 0 {
			l.end.Store(int64(e.End))
			l.others.Store(!b.alone())
			b.deadlines.schedule(l, e.End)
		}
		v.put(Member{i, l})
		b.move(l, e)
	}
}

func (b *batch) publish() {
	for s, v := range b.views {
		if len(v.members) > 0 {
			v.derived = b.cfg.Derive(v)
			s.view.Store(v)
			continue
		}
		s.view.Store(nil)
		b.idle = append(b.idle, idleService{v.Service, s})
	}
	for _, m := range b.moved {
		b.holders.remove(m.before, m.after, m.lease)
	}
	// Readers of the views before may have handed out the longer leases until
	// just now. From here on HandOut turns them away.
	for _, c := range b.changed {
		c.lease.extend(min(c.old, b.leftFor(c.event, c.home)))
		if time.Duration(c.lease.length.Load()) == drainLength {
			b.drains.add(b.Registry, c.lease)
		}
		b.deadlines.schedule(c.lease, c.lease.End())
	}
}

// idleService is a service whose last instance is gone. It is kept for as long
// as caches may hold something of it, because safe_after hangs on that.
type idleService struct {
	name string
	home *service
}

// forgetLocked removes idle services of which no cache holds anything.
func (r *Registry) forgetLocked() {
	now := r.Now()
	for len(r.idle) > 0 {
		s := r.idle[0]
		if s.home.view.Load() == nil && Instant(s.home.cached.Load()) > now {
			return
		}
		if s.home.view.Load() == nil && r.services.get(s.name) == s.home {
			r.services.remove(s.name)
		}
		r.idle = r.idle[1:]
	}
}
