package bolt

import (
	"errors"
	"fmt"
	"runtime/debug"
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

	// undo has the instances that failed transactions have touched which are in
	// the file all the same, because only the last sync failed: as they are, nil
	// for none, by key. The next one puts right what those did.
	undo map[string]*store.Instance

	doubt []*commit // what a transaction was to do of which that is not known

	failed time.Time // when a transaction last failed, while that is trouble
}

const (
	// retryAfter is how often the committer itself tries while there is
	// trouble.
	retryAfter = time.Second
	// restFactor is how many times as long as a failed transaction took the
	// committer then rests, but retryAfter at most: after each bbolt reads the
	// whole file twice, and would keep a processor busy for as long as there are
	// writers.
	restFactor = 4
	// calm is how long no transaction may fail before the trouble is over. On a
	// full disk a small one works now and then.
	calm = 5 * time.Second
)

func (c *committer) run() {
	defer close(c.done)
	debug.SetPanicOnFault(true) // a page of the map that cannot be read
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
		var rest time.Duration
		if len(batch) > 0 || c.troubled.Load() {
			begin := time.Now()
			err := c.write(batch)
			for _, b := range batch {
				b.result <- err
			}
			if err != nil {
				rest = min(restFactor*time.Since(begin), retryAfter)
			}
		}
		if !open { // take emptied the queue, and nothing enters it once closed
			return
		}
		if rest > 0 { // those who come meanwhile share the next transaction
			<-time.After(rest)
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

// remember keeps what failed transactions have changed in the file, as it was
// before.
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

// mend makes the file fit for a transaction after one has failed. bbolt has made
// its list of free pages by what it saw in the file just then, and that need not
// last: it may have seen the meta page of the failed transaction, which never
// came to the disk. By such a list the next would write over pages in use. So
// what is in the file is made to last, and then it is opened anew.
func (c *committer) mend() error {
	if !c.copying.TryLock() {
		return errors.New("a backup of it is to be cut off first")
	}
	defer c.copying.Unlock()
	if c.db == nil { // the last try could not open it, and nobody writes it without its lock
		f, err := open(c.path, writing())
		if err != nil {
			return err
		}
		c.file = f
	}
	txid, err := settle(c.path)
	if err != nil {
		return err
	}
	if err := c.db.Close(); err != nil {
		return err
	}
	c.db = nil
	f, err := open(c.path, writing())
	if err != nil {
		return err
	}
	if at, err := f.txid(); err != nil || at != txid || at < c.last || at > c.last+1 {
		return errors.Join(errors.New("another process has written it: end that one and start this server again"), err, f.db.Close())
	}
	if txid > c.last {
		c.remember(c.doubt)
	}
	c.file, c.last, c.doubt = f, txid, nil
	return nil
}

// transact writes the batch and what undo puts right, and returns the last
// revision. The caller holds writing.
func (c *committer) transact(batch []*commit) (_ store.Revision, err error) {
	if c.haunted {
		if err := c.mend(); err != nil {
			return 0, err
		}
	}
	// A broken invariant of bbolt's, or a page that cannot be read, is no reason
	// to stop answering.
	defer func() {
		if r := recover(); r != nil {
			c.haunted, c.doubt = true, batch
			err = fmt.Errorf("bbolt: %v", r)
		}
	}()
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
		c.haunted, c.doubt = true, batch
		return 0, err
	}
	c.counts.took.Count(int64(time.Since(begin)))
	c.haunted, c.last = false, id
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
