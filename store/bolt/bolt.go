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
	"os"
	"path/filepath"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/rosterdns/roster/store"
)

// Store is a [store.Backend] on one file.
type Store struct {
	path    string
	db      *bbolt.DB
	found   contents
	apply   func([]store.Event)
	done    chan struct{} // closed when the committer has ended
	waiting chan struct{} // has room for one: queue is not empty, or closed is set

	commitTx func(*bbolt.Tx) error // (*bbolt.Tx).Commit but in tests
	counts   *counts

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

// lockTimeout is how long Open waits for another process to let go of the
// file: long enough for one that is ending.
const lockTimeout = 2 * time.Second

// Open reads and checks the file at path, made if there is none, and locks it.
func Open(path string) (*Store, error) {
	return openChecked(path, load)
}

func openChecked(path string, check func(string) (contents, error)) (*Store, error) {
	db, found, err := lock(path, check)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path:     path,
		db:       db,
		commitTx: (*bbolt.Tx).Commit,
		counts:   newCounts(),
		found:    found,
		done:     make(chan struct{}),
		waiting:  make(chan struct{}, 1),
	}
	if found.revision == 0 {
		if err := s.create(); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return s, nil
}

// lock opens the file for writing after it has been checked, with what it
// holds. Between the two another process may have written it and let go, so it
// is read again where it has changed.
func lock(path string, check func(string) (contents, error)) (*bbolt.DB, contents, error) {
	for range 3 {
		found, err := check(path)
		if err != nil {
			return nil, contents{}, err
		}
		db, err := open(path, &bbolt.Options{
			Timeout: lockTimeout,
			// The list of free pages is made again at each start from the pages
			// in use, which are read anyway: less to write, and nothing to go bad.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		})
		if err != nil {
			return nil, contents{}, err
		}
		tx, err := db.Begin(false)
		if err != nil {
			return nil, contents{}, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
		}
		// bbolt counts to 1 when it makes a file.
		same := uint64(tx.ID()) == max(found.txid, 1)
		if err := tx.Rollback(); err != nil || same {
			return db, found, err
		}
		if err := db.Close(); err != nil {
			return nil, contents{}, fmt.Errorf("open store %s: %w", path, err)
		}
	}
	return nil, contents{}, fmt.Errorf("open store %s: other processes keep writing it; stop them, or give --store another path", path)
}

// open opens the file with bbolt, whose errors it makes ours.
func open(path string, o *bbolt.Options) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, o)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process has it open; stop that one, or give --store another path", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, damaged(path, err)
	}
	return nil, fmt.Errorf("open store %s: %w", path, err)
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
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return fmt.Errorf("create store %s: %w", s.path, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("create store %s: sync its directory: %w", s.path, err)
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

// committer is the one goroutine that writes the file.
type committer struct {
	*Store
	revision store.Revision // of the last committed event
	buf      []byte

	// undo has the instances that failed transactions have touched, as they
	// are, nil for none, by key. Where only the last sync failed, such a
	// transaction may be in the file all the same: the next one puts right
	// what it did.
	undo map[string]*store.Instance
}

func (c *committer) run() {
	defer close(c.done)
	for range c.waiting {
		batch, open := c.take()
		if len(batch) > 0 {
			err := c.write(batch)
			for _, b := range batch {
				b.result <- err
			}
		}
		if !open { // take emptied the queue, and nothing enters it once closed
			if len(c.undo) > 0 {
				_ = c.write(nil) // the failure it puts right has been reported
			}
			return
		}
	}
}

// write commits the batch in one transaction and then makes it visible. The
// syncs that make it last are inside tx.Commit: bbolt writes the changed pages
// to free places and syncs, then writes the page that points at them and syncs
// again.
func (c *committer) write(batch []*commit) error {
	revision, err := c.transact(batch)
	if err != nil {
		c.counts.failed.Add(1)
		c.remember(batch)
		return fmt.Errorf("write store %s: %w: %w", c.path, store.ErrNotDurable, err)
	}
	c.revision = revision
	clear(c.undo)
	var all []store.Event // together, so that a service is copied once for all its changes
	for _, one := range batch {
		all = append(all, one.events...)
	}
	c.counts.changes.Count(int64(len(all)))
	if len(all) > 0 {
		c.apply(all)
	}
	return nil
}

// remember keeps what the batch would have changed, as it was before.
func (c *committer) remember(batch []*commit) {
	for _, one := range batch {
		for k := range one.events {
			e := &one.events[k]
			key := string(store.RecordKey(e.Instance().Service, e.Instance().ID))
			if _, known := c.undo[key]; !known { // the first knows how it was
				c.undo[key] = e.Before
			}
		}
	}
}

// transact writes the batch and what undo puts right, and returns the last
// revision.
func (c *committer) transact(batch []*commit) (store.Revision, error) {
	c.buf = c.buf[:0] // the last transaction has let go of it
	tx, err := c.db.Begin(true)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	// What the file says counts, not what was last committed: see undo.
	revision, count, err := parseState(tx.Bucket(metaBucket).Get(stateKey))
	if err != nil {
		return 0, err
	}
	revision = max(revision, c.revision)
	b := tx.Bucket(instancesBucket)
	for key, i := range c.undo {
		if err := c.put(b, []byte(key), i, &count); err != nil {
			return 0, err
		}
	}
	for _, one := range batch {
		for k := range one.events {
			e := &one.events[k]
			revision++
			e.Stamp(revision)
			key := store.RecordKey(e.Instance().Service, e.Instance().ID)
			if err := c.put(b, key, e.After, &count); err != nil {
				return 0, err
			}
		}
	}
	if err := putMeta(tx, revision, count); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := c.commitTx(tx); err != nil {
		return 0, err
	}
	c.counts.took.Count(int64(time.Since(begin)))
	return revision, nil
}

// put makes the record under a key that of i, or removes it where i is nil,
// and keeps the count of records.
func (c *committer) put(b *bbolt.Bucket, key []byte, i *store.Instance, count *uint64) error {
	known := b.Get(key) != nil
	if i == nil {
		if known {
			*count--
		}
		return b.Delete(key)
	}
	if !known {
		*count++
	}
	// bbolt keeps the value until the transaction ends, so each needs its own
	// octets.
	start := len(c.buf)
	if cap(c.buf)-start < 4096 {
		c.buf, start = make([]byte, 0, 1<<16), 0
	}
	c.buf = store.AppendRecord(c.buf, i)
	return b.Put(key, c.buf[start:len(c.buf):len(c.buf)])
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
