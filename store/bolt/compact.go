package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bbolt "go.etcd.io/bbolt"
)

// Compact writes the file at path anew, without the free pages in it, and
// returns what was and what is in it. At every moment path is the old file or
// the new one, whole. No server may have it open, and none gets it meanwhile.
func Compact(path string) (before, after Summary, err error) {
	if before, err = Check(path); err != nil {
		return before, after, err
	}
	// Where path is a link it stays one.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return before, after, fmt.Errorf("compact store: %w", err)
	}
	old, _, err := lock(path, load)
	if err != nil {
		return before, after, err
	}
	defer func() { err = errors.Join(err, old.db.Close()) }()
	temporary, err := compacted(old)
	if err != nil {
		return before, after, fmt.Errorf("compact store %s: %w; it is as it was", path, err)
	}
	defer os.Remove(temporary) // which is path by then, where all went well
	if after, err = Check(temporary); err != nil {
		return before, after, fmt.Errorf("compact store %s: what was written: %w", path, err)
	}
	// The content was synced; now the name goes over to it, and then the
	// folder's entry is synced.
	if err := os.Rename(temporary, path); err != nil {
		return before, after, fmt.Errorf("compact store %s: %w; it is as it was", path, err)
	}
	if err := syncDir(path); err != nil {
		return before, after, fmt.Errorf("compact store %s: %w", path, err)
	}
	return before, after, nil
}

// compacted writes what the old file holds to a new one beside it, with the
// same owner and mode, syncs that and returns its path.
func compacted(old *file) (path string, err error) {
	info, err := old.f.Stat()
	if err != nil {
		return "", err
	}
	t, err := os.CreateTemp(filepath.Dir(old.path), filepath.Base(old.path)+".compact-*")
	if err != nil {
		return "", err
	}
	path = t.Name()
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := errors.Join(t.Chmod(info.Mode().Perm()), own(t, info), t.Close()); err != nil {
		return "", err
	}
	// One sync at the end is enough: until it is renamed the file is nobody's.
	f, err := open(path, &bbolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return "", err
	}
	const txSize = 64 << 10
	return path, errors.Join(bbolt.Compact(f.db, old.db, txSize), f.f.Sync(), f.db.Close())
}
