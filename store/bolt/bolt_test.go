package bolt_test

import (
	"path/filepath"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// opener returns the opener of one file in a folder of its own.
func opener(t *testing.T) storetest.Opener {
	path := filepath.Join(t.TempDir(), "roster.db")
	return func(t *testing.T) store.Backend {
		t.Helper()
		s, err := bolt.Open(path)
		if err != nil {
			t.Fatalf("open the store: %v", err)
		}
		return s
	}
}

func TestBolt(t *testing.T) { storetest.Run(t, opener, true) }
