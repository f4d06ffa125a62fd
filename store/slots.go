package store

import (
	"context"
	"sync"
	"sync/atomic"
)

// slotLocks lets one writer at a time decide about, commit and apply a change
// of a slot. Writers of different slots never meet here, so they share the
// backend's commits.
type slotLocks struct {
	mu   sync.Mutex
	held map[slot]chan struct{} // closed when the holder is done
}

// lock waits until nobody else holds the slot, or for ctx.
func (l *slotLocks) lock(ctx context.Context, at slot) error {
	for {
		l.mu.Lock()
		done, taken := l.held[at]
		if !taken {
			l.takeLocked(at)
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryLock takes the slot unless it is held.
func (l *slotLocks) tryLock(at slot) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.held[at]; taken {
		return false
	}
	l.takeLocked(at)
	return true
}

func (l *slotLocks) takeLocked(at slot) {
	if l.held == nil {
		l.held = map[slot]chan struct{}{}
	}
	l.held[at] = make(chan struct{})
}

func (l *slotLocks) unlock(slots ...slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range slots {
		close(l.held[at])
		delete(l.held, at)
	}
}

// labelCounts says which labels stand above services in the zone: _tcp and
// _udp where an instance speaks that protocol, _v2 where one carries the tag.
// Only restore and apply, which never run at the same time, count.
type labelCounts struct {
	protocols [2]atomic.Int64
	tags      sync.Map // string -> *atomic.Int64
}

// count replaces what before contributed by what after does; either may be nil.
func (c *labelCounts) count(before, after *Instance) {
	c.add(after, 1) // first, so that a label that stays never passes through 0
	c.add(before, -1)
}

func (c *labelCounts) add(i *Instance, by int64) {
	if i == nil {
		return
	}
	c.protocols[i.Protocol].Add(by)
	for _, t := range i.Tags {
		l, ok := TagLabel(t)
		if !ok {
			continue
		}
		n, _ := c.tags.LoadOrStore(l, new(atomic.Int64))
		if n.(*atomic.Int64).Add(by) == 0 { //nolint:errcheck // only this stores
			c.tags.Delete(l)
		}
	}
}

// total returns how many instances are counted: each speaks one protocol.
func (c *labelCounts) total() int {
	return int(c.protocols[TCP].Load() + c.protocols[UDP].Load())
}

func (c *labelCounts) has(label string) bool {
	_, ok := c.tags.Load(label)
	return ok
}
