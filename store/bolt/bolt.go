// Package bolt keeps a registry's instances in one bbolt file, for one server.
//
// A registration is on disk before the call that made it returns: one
// committer takes everything that waits into one transaction and one fsync, so
// a lone writer never waits for a batch to fill and many share the disk.
//
// docs/storage.md has the file's layout. A file that is damaged, foreign or of
// a newer version is refused and left untouched.
package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
)

// Config is what a [Store] can be told. The zero value is usable.
type Config struct {
	// Trouble is called, from the goroutine that writes, when transactions
	// begin to fail, with the error, and with nil when they have worked again
	// for a while. In between each call of Commit is tried. Default: nothing.
	Trouble func(error)
}

// Store is a [store.Backend] on one file.
type Store struct {
	*file
	cfg     Config
	found   contents
	apply   func([]store.Event)
	done    chan struct{} // closed when the committer has ended
	waiting chan struct{} // has room for one: queue is not empty, or closed is set

	commitTx func(*bbolt.Tx) error // (*bbolt.Tx).Commit but in tests
	counts   *counts

	writing  sync.Mutex  // held while a transaction is under way
	haunted  bool        // the last one failed, and may be in the file; guarded by writing
	last     uint64      // the number of the last that did not; guarded by writing
	troubled atomic.Bool // the last transactions have failed

	copying sync.RWMutex // held, for reading, while a backup is taken

	mu     sync.Mutex
	queue  []*commit // guarded by mu
	closed bool      // guarded by mu
}

var _ store.Backend = (*Store)(nil)

// commit is one caller's events on their way to the disk.
type commit struct {
	events []store.Event
	result chan error
}

// Open reads and checks the file at path, made if there is none, and locks it.
func Open(path string, cfg Config) (*Store, error) {
	return openChecked(path, cfg, load)
}

func openChecked(path string, cfg Config, check func(string) (contents, error)) (*Store, error) {
	f, found, err := lock(path, check)
	if err != nil {
		return nil, err
	}
	if cfg.Trouble == nil {
		cfg.Trouble = func(error) {}
	}
	s := &Store{
		file:     f,
		cfg:      cfg,
		commitTx: (*bbolt.Tx).Commit,
		counts:   newCounts(),
		found:    found,
		done:     make(chan struct{}),
		waiting:  make(chan struct{}, 1),
	}
	// The last server may have been killed before its last sync.
	if s.last, err = settle(path); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), f.db.Close())
	}
	if found.revision == 0 {
		if err := s.create(); err != nil {
			return nil, errors.Join(err, f.db.Close())
		}
	}
	return s, nil
}

// create makes the buckets of a fresh store and its revision durable, then the
// file's own entry in its directory, which fsync of the file does not cover.
func (s *Store) create() error {
	s.found.revision = store.FreshRevision()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(instancesBucket); err != nil {
			return err
		}
		return putMeta(tx, s.found.revision, 0)
	})
	if err != nil {
		return fmt.Errorf("create store %s: %w", s.path, err)
	}
	if s.last, err = s.txid(); err != nil {
		return fmt.Errorf("create store %s: %w", s.path, err)
	}
	if err := syncDir(s.path); err != nil {
		return fmt.Errorf("create store %s: %w", s.path, err)
	}
	return nil
}

// Start implements [store.Backend].
func (s *Store) Start(_ context.Context, restore func(*store.Instance), apply func([]store.Event)) (store.Revision, error) {
	for _, i := range s.found.instances {
		restore(i)
	}
	c := committer{Store: s, revision: s.found.revision, undo: map[string]*store.Instance{}}
	s.found.instances = nil
	s.apply = apply
	go c.run()
	return c.revision, nil
}

// Commit implements [store.Backend].
func (s *Store) Commit(_ context.Context, events []store.Event) error {
	c := &commit{events, make(chan error, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	s.wake()
	return <-c.result
}

// Close implements [store.Backend].
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	if s.apply != nil { // started
		s.wake()
		<-s.done
	}
	if s.db == nil { // see mend
		return nil
	}
	return s.db.Close()
}

func (s *Store) wake() {
	select {
	case s.waiting <- struct{}{}:
	default:
	}
}

// take returns everything that waits, and whether more may come.
func (s *Store) take() (batch []*commit, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue = s.queue, nil
	return batch, !s.closed
}

// The buckets and the keys in the first of them.
var (
	metaBucket      = []byte("meta")
	instancesBucket = []byte("instances")
	stateKey        = []byte("state")
)

// formatVersion is the version of the file's layout.
const formatVersion = 1

// putMeta writes the state record: format version, revision and number of
// instances, with a checksum as of any record.
func putMeta(tx *bbolt.Tx, revision store.Revision, count uint64) error {
	b, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	return b.Put(stateKey, appendState(nil, revision, count))
}

func appendState(dst []byte, revision store.Revision, count uint64) []byte {
	dst = append(dst, formatVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(revision))
	dst = binary.BigEndian.AppendUint64(dst, count)
	return binary.BigEndian.AppendUint32(dst, checksum(dst))
}
