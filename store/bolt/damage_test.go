package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// filled writes a store of n instances to a new file and returns its path.
func filled(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "roster.db")
	r, done := storetest.Open(t, at(path), store.Config{})
	for k := range n {
		storetest.Register(t, r, storetest.Instance(fmt.Sprintf("s%d", k%7), fmt.Sprintf("instance-%d", k)))
	}
	done()
	return path
}

// at returns the opener of the file at path.
func at(path string) storetest.Opener {
	return func(t *testing.T) store.Backend {
		t.Helper()
		return mustOpen(t, path)
	}
}

func mustOpen(tb testing.TB, path string) *bolt.Store {
	tb.Helper()
	s, err := bolt.Open(path, bolt.Config{})
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	return s
}

// refused opens a file that must be refused, with its path in the error and
// not one octet of it changed.
func refused(t *testing.T, path string) error {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(path, bolt.Config{})
	if err == nil {
		_ = s.Close()
		t.Fatal("the file was accepted")
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
	after, readErr := os.ReadFile(path)
	if readErr != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed")
	}
	return err
}

func TestForeignFile(t *testing.T) {
	for name, content := range map[string]string{
		"text":        strings.Repeat("this is no store\n", 1000),
		"short":       "x",
		"zeros":       strings.Repeat("\x00", 1<<16),
		"sqlite-like": "SQLite format 3\x00" + strings.Repeat("\x01", 8192),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "roster.db")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := refused(t, path); !strings.Contains(err.Error(), "untouched") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
	t.Run("another program's bbolt file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "other.db")
		edit(t, path, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		})
		refused(t, path)
	})
	t.Run("a folder", func(t *testing.T) {
		if _, err := bolt.Open(t.TempDir(), bolt.Config{}); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("got %v", err)
		}
	})
}

// edit changes a file with bbolt itself.
func edit(t *testing.T, path string, f func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestEmptyFileIsFresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roster.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
}

// Every page of a small file, cut off or overwritten: the file is refused, or
// it was a page that held nothing, and then everything is there.
func TestDamagedPages(t *testing.T) {
	const n, page = 300, 4096
	good := filled(t, n)
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "damaged.db")
	if dir, err := os.MkdirTemp("/dev/shm", "roster"); err == nil { //nolint:usetesting // in memory, where a sync costs nothing
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		path = filepath.Join(dir, "damaged.db")
	}
	caught := 0
	try := func(what string, bad []byte) {
		t.Helper()
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(path, bolt.Config{})
		if err != nil {
			refused(t, path)
			caught++
			return
		}
		r, err := store.Open(t.Context(), s, store.Config{})
		if err != nil {
			t.Fatal(err)
		}
		// One of the two meta pages may go: the other then names the state one
		// transaction earlier, as after a power cut during the last.
		if r.Len() < n-1 {
			t.Errorf("%s: accepted with %d of %d instances", what, r.Len(), n)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for at := 0; at < len(content); at += page {
		for _, fill := range []byte{0, 0xff, 0x55} {
			bad := bytes.Clone(content)
			copy(bad[at:at+page], bytes.Repeat([]byte{fill}, page))
			try(fmt.Sprintf("page %d filled with %#x", at/page, fill), bad)
		}
		for bit := range 8 * 64 { // the page's header and the first elements
			if bit%5 == 0 {
				bad := bytes.Clone(content)
				bad[at+bit/8] ^= 1 << (bit % 8)
				try(fmt.Sprintf("page %d bit %d", at/page, bit), bad)
			}
		}
		if at > 0 {
			try(fmt.Sprintf("cut before page %d", at/page), content[:at])
		}
	}
	if caught < 100 {
		t.Errorf("only %d damages were found: the test does not do what it says", caught)
	}
}

func TestDamagedRecord(t *testing.T) {
	path := filled(t, 20)
	edit(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("instances"))
		key, value := b.Cursor().First()
		bad := bytes.Clone(value)
		bad[len(bad)/2]++
		return b.Put(key, bad)
	})
	if err := refused(t, path); !strings.Contains(err.Error(), `"s0/instance-0"`) {
		t.Errorf("the error does not name the instance: %v", err)
	}
}

func TestMissingRecord(t *testing.T) {
	path := filled(t, 20)
	edit(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("instances"))
		key, _ := b.Cursor().First()
		return b.Delete(key)
	})
	if err := refused(t, path); !strings.Contains(err.Error(), "19 instances of 20") {
		t.Errorf("the error does not give the numbers: %v", err)
	}
}

func TestNewerVersion(t *testing.T) {
	path := filled(t, 1)
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("state"), bolt.AppendStateVersion(2))
	})
	if err := refused(t, path); !strings.Contains(err.Error(), "newer version") {
		t.Errorf("the error does not say that the file is newer: %v", err)
	}
}

func TestLocked(t *testing.T) {
	path := filled(t, 1)
	s := mustOpen(t, path)
	defer s.Close()
	if _, err := bolt.Open(path, bolt.Config{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v, want that another process has it open", err)
	}
}

// A store whose file cannot grow refuses what it cannot keep, goes on
// answering and heartbeating, and takes writes again once there is room.
func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roster.db")
	s := mustOpen(t, path)
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	storetest.Register(t, r, storetest.Instance("web", "before"))

	fix := bolt.Break(s)
	// Each takes four pages, so the room that the file has is soon gone.
	var err error
	for k := 0; k < 1000 && err == nil; k++ {
		_, err = r.Register(t.Context(), large(k), false)
	}
	if !errors.Is(err, store.ErrNotDurable) {
		t.Fatalf("got %v, want ErrNotDurable", err)
	}
	live, at := storetest.Live(r, "web"), r.Revision()
	if _, err := r.Heartbeat(t.Context(), "web", "before", store.Beat{}); err != nil {
		t.Errorf("a heartbeat failed: %v", err)
	}
	if got := storetest.Live(r, "web"); !slices.Equal(got, live) || r.Revision() != at {
		t.Errorf("live are %q at revision %d, want %q at %d", got, r.Revision(), live, at)
	}
	fix()
	if got := storetest.Register(t, r, storetest.Instance("web", "after")).Revision; got != at+1 {
		t.Errorf("the next change has revision %d, want %d", got, at+1)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, path)); n != len(live)+1 {
		t.Errorf("the file has %d instances, want %d", n, len(live)+1)
	}
}

// A transaction whose last sync failed may be in the file. What it did is put
// right by the next one, and by Close.
func TestLastSyncFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roster.db")
	s := mustOpen(t, path)
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	old := storetest.Instance("web", "changed")
	storetest.Register(t, r, old)
	storetest.Register(t, r, storetest.Instance("web", "removed"))

	during := func() {
		t.Helper()
		fix := bolt.BreakLastSync(s)
		defer fix()
		for range 2 {
			_, err := r.Register(t.Context(), storetest.Instance("web", "ghost"), false)
			changed := storetest.Instance("web", "changed")
			changed.Port++
			_, err2 := r.Register(t.Context(), changed, false)
			_, err3 := r.Deregister(t.Context(), "web", "removed")
			for _, err := range []error{err, err2, err3} {
				if !errors.Is(err, store.ErrNotDurable) {
					t.Fatalf("got %v, want ErrNotDurable", err)
				}
			}
		}
	}
	during()
	storetest.Register(t, r, storetest.Instance("web", "after"))
	want := []string{"after", "changed", "removed"}
	if got := storetest.Live(r, "web"); !slices.Equal(got, want) {
		t.Errorf("live are %q, want %q", got, want)
	}
	during()
	revision := r.Revision()
	done()

	r, _ = storetest.Open(t, at(path), store.Config{})
	if got := storetest.Live(r, "web"); !slices.Equal(got, want) {
		t.Errorf("in the file are %q, want %q", got, want)
	}
	if m, _ := r.Service("web").ByLabel("changed", r.Now()); m.Port != old.Port {
		t.Errorf("in the file the port is %d, want %d", m.Port, old.Port)
	}
	if r.Revision() < revision {
		t.Errorf("the revision went back from %d to %d", revision, r.Revision())
	}
}

// A process that waits for the file of one that is ending starts with what
// that one has left, and not with what it had when the waiting began.
func TestHandOver(t *testing.T) {
	path := filled(t, 3)
	r, done := storetest.Open(t, at(path), store.Config{})
	opened := make(chan *bolt.Store)
	go func() {
		s, err := bolt.Open(path, bolt.Config{})
		if err != nil {
			t.Errorf("open: %v", err)
		}
		opened <- s
	}()
	for k := range 200 {
		storetest.Register(t, r, storetest.Instance("web", fmt.Sprintf("late-%d", k)))
	}
	done()
	s := <-opened
	if s == nil {
		return
	}
	next, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	if next.Len() != 203 {
		t.Errorf("%d instances are there, want 203", next.Len())
	}
}

// The file changes between the check and the opening: what counts is what is
// there when it is locked.
func TestChangedBeforeLocked(t *testing.T) {
	for _, n := range []int{0, 3} {
		path := filepath.Join(t.TempDir(), "roster.db")
		if n > 0 {
			path = filled(t, n)
		}
		s, err := bolt.OpenAfter(path, func() {
			r, done := storetest.Open(t, at(path), store.Config{})
			storetest.Register(t, r, storetest.Instance("web", "between"))
			done()
		})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
		if r.Len() != n+1 {
			t.Errorf("%d instances are there, want %d", r.Len(), n+1)
		}
	}
}

// large returns an instance whose record takes four pages.
func large(k int) *store.Instance {
	i := storetest.Instance("web", fmt.Sprintf("large-%d", k))
	for n := range 64 {
		i.Meta = append(i.Meta, store.Pair{Key: fmt.Sprintf("k%02d", n), Value: strings.Repeat("v", 250)})
	}
	return i
}

// readAll returns the instances that a file holds.
func readAll(t *testing.T, path string) []string {
	t.Helper()
	r, done := storetest.Open(t, at(path), store.Config{})
	defer done()
	return storetest.Live(r, "web")
}

// Whatever a file holds, reading it ends, and without a panic.
func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "roster.db")
	s, err := bolt.Open(path, bolt.Config{})
	if err != nil {
		f.Fatal(err)
	}
	r, err := store.Open(f.Context(), s, store.Config{})
	if err != nil {
		f.Fatal(err)
	}
	for k := range 50 {
		if _, err := r.Register(f.Context(), storetest.Instance("web", fmt.Sprintf("a%d", k)), false); err != nil {
			f.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		f.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(4096*3), []byte{1, 2, 3})
	f.Fuzz(func(_ *testing.T, at uint32, patch []byte) {
		bad := bytes.Clone(content)
		copy(bad[int(at)%len(bad):], patch)
		_, _ = bolt.Read(bad)
	})
}
