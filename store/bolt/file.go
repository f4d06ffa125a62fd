package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bbolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// file is a bbolt file that this process has open, and locked.
type file struct {
	path string
	db   *bbolt.DB
	f    *os.File // that of db
}

// lockTimeout is how long to wait for another process to let go of the file:
// long enough for one that is ending.
const lockTimeout = 2 * time.Second

// lock opens the file for writing after it has been checked, with what it
// holds. Between the two another process may have written it, or put another
// in its place, and let go: then it is read again.
func lock(path string, check func(string) (contents, error)) (*file, contents, error) {
	for range 3 {
		found, err := check(path)
		if err != nil {
			return nil, contents{}, err
		}
		f, err := open(path, writing())
		if err != nil {
			return nil, contents{}, err
		}
		txid, err := f.txid()
		if err != nil {
			return nil, contents{}, errors.Join(fmt.Errorf("open store %s: %w", path, err), f.db.Close())
		}
		// bbolt counts to 1 when it makes a file.
		if txid == max(found.txid, 1) && f.inPlace() {
			return f, found, nil
		}
		if err := f.db.Close(); err != nil {
			return nil, contents{}, fmt.Errorf("open store %s: %w", path, err)
		}
	}
	return nil, contents{}, fmt.Errorf("open store %s: other processes keep writing it; stop them, or give --store another path", path)
}

// writing are the options to open a file with that is to be written.
func writing() *bbolt.Options {
	return &bbolt.Options{
		Timeout: lockTimeout,
		// The list of free pages is made again at each start from the pages
		// in use, which are read anyway: less to write, and nothing to go bad.
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapSize(),
	}
}

// mapSize is how much of the address space is set aside for the file. bbolt
// maps a file that has outgrown it anew, and for that waits until nobody reads
// it: writers would wait for a backup.
func mapSize() int {
	if runtime.GOOS == "windows" || ^uint(0)>>32 == 0 {
		return 0 // there it would make the file as large, and here the space is not there
	}
	return 1 << 32
}

// A file that is full grows by as much as it has, within these octets.
const (
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// open opens the file with bbolt, whose errors it makes ours.
func open(path string, o *bbolt.Options) (*file, error) {
	f := &file{path: path}
	o.OpenFile = func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		f.f, err = os.OpenFile(name, flag, mode)
		return f.f, err
	}
	var err error
	f.db, err = bbolt.Open(path, 0o600, o)
	switch {
	case err == nil:
		f.db.AllocSize = minGrowth
		return f, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store %s: another process has it open; stop that one, or give --store another path", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, damaged(path, err)
	}
	return nil, fmt.Errorf("open store %s: %w", path, err)
}

// txid returns the number of the file's last transaction.
func (f *file) txid() (uint64, error) {
	tx, err := f.db.Begin(false)
	if err != nil {
		return 0, err
	}
	return uint64(tx.ID()), tx.Rollback()
}

// inPlace reports whether the path still names the file.
func (f *file) inPlace() bool {
	ours, err := f.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.path)
	return err == nil && os.SameFile(ours, there)
}

// settle makes sure that the transaction which the file is as of is on disk, and
// returns its number. Where its last sync failed, or the process was killed
// before that, it need not be; and the next transaction may write over pages of
// the one before it, to which a power cut would then lead back. To sync again is
// not enough: after a sync that failed the system takes its pages for written,
// and forgets them without a word. So its meta page is written again, as it is.
func settle(path string) (txid uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	p, _, err := readMeta(f, info.Size())
	if err != nil {
		return 0, err
	}
	page := make([]byte, p.size)
	for _, at := range []int64{0, int64(p.size)} {
		if _, err := f.ReadAt(page, at); err != nil {
			return 0, err
		}
		if !validMeta(page, at) || native.Uint64(page[64:]) != p.txid {
			continue
		}
		if _, err := f.WriteAt(page, at); err != nil {
			return 0, err
		}
	}
	return p.txid, f.Sync()
}

// syncDir makes the entry of a file in its directory durable, which a sync of
// the file does not.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
