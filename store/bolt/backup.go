package bolt

import (
	"errors"
	"fmt"
	"io"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/rosterdns/roster/store"
)

// Backup writes to w the file as it is at one moment, while transactions go
// on. It takes as long as w does, and meanwhile the file grows with each
// change, for no page of that moment is used again. Exactly what has been
// acknowledged is in it; where that cannot be said, because a transaction
// failed, it is an error that wraps [store.ErrNotDurable], and what was written
// is worth nothing.
func (s *Store) Backup(w io.Writer) error {
	s.copying.RLock()
	defer s.copying.RUnlock()
	tx, failed, err := s.beginBackup()
	if err != nil {
		return fmt.Errorf("back up store %s: %w", s.path, err)
	}
	defer tx.Rollback() //nolint:errcheck // it has changed nothing
	if _, err := tx.WriteTo(w); err != nil {
		return fmt.Errorf("back up store %s: %w", s.path, err)
	}
	// After a failure bbolt takes pages for free by the transaction that failed,
	// and not by those that are being read.
	if s.counts.failed.Load() != failed {
		return fmt.Errorf("back up store %s: %w: a write failed meanwhile", s.path, store.ErrNotDurable)
	}
	return nil
}

// beginBackup begins to read between two transactions, and returns how many
// have failed by then.
func (s *Store) beginBackup() (*bbolt.Tx, uint64, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.haunted {
		return nil, 0, fmt.Errorf("%w: the last write failed", store.ErrNotDurable)
	}
	failed := s.counts.failed.Load()
	tx, err := s.db.Begin(false)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		err = store.ErrClosed
	}
	return tx, failed, err
}

// Copy writes the file at path to w, once it has been checked. No server may
// have it open.
func Copy(path string, w io.Writer) error {
	if _, err := Check(path); err != nil {
		return err
	}
	f, err := open(path, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return err
	}
	err = f.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err := errors.Join(err, f.db.Close()); err != nil {
		return fmt.Errorf("copy store %s: %w", path, err)
	}
	return nil
}
