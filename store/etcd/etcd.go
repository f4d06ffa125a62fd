// Package etcd keeps a registry's instances in etcd, for several servers that
// share them: each takes registrations and heartbeats, and each answers from its
// own memory.
//
// A change is one transaction, on condition that what it was decided on still
// holds. Every server sees all changes in etcd's order, its own as well, by a
// watch, and only that changes its registry. The revision is etcd's own of the last
// change, and a number more, so it is the same everywhere. Heartbeats of many instances
// share a batch of renewals, and move no revision.
//
// Start reading at [Store]; clock.go says how leases can end on all servers at
// the same time. docs/storage.md has what is in etcd.
package etcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
)

// Config is what a [Store] can be told.
type Config struct {
	// Endpoints are the members to talk to, as host:port; at least one.
	Endpoints []string

	// Prefix is what all keys begin with, without a slash at the end. Servers
	// with the same prefix share one registry. Default: "/roster".
	Prefix string

	// Name is what this server is called in the logs of the others.
	Name string

	// TLS is how the members are talked to; nil: in the clear.
	TLS *tls.Config

	// User and Password are who this server is to etcd; "": nobody.
	User, Password string

	// Compact is how old what etcd keeps of its history gets; one of the
	// servers has etcd drop what is older. 0: nothing is dropped by roster.
	Compact time.Duration

	// Trouble is called when etcd can no longer be reached, with the error, and
	// with nil when it is reached again. Default: nothing.
	Trouble func(error)

	// Waiting is called once where etcd does not answer yet at the start, with
	// why: that is waited for, for 30 seconds. Default: nothing.
	Waiting func(error)

	// Clocks is called when another server's clock goes so much faster than
	// this one's, or slower, that leases are not what they should be: by how
	// much, in thousandths. Default: nothing.
	Clocks func(server string, thousandths float64)

	// Reread is called when everything has been read again, because changes were
	// missed or somebody else has written what only servers write: with why, and
	// what that has made of the registry. Default: nothing.
	Reread func(why error, by store.Difference)
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "/roster"
	}
	if c.Trouble == nil {
		c.Trouble = func(error) {}
	}
	if c.Waiting == nil {
		c.Waiting = func(error) {}
	}
	if c.Clocks == nil {
		c.Clocks = func(string, float64) {}
	}
	if c.Reread == nil {
		c.Reread = func(error, store.Difference) {}
	}
	return c
}

// Client is the part of etcd's own client that a [Store] uses.
type Client interface {
	clientv3.KV
	clientv3.Watcher
}

// Store is a [store.Shared] on etcd.
type Store struct {
	cfg     Config
	client  Client
	keys    keys
	id      string // this server among all that have ever been
	replica *store.Replica
	where   string // the members, for errors

	stop    context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{} // has room for one: there is something to write

	others   atomic.Int64 // how many other servers there are
	mu       sync.Mutex
	closed   bool             // guarded by mu, as is all that follows
	known    known            // what is in etcd, as far as it has been seen
	base     store.Revision   // to which etcd's revision is added
	seen     int64            // etcd's revision up to which all has been seen
	cluster  uint64           // etcd's name for itself; 0: not known yet
	setBack  bool             // etcd is not what has been seen: it is to be read again
	advanced chan struct{}    // closed when seen moves on
	applying bool             // known is ahead of the registry
	ticks    ticks            // of this server
	servers  map[string]*peer // the others
	answered time.Duration    // the Age at which the last tick was sent that etcd has taken
	returned time.Duration    // the same for the last that has come back

	changes uint64                         // how many this server has tried
	waiting map[uint64]chan store.Revision // for each that is under way: it has been seen
	pending pending                        // renewals to be written
	cut     chan struct{}                  // closed while etcd cannot be reached
	cutOff  bool
	why     error // the last thing that went wrong
	old     int64 // what was seen when etcd's history was last looked at
	counts  counts
}

var _ store.Shared = (*Store)(nil)

// New returns a store that uses a client which is there already, and closes it
// at the end.
func New(c Client, cfg Config) *Store {
	cfg = cfg.withDefaults()
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &Store{
		cfg:      cfg,
		client:   c,
		keys:     keysUnder(cfg.Prefix),
		id:       hex.EncodeToString(id[:]),
		where:    strings.Join(cfg.Endpoints, ", "),
		wake:     make(chan struct{}, 1),
		known:    newKnown(),
		servers:  map[string]*peer{},
		ticks:    ticks{heard: map[string][]sentTick{}, apart: map[string]*apart{}, answers: map[string]time.Duration{}},
		waiting:  map[uint64]chan store.Revision{},
		cut:      make(chan struct{}),
		advanced: make(chan struct{}),
		counts:   newCounts(),
	}
}

// Join implements [store.Shared].
func (s *Store) Join(r *store.Replica) { s.replica = r }

// Close implements [store.Backend].
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.failLocked()
	s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), txnTime)
	defer cancel()
	if s.replica != nil && s.stop != nil {
		s.leave(ctx)
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// Trouble with reaching etcd.

// checkCut notices that etcd has been out of reach for too long.
func (s *Store) checkCut() {
	s.mu.Lock()
	if s.cutOff || !s.ticks.begun || s.replica.Age() <= s.ticks.until {
		s.mu.Unlock()
		return
	}
	s.cutOff = true
	s.counts.cutOffs++
	s.failLocked()
	err := s.outOfReachLocked(store.ErrCutOff)
	s.mu.Unlock()
	s.cfg.Trouble(err)
}

// failLocked ends the waiting of all who wait for etcd.
func (s *Store) failLocked() {
	select {
	case <-s.cut:
	default:
		close(s.cut)
	}
}

// reached ends the trouble. The caller holds mu.
func (s *Store) reached() {
	if s.closed || !s.cutOff {
		return
	}
	s.cutOff, s.why = false, nil
	s.cut = make(chan struct{})
	go s.cfg.Trouble(nil)
}

// outOfReachLocked returns the error for those who need etcd while it is out of
// reach: what is store.ErrCutOff, or ErrUnconfirmed where something may have been
// written.
func (s *Store) outOfReachLocked(what error) error {
	r, refused := errors.AsType[*refusal](s.why)
	switch {
	case s.closed:
		return store.ErrClosed
	case refused: // it is reached, and says the same to other servers
		if !errors.Is(what, store.ErrUnconfirmed) {
			what = store.ErrNotDurable
		}
		return fmt.Errorf("%w: %w", what, r)
	case s.why != nil:
		return fmt.Errorf("%w: etcd at %s cannot be reached, or has no leader (%w)", what, s.where, s.why)
	}
	return fmt.Errorf("%w: etcd at %s cannot be reached, or has no leader", what, s.where)
}

// outOfReach is for those who have written something.
func (s *Store) outOfReach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outOfReachLocked(store.ErrUnconfirmed)
}

// note keeps what went wrong, to be told if it lasts.
func (s *Store) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = err
}

// isCut returns a channel that is closed while etcd is out of reach.
func (s *Store) isCut() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}
