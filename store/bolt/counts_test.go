package bolt_test

import (
	"path/filepath"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

func total(d store.Distribution) (n uint64) {
	for _, c := range d.Cells {
		n += c
	}
	return n
}

func TestCounts(t *testing.T) {
	t.Parallel()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "roster.db"), bolt.Config{})
	if err != nil {
		t.Fatal(err)
	}
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
	defer done()
	for _, id := range []string{"a1", "a2", "a3"} {
		if _, err := r.Register(t.Context(), storetest.Instance("web", id), false); err != nil {
			t.Fatal(err)
		}
	}
	if c := s.Counts(); total(c.Took) != 3 || c.Took.Sum <= 0 || total(c.Changes) != 3 || c.Changes.Sum != 3 || c.Failed != 0 {
		t.Errorf("after three changes: %+v", c)
	}
	fix := bolt.Break(s)
	for k := range 100 { // until the file would have to grow
		i := storetest.Instance("web", "b"+string(rune('a'+k%26)))
		i.Port = uint16(k)
		i.Meta = []store.Pair{{Key: "k", Value: string(make([]byte, 200))}}
		if _, err = r.Register(t.Context(), i, false); err != nil {
			break
		}
	}
	if c := s.Counts(); err == nil || c.Failed != 1 {
		t.Errorf("a full disk: %v, %+v", err, c)
	}
	fix()
}
