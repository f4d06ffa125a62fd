package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// drainLength is the length of a lease whose instance is leaving: so short
// that no renewal moves its end.
const drainLength = time.Nanosecond

// Removal is what a deregistration has left behind.
type Removal struct {
	Revision Revision
	// SafeAfter is when the last honest cache has forgotten the instance: the
	// last TTL handed out, counted from its answer, and one second more; never
	// after the lease's end.
	SafeAfter time.Time
}

// Deregister removes an instance.
func (r *Registry) Deregister(ctx context.Context, service, id string) (Removal, error) {
	at := slot{FoldName(service), Label(id)}
	if err := r.writing.lock(ctx, at); err != nil {
		return Removal{}, err
	}
	defer r.writing.unlock(at)
	return decided(func() (Removal, error) { return r.deregister(ctx, at, id) })
}

// deregister is Deregister once the caller holds the slot.
func (r *Registry) deregister(ctx context.Context, at slot, id string) (Removal, error) {
	present, err := r.find(ctx, at, id, (*Lease).lasts)
	if err != nil {
		return Removal{}, err
	}
	home := r.services.get(at.service)
	events := []Event{{Kind: Deregistered, Before: present.Instance}}
	if err := r.backend.Commit(ctx, events); err != nil {
		return Removal{}, fmt.Errorf("deregister %s: %w", present, err)
	}
	// Read after the view without it was published: see View.HandOut.
	now := r.Now()
	safe := max(now, min(r.lastsUntil(present.Lease), r.cachedUntil(home)))
	return Removal{events[0].Revision, r.Wall(safe)}, nil
}

// Drain takes an instance out of its service's answers and leaves it under its
// own name until SafeAfter, when it is removed. Its lease is made to end then:
// so the TTLs of its own name run out by that moment too, and no heartbeat
// moves it. Registering the instance again makes it an ordinary one. Draining
// what is being drained changes nothing.
//
// After a restart it is still draining, for as long as caches may hold what
// was answered before.
func (r *Registry) Drain(ctx context.Context, service, id string) (Removal, error) {
	at := slot{FoldName(service), Label(id)}
	if err := r.writing.lock(ctx, at); err != nil {
		return Removal{}, err
	}
	defer r.writing.unlock(at)
	return decided(func() (Removal, error) { return r.drain(ctx, at, id) })
}

// drain is Drain once the caller holds the slot.
func (r *Registry) drain(ctx context.Context, at slot, id string) (Removal, error) {
	present, err := r.find(ctx, at, id, (*Lease).lasts)
	if err != nil {
		return Removal{}, err
	}
	revision := present.Revision
	if !present.Leaving {
		after := *present.Instance
		after.Status, after.Leaving = Draining, true
		events := []Event{{Kind: StatusChanged, Before: present.Instance, After: &after}}
		if err := r.backend.Commit(ctx, events); err != nil {
			return Removal{}, fmt.Errorf("drain %s: %w", present, err)
		}
		revision = events[0].Revision
	}
	return Removal{revision, r.Wall(max(r.Now(), present.Lease.End()))}, nil
}

// find returns the instance at a slot whose lease lasts, as is said of it. Where
// it is not there, but may have been registered with another server just now, what
// that has done is waited for.
func (r *Registry) find(ctx context.Context, at slot, id string, lasts func(l *Lease, now Instant) bool) (Member, error) {
	for waited := r.shared == nil; ; waited = true {
		present, known := r.member(at)
		if known && present.ID == id && lasts(present.Lease, r.Now()) {
			return present, nil
		}
		if waited {
			return Member{}, fmt.Errorf("%s/%s: %w", at.service, id, ErrNotFound)
		}
		if err := r.shared.Renew(ctx, nil); err != nil {
			return Member{}, fmt.Errorf("look for %s/%s: %w", at.service, id, err)
		}
	}
}

// leaseLength returns how long a renewal makes the instance's lease; 0: for
// ever.
func (i *Instance) leaseLength() time.Duration {
	if i.Leaving {
		return drainLength
	}
	return i.TTL
}

// drains are the instances that are being drained. Each goes when its
// SafeAfter says: whoever waits for that stops the instance then, and the name
// must not be answered any more even if the lease clock has stood meanwhile.
// So their leases are made to end earlier on it by as much.
type drains struct {
	n    atomic.Int64
	mu   sync.Mutex
	ends map[*Lease]time.Duration // when, on the clock that never stands; guarded by mu
}

// add takes in an instance whose lease has been made to end with its drain.
func (d *drains) add(r *Registry, l *Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		d.ends = map[*Lease]time.Duration{}
	}
	real := r.clock.real()
	now, _ := r.clock.at(real)
	d.ends[l] = real + l.End().Sub(now)
	d.n.Store(int64(len(d.ends)))
}

func (d *drains) remove(l *Lease) {
	if d.n.Load() == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ends, l)
	d.n.Store(int64(len(d.ends)))
}

// keepTime makes up for what the lease clock of r has stood until a moment. It
// is called before anybody is told what the clock shows then, so that nobody
// sees the longer leases.
func (d *drains) keepTime(r *Registry, real time.Duration) {
	if d.n.Load() == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now, _ := r.clock.at(real)
	for l, end := range d.ends {
		to := now.Add(end - real)
		if l.shorten(to) {
			r.deadlines.schedule(l, to)
		}
	}
}
