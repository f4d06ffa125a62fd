package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
)

// contents is what a file holds.
type contents struct {
	instances []*store.Instance
	revision  store.Revision // 0: a fresh file
	txid      uint64         // of the transaction that it is as of
	used      int64          // octets of pages that hold something
}

// load reads the whole file without a change to it and checks every page that
// is in use, every record and their number. A file that is not there, or is
// empty, is a fresh store.
func load(path string) (contents, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return contents{}, nil
	}
	if err != nil {
		return contents{}, fmt.Errorf("open store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return contents{}, fmt.Errorf("open store: %w", err)
	case !info.Mode().IsRegular():
		return contents{}, fmt.Errorf("open store %s: it is no regular file; give --store another path", path)
	case info.Size() == 0:
		return contents{}, nil
	}
	// bbolt's lock, shared, so that nobody writes it meanwhile. Opened so, bbolt
	// looks at the meta pages only.
	lock, err := open(path, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return contents{}, err
	}
	if info, err = f.Stat(); err != nil { // it may have grown before
		return contents{}, errors.Join(fmt.Errorf("open store: %w", err), lock.db.Close())
	}
	found, err := read(f, info.Size())
	if err := lock.db.Close(); err != nil {
		return contents{}, fmt.Errorf("open store %s: %w", path, err)
	}
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

// read is the recovery: a pure function from a file's octets to what it holds.
func read(r io.ReaderAt, size int64) (contents, error) {
	p, root, err := readMeta(r, size)
	if err != nil {
		return contents{}, err
	}
	fresh := contents{txid: p.txid}
	buckets := map[string][]byte{}
	err = p.walk(root, func(i item) error {
		if !i.bucket || !bytes.Equal(i.key, metaBucket) && !bytes.Equal(i.key, instancesBucket) {
			return fmt.Errorf("it has %q, which a roster store has not", i.key)
		}
		buckets[string(i.key)] = i.value
		return nil
	})
	if err != nil || len(buckets) == 0 { // none: made, and then we were killed
		return fresh, err
	}
	revision, count, err := p.readState(buckets[string(metaBucket)])
	if err != nil {
		return contents{}, fmt.Errorf("bucket meta: %w", err)
	}
	found := contents{revision: revision, txid: p.txid}
	if found.instances, err = p.readInstances(buckets[string(instancesBucket)], count); err != nil {
		return contents{}, fmt.Errorf("bucket instances: %w", err)
	}
	for _, seen := range p.seen {
		if seen {
			found.used += int64(p.size)
		}
	}
	return found, nil
}

func (p *pages) readState(bucket []byte) (revision store.Revision, count uint64, err error) {
	found := false
	err = p.walkBucket(bucket, func(i item) error {
		if i.bucket || !bytes.Equal(i.key, stateKey) {
			return fmt.Errorf("it has %q, which a roster store has not", i.key)
		}
		found = true
		revision, count, err = parseState(i.value)
		return err
	})
	if err == nil && !found {
		err = errors.New("the state record is missing")
	}
	return revision, count, err
}

func (p *pages) readInstances(bucket []byte, count uint64) ([]*store.Instance, error) {
	list := make([]*store.Instance, 0, min(count, p.count*p.size/elementSize))
	err := p.walkBucket(bucket, func(i item) error {
		if i.bucket {
			return fmt.Errorf("%q is a bucket", i.key)
		}
		one, err := store.ParseRecord(i.key, i.value)
		if err != nil {
			return fmt.Errorf("instance %q: %w", bytes.ReplaceAll(i.key, []byte{0}, []byte{'/'}), err)
		}
		list = append(list, one)
		return nil
	})
	if err == nil && uint64(len(list)) != count {
		err = fmt.Errorf("it has %d instances of %d", len(list), count)
	}
	return list, err
}

func parseState(b []byte) (revision store.Revision, count uint64, err error) {
	if len(b) < 5 || checksum(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return 0, 0, errors.New("the state record is damaged")
	}
	if b[0] != formatVersion {
		return 0, 0, fmt.Errorf("format version %d: %w", b[0], errNewer)
	}
	if len(b) != 1+8+8+4 {
		return 0, 0, errors.New("the state record is damaged")
	}
	return store.Revision(binary.BigEndian.Uint64(b[1:])), binary.BigEndian.Uint64(b[9:]), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
