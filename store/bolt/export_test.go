package bolt

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// AppendStateVersion returns a valid state record of another format version.
func AppendStateVersion(version byte) []byte {
	b := appendState(nil, 1, 1)
	b[0] = version
	return append(b[:len(b)-4], appendSum(b[:len(b)-4])...)
}

func appendSum(b []byte) []byte {
	sum := checksum(b)
	return []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// OpenAfter opens the store at path and calls between after it has been checked
// for the first time.
func OpenAfter(path string, between func()) (*Store, error) {
	once := sync.OnceFunc(between)
	return openChecked(path, Config{}, func(path string) (contents, error) {
		found, err := load(path)
		once()
		return found, err
	})
}

// BreakLastSync lets transactions come into the file and reports them as failed,
// as when the very last sync of one fails, until fix is called.
func BreakLastSync(s *Store) (fix func()) {
	commit := s.commitTx
	s.commitTx = func(tx *bbolt.Tx) error {
		return errors.Join(commit(tx), errors.New("sync: input/output error"))
	}
	return func() { s.commitTx = commit }
}

// BreakSlowly has all transactions fail after that long, and counts them.
func BreakSlowly(s *Store, takes time.Duration) (count *atomic.Int64) {
	count = new(atomic.Int64)
	s.commitTx = func(*bbolt.Tx) error {
		count.Add(1)
		<-time.After(takes)
		return errors.New("sync: input/output error")
	}
	return count
}

// Break makes the store's file unable to grow, as on a full disk, until fix is
// called.
func Break(s *Store) (fix func()) {
	grow := s.db.MaxSize
	s.db.MaxSize = 1
	return func() { s.db.MaxSize = grow }
}

// Read reads a file's octets and returns how many instances they hold.
func Read(b []byte) (int, error) {
	found, err := read(bytes.NewReader(b), int64(len(b)))
	return len(found.instances), err
}
