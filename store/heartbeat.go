package store

import (
	"context"
	"fmt"
	"time"
)

// Beat is what a heartbeat may change along the way; nil leaves as it is.
type Beat struct {
	TTL    *time.Duration
	Weight *uint16
	Status *Status
}

// Heartbeat renews an instance's lease. Without a change it touches memory
// only, so it goes on whatever the backend does. A change of weight alone may
// be held back for up to a second, where there was one in the second before:
// what is returned is what is in force. Of an instance that is being drained
// nothing can be changed: ErrDraining where the beat says it is anything else.
func (r *Registry) Heartbeat(ctx context.Context, service, id string, b Beat) (Registration, error) {
	at := slot{FoldName(service), Label(id)}
	present, err := r.find(ctx, at, id, r.renew)
	if err != nil {
		return Registration{}, err
	}
	if present.Leaving && b.Status != nil && *b.Status != Draining {
		return Registration{}, fmt.Errorf("%s/%s: %w", at.service, id, ErrDraining)
	}
	if b.changed(present.Instance) == nil && (b.Weight == nil || !r.weights.waits(present.Lease)) {
		return r.registration(present, false), r.cover(ctx, present.Lease)
	}
	if b.TTL != nil {
		if err := CheckTTL(*b.TTL); err != nil {
			return Registration{}, err
		}
	}
	if err := r.writing.lock(ctx, at); err != nil {
		return Registration{}, err
	}
	defer r.writing.unlock(at)
	return decided(func() (Registration, error) { return r.beat(ctx, at, id, b) })
}

// beat is a heartbeat that changes something, once the caller holds the slot.
func (r *Registry) beat(ctx context.Context, at slot, id string, b Beat) (Registration, error) {
	present, known := r.member(at)
	if !known || present.ID != id || !present.Lease.renew(r.Now()) {
		return Registration{}, fmt.Errorf("%s/%s: %w", at.service, id, ErrNotFound)
	}
	after := b.changed(present.Instance)
	if b.Weight != nil && onlyWeight(present.Instance, after) && r.weights.hold(present, *b.Weight) {
		return r.registration(present, false), r.cover(ctx, present.Lease)
	}
	if after == nil {
		return r.registration(present, false), r.cover(ctx, present.Lease)
	}
	kind := Updated
	if after.sameAs(present.Instance) {
		kind = StatusChanged
	}
	if after.Status == Starting {
		present.Lease.spare(r.Age()) // what was found before it took its word back is over
	}
	reg, err := r.commit(ctx, at, Event{Kind: kind, Before: present.Instance, After: after})
	if err == nil && b.Weight != nil {
		r.weights.forget(present.Lease)
		r.weights.pause(present.Lease, r.Now().Add(weightPause))
	}
	return reg, err
}

// changed returns what the beat makes of i, nil where that is i itself.
func (b Beat) changed(i *Instance) *Instance {
	if i.Leaving || b == (Beat{}) {
		return nil
	}
	c := *i
	if b.TTL != nil {
		c.TTL = *b.TTL
	}
	if b.Weight != nil {
		c.Weight = *b.Weight
	}
	if b.Status != nil {
		c.say(*b.Status)
	}
	if c.TTL == i.TTL && c.Weight == i.Weight && c.Status == i.Status && c.Failing == i.Failing {
		return nil
	}
	return &c
}

// onlyWeight reports whether a change leaves all of i but its weight; nil is
// none.
func onlyWeight(i, after *Instance) bool {
	return after == nil || after.TTL == i.TTL && after.Status == i.Status && after.Failing == i.Failing
}

// Renew is [Registry.Heartbeat] without a change, for one of many: names come
// in octets, nothing is allocated, and the answer is only whether such an
// instance is there.
func (r *Registry) Renew(service, id []byte) bool {
	now := r.Now()
	m, ok := r.named(service, id, now)
	return ok && r.renew(m.Lease, now)
}

// RenewUntil is Renew, and says until when the lease lasts now; Never where the
// instance is permanent.
func (r *Registry) RenewUntil(service, id []byte) (Renewal, bool) {
	now := r.Now()
	m, ok := r.named(service, id, now)
	if !ok || !r.renew(m.Lease, now) {
		return Renewal{}, false
	}
	return Renewal{m.Lease.slot.service, m.Lease.slot.label, m.Lease.End()}, true
}

// Live reports whether such an instance is there. It allocates nothing.
func (r *Registry) Live(service, id []byte) bool {
	now := r.Now()
	m, ok := r.named(service, id, now)
	return ok && m.Lease.Alive(now)
}

// named returns the instance with names in octets, and whether its lease lasts at
// now or may be renewed all the same: see renew.
func (r *Registry) named(service, id []byte, now Instant) (Member, bool) {
	var name, label [maxLabel]byte
	if len(service) > maxLabel {
		return Member{}, false
	}
	v := r.ServiceBytes(appendFolded(name[:0], service))
	if v == nil {
		return Member{}, false
	}
	l := id
	if !isHostLabel(id) {
		l = appendDerivedLabel(label[:0], id)
	}
	m, ok := v.ByLabelBytes(l, now)
	return m, (ok || m.Lease != nil && r.shared != nil) && m.ID == string(id)
}

// appendFolded is FoldName for octets.
func appendFolded(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
