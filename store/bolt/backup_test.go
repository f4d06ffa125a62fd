package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// Backups taken while instances come and go each are of one moment: what was
// there before it began is in it, and it is a store.
func TestBackup(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "roster.db"))
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	var done atomic.Int64
	var stop atomic.Bool
	var g sync.WaitGroup
	defer g.Wait()
	defer stop.Store(true)
	for w := range 4 {
		g.Go(func() {
			for k := 0; !stop.Load(); k++ {
				if _, err := r.Register(t.Context(), storetest.Instance("web", fmt.Sprintf("w%d-%06d", w, k)), false); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for range 8 {
		path := filepath.Join(t.TempDir(), "copy.db")
		before, revision := done.Load(), r.Revision()
		var copied bytes.Buffer
		if err := s.Backup(&copied); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, copied.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := bolt.Check(path)
		if err != nil || int64(got.Instances) < before || got.Revision < revision {
			t.Fatalf("the backup is %+v, %v; before it began there were %d at revision %d", got, err, before, revision)
		}
		again, _ := storetest.Open(t, at(path), store.Config{})
		storetest.Register(t, again, storetest.Instance("web", "after"))
	}
}

// writerFunc is a writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// What was refused comes into no backup, and none is good during which a
// transaction failed.
func TestBackupInTrouble(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "roster.db"))
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	fail := sync.OnceFunc(func() {
		fix := bolt.BreakLastSync(s)
		defer fix()
		if _, err := r.Register(t.Context(), storetest.Instance("web", "ghost"), false); !errors.Is(err, store.ErrNotDurable) {
			t.Errorf("got %v, want ErrNotDurable", err)
		}
	})
	during := writerFunc(func(b []byte) (int, error) {
		fail()
		return len(b), nil
	})
	if err := s.Backup(during); !errors.Is(err, store.ErrNotDurable) {
		t.Errorf("a backup during which a transaction failed: %v, want ErrNotDurable", err)
	}
	if err := s.Backup(io.Discard); !errors.Is(err, store.ErrNotDurable) {
		t.Errorf("a backup of a file with what was refused in it: %v, want ErrNotDurable", err)
	}
	storetest.Register(t, r, storetest.Instance("web", "a2"))
	var b bytes.Buffer
	if err := s.Backup(&b); err != nil {
		t.Fatal(err)
	}
	if n, err := bolt.Read(b.Bytes()); n != 2 || err != nil {
		t.Errorf("the backup has %d instances, %v; want 2", n, err)
	}
}

// A backup that somebody takes slowly keeps nobody from writing once the
// trouble is over: it is cut off with the next part that they take.
func TestBackupGivesWay(t *testing.T) {
	s := mustOpen(t, filled(t, 3000))
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	reading, on, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var parts atomic.Int64
	go func() {
		ended <- s.Backup(writerFunc(func(b []byte) (int, error) {
			if parts.Add(1) == 3 {
				close(reading)
				<-on
			}
			return len(b), nil
		}))
	}()
	<-reading
	fix := bolt.BreakLastSync(s)
	if _, err := r.Register(t.Context(), storetest.Instance("web", "ghost"), false); !errors.Is(err, store.ErrNotDurable) {
		t.Errorf("got %v, want ErrNotDurable", err)
	}
	fix()
	close(on)
	if err := <-ended; !errors.Is(err, store.ErrNotDurable) || parts.Load() != 3 {
		t.Errorf("after the failure it took %d parts, and ended with %v", parts.Load()-3, err)
	}
	storetest.Register(t, r, storetest.Instance("web", "a1"))
}

// A compacted file is smaller and has the same in it.
func TestCompact(t *testing.T) {
	path := filled(t, 300)
	r, done := storetest.Open(t, at(path), store.Config{})
	for k := range 270 {
		if _, err := r.Deregister(t.Context(), fmt.Sprintf("s%d", k%7), fmt.Sprintf("instance-%d", k)); err != nil {
			t.Fatal(err)
		}
	}
	revision := r.Revision()
	done()
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	before, after, err := bolt.Compact(path)
	if err != nil || after.Size*2 > before.Size {
		t.Fatalf("%v: it had %d octets and has %d", err, before.Size, after.Size)
	}
	if after.Instances != 30 || after.Services != 7 || after.Revision != revision {
		t.Errorf("it has %+v, want 30 instances in 7 services at revision %d", after, revision)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside it there are %v, %v", left, err)
	}
}

// A server that waits for the file while it is compacted gets the new one, not
// the one that has no name any more.
func TestCompactedBeforeLocked(t *testing.T) {
	path := filled(t, 50)
	s, err := bolt.OpenAfter(path, func() {
		if _, _, err := bolt.Compact(path); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	storetest.Register(t, r, storetest.Instance("web", "after"))
	done()
	if got, err := bolt.Check(path); err != nil || got.Instances != 51 {
		t.Errorf("under its name there are %d instances, %v; want 51", got.Instances, err)
	}
}
