package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
)

// load reads the whole file without a change to it and checks every page that
// is in use, every record and their number. A file that is not there, or is
// empty, is a fresh store: revision 0.
func load(path string) (found contents, err error) {
	if there, err := exists(path); err != nil || !there {
		return contents{}, err
	}
	db, err := open(path, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return contents{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	found, err = read(db)
	switch {
	case errors.Is(err, errNewer), errors.Is(err, store.ErrNewerRecord):
		return contents{}, fmt.Errorf("open store %s: %w; the file is untouched: run the version that wrote it, or a newer one", path, err)
	case err != nil:
		return contents{}, damaged(path, err)
	}
	return found, nil
}

func damaged(path string, why error) error {
	return fmt.Errorf("open store %s: not a roster store, or damaged: %w; the file is untouched: restore it from a copy, or move it away to start with an empty registry", path, why)
}

var errNewer = errors.New("written by a newer version of roster")

// read walks the buckets. bbolt trusts its pages: in a damaged file it panics,
// or follows a page number past the end of the mapping, so both are made
// errors here.
func read(db *bbolt.DB) (found contents, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its pages do not fit together: %v", p)
		}
	}()
	err = db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(db.Path())
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("it has %d octets of %d", info.Size(), tx.Size())
		}
		found, err = readBuckets(tx)
		return err
	})
	return found, err
}

func readBuckets(tx *bbolt.Tx) (contents, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k == nil {
			return contents{}, nil // bbolt made the file, and then we were killed
		}
		return contents{}, errors.New("it has no meta bucket")
	}
	revision, count, err := parseState(meta.Get(stateKey))
	if err != nil {
		return contents{}, err
	}
	b := tx.Bucket(instancesBucket)
	if b == nil {
		return contents{}, errors.New("it has no instances bucket")
	}
	found := contents{revision: revision, instances: make([]*store.Instance, 0, min(count, 1<<24))}
	var last []byte
	err = b.ForEach(func(key, value []byte) error {
		if last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("key %q stands after %q", key, last)
		}
		last = key
		i, err := store.ParseRecord(key, value)
		if err != nil {
			return fmt.Errorf("instance %q: %w", bytes.ReplaceAll(key, []byte{0}, []byte{'/'}), err)
		}
		found.instances = append(found.instances, i)
		return nil
	})
	if err != nil {
		return contents{}, err
	}
	if uint64(len(found.instances)) != count {
		return contents{}, fmt.Errorf("it has %d instances of %d", len(found.instances), count)
	}
	return found, nil
}

func parseState(b []byte) (revision store.Revision, count uint64, err error) {
	if len(b) < 5 || checksum(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return 0, 0, errors.New("its state record is damaged")
	}
	if b[0] != formatVersion {
		return 0, 0, fmt.Errorf("format version %d: %w", b[0], errNewer)
	}
	if len(b) != 1+8+8+4 {
		return 0, 0, errors.New("its state record is damaged")
	}
	return store.Revision(binary.BigEndian.Uint64(b[1:])), binary.BigEndian.Uint64(b[9:]), nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
