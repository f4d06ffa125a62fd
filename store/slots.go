package store

import (
	"context"
	"sync"
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
