package store

import (
	"context"
	"sync"
	"time"
)

// Memory is the [Backend] that keeps nothing: for tests and throw-away use.
// Every registry on it is a fresh one.
type Memory struct {
	// At is the revision to begin at, to be set before the registry is opened.
	// Default: [FreshRevision].
	At Revision

	mu       sync.Mutex
	revision Revision
	apply    func([]Event)
	closed   bool
}

var _ Backend = (*Memory)(nil)

// NewMemory returns a backend for one registry.
func NewMemory() *Memory { return &Memory{} }

// Start implements [Backend].
func (m *Memory) Start(_ context.Context, _ func(*Instance), apply func([]Event)) (Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.apply = apply
	if m.revision = m.At; m.revision == 0 {
		m.revision = FreshRevision()
	}
	return m.revision, nil
}

// Commit implements [Backend].
func (m *Memory) Commit(_ context.Context, events []Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	for k := range events {
		m.revision++
		events[k].Stamp(m.revision)
	}
	m.apply(events)
	return nil
}

// Close implements [Backend].
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// FreshRevision is where a store that has never been used starts: the unix
// time, so that a secondary which saw an earlier store's serial does not see
// it go back, as long as that store made less than one change a second.
func FreshRevision() Revision { return Revision(time.Now().Unix()) }
