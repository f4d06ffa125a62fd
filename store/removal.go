package store

import (
	"container/heap"
	"context"
	"fmt"
	"math"
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
	return Removal{revision, r.Wall(max(r.Now(), r.lastsUntil(present.Lease)))}, nil
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
//
// The clock may stand for minutes, with many of them, and every query looks.
// So while it stands a lease has no more than the whole seconds that are left of
// it, which give the same TTL as all that is left; and it is put right when
// these have become fewer, once a second. When the clock goes on, it gets all.
type drains struct {
	next atomic.Int64 // the Age at which there is something to put right

	mu     sync.Mutex               // guards what follows
	ends   map[*Lease]time.Duration // when they end, on the clock that never stands
	stands bool                     // the lease clock does, and all of them are in queue
	queue  drainQueue
}

// drain is one of the drains while the lease clock stands.
type drain struct {
	lease    *Lease
	end, due time.Duration // the Ages at which it ends and is to be put right
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
	if d.stands {
		heap.Push(&d.queue, drain{l, d.ends[l], real})
		d.next.Store(0)
	}
}

// remove lets go of an instance, whose lease has all that is left of it then.
func (d *drains) remove(r *Registry, l *Lease) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end, ok := d.endLocked(r, l); ok {
		l.move(end)
		delete(d.ends, l)
	}
}

// end returns when a drain ends by what the lease clock shows now, and whether l
// is one.
func (d *drains) end(r *Registry, l *Lease) (Instant, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.endLocked(r, l)
}

func (d *drains) endLocked(r *Registry, l *Lease) (Instant, bool) {
	end, ok := d.ends[l]
	if !ok {
		return 0, false
	}
	real := r.clock.real()
	now, _ := r.clock.at(real)
	return now.Add(end - real), true
}

// keepTime makes up for what the lease clock of r has stood until a moment. It
// is called before anybody is told what the clock shows then, so that nobody
// sees the longer leases. Where nothing is to be done it takes no lock.
func (d *drains) keepTime(r *Registry, real time.Duration) {
	if int64(real) < d.next.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now, stands := r.clock.at(real)
	if stands <= 0 {
		return // it has been wound since
	}
	if !d.stands {
		d.stands = true
		for l, end := range d.ends {
			d.queue = append(d.queue, drain{lease: l, end: end})
		}
	}
	next := int64(math.MaxInt64)
	for len(d.queue) > 0 {
		first := &d.queue[0]
		if first.due > real {
			next = int64(first.due)
			break
		}
		if end, ok := d.ends[first.lease]; !ok || end != first.end || !first.keep(r, now, real) {
			heap.Pop(&d.queue)
			continue
		}
		heap.Fix(&d.queue, 0)
	}
	d.next.Store(next)
}

// keep puts the lease right while the clock stands, and reports whether it lasts.
func (d *drain) keep(r *Registry, now Instant, real time.Duration) bool {
	left := d.end - real
	if left <= 0 {
		if d.lease.move(now) {
			r.deadlines.schedule(d.lease, now)
		}
		return false
	}
	whole := left.Truncate(time.Second)
	d.lease.move(now.Add(max(whole, 1)))
	if d.due = d.end - whole; whole > 0 {
		d.due++ // until then as many are left
	}
	return true
}

// settle gives the leases all that is left of them at a moment, from which on
// the clock goes.
func (d *drains) settle(r *Registry, real time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, _ := r.clock.at(real)
	for l, end := range d.ends {
		to := now.Add(end - real)
		if l.move(to) {
			r.deadlines.schedule(l, to)
		}
	}
	d.stands, d.queue = false, nil
	d.next.Store(0)
}

// drainQueue is a heap, the first to be put right on top.
type drainQueue []drain

func (q drainQueue) Len() int           { return len(q) }
func (q drainQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q drainQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

func (q *drainQueue) Push(x any) {
	*q = append(*q, x.(drain)) //nolint:errcheck // it is what add pushes
}

func (q *drainQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = drain{}
	*q = (*q)[:last]
	return x
}
