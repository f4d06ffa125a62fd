package bolt

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
)

// committer is the one goroutine that writes the file.
type committer struct {
	*Store
	revision store.Revision // of the last committed event
	buf      []byte

	// undo has the instances that such transactions have touched as failed and
	// are in the file all the same, as they are, nil for none, by key: the next
	// one puts right what those did.
	undo map[string]*store.Instance

	failed time.Time // when a transaction last failed, while that is trouble
}

const (
	// retryAfter is how often the committer itself tries while there is
	// trouble.
	retryAfter = time.Second
	// calm is how long no transaction may fail before the trouble is over. On a
	// full disk a small one works now and then.
	calm = 5 * time.Second
)

func (c *committer) run() {
	defer close(c.done)
	for {
		var retry <-chan time.Time
		if c.troubled.Load() {
			retry = time.After(retryAfter)
		}
		select {
		case <-c.waiting:
		case <-retry:
		}
		batch, open := c.take()
		if len(batch) > 0 || c.troubled.Load() {
			err := c.write(batch)
			for _, b := range batch {
				b.result <- err
			}
		}
		if !open { // take emptied the queue, and nothing enters it once closed
			return
		}
	}
}

// write commits the batch in one transaction and then makes it visible. The
// syncs that make it last are inside tx.Commit: bbolt writes the changed pages
// to free places and syncs, then writes the page that points at them and syncs
// again.
func (c *committer) write(batch []*commit) error {
	c.writing.Lock()
	revision, err := c.transact(batch)
	c.writing.Unlock()
	if err != nil {
		c.counts.failed.Add(1)
		err = fmt.Errorf("write store %s: %w: %w%s", c.path, store.ErrNotDurable, err, remedy(err))
		c.failed = time.Now()
		if !c.troubled.Swap(true) {
			c.cfg.Trouble(err)
		}
		return err
	}
	c.revision = revision
	if c.troubled.Load() && time.Since(c.failed) >= calm {
		c.troubled.Store(false)
		c.cfg.Trouble(nil)
	}
	var all []store.Event // together, so that a service is copied once for all its changes
	for _, one := range batch {
		all = append(all, one.events...)
	}
	if len(all) > 0 {
		c.counts.changes.Count(int64(len(all)))
		c.apply(all)
	}
	return nil
}

// remedy is what the operator can do about an error, for the end of its text.
func remedy(err error) string {
	for errno, do := range map[syscall.Errno]string{
		syscall.ENOSPC: "make room on its file system",
		syscall.EDQUOT: "make room on its file system",
		syscall.EROFS:  "make its file system writable again",
		syscall.EIO:    "look at its disk (dmesg)",
	} {
		// bbolt does not wrap all of them.
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return "; " + do + ": the server goes on by itself"
		}
	}
	return ""
}

// remember keeps what the batch has changed in the file, as it was before.
func (c *committer) remember(batch []*commit) {
	c.haunted = true
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
// revision. The caller holds writing.
func (c *committer) transact(batch []*commit) (store.Revision, error) {
	if c.haunted {
		if err := c.settle(); err != nil {
			return 0, err
		}
	}
	c.buf = c.buf[:0] // the last transaction has let go of it
	tx, err := c.db.Begin(true)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
	c.db.AllocSize = min(max(int(tx.Size()), minGrowth), maxGrowth)
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
	begin, id := time.Now(), uint64(tx.ID())
	if err := c.commitTx(tx); err != nil {
		if last, txErr := c.txid(); txErr != nil || last >= id {
			c.remember(batch) // only the last sync has failed
		}
		return 0, err
	}
	c.counts.took.Count(int64(time.Since(begin)))
	c.haunted = false
	clear(c.undo)
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
