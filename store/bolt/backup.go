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
// failed, it ends with an error that wraps [store.ErrNotDurable], and what was
// written is worth nothing.
func (s *Store) Backup(w io.Writer) error {
	s.copying.RLock()
	defer s.copying.RUnlock()
	tx, failed, err := s.beginBackup()
	if err != nil {
		return fmt.Errorf("back up store %s: %w", s.path, err)
	}
	defer tx.Rollback() //nolint:errcheck // it has changed nothing
	out := &backupWriter{w, s.counts, failed, nil}
	if _, err := tx.WriteTo(out); err != nil && out.err == nil {
		return fmt.Errorf("back up store %s: %w", s.path, err)
	}
	if err := out.check(); err != nil {
		return fmt.Errorf("back up store %s: %w", s.path, err)
	}
	return nil
}

// backupWriter ends a backup when a transaction has failed. What is read then is
// worth nothing, for bbolt takes pages for free by the transaction that failed,
// and not by those that are being read; and until the backup ends the file
// cannot be opened anew, so that nothing can be written.
type backupWriter struct {
	w      io.Writer
	counts *counts
	failed uint64 // how many had when it began
	err    error  // of check
}

// Write implements [io.Writer].
func (b *backupWriter) Write(p []byte) (int, error) {
	if err := b.check(); err != nil {
		return 0, err
	}
	return b.w.Write(p)
}

func (b *backupWriter) check() error {
	if b.err == nil && b.counts.failed.Load() != b.failed {
		b.err = fmt.Errorf("%w: a write failed meanwhile", store.ErrNotDurable)
	}
	return b.err
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
