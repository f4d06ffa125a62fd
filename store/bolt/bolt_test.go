package bolt_test

import (
	"path/filepath"
	"testing"

	"github.com/rosterdns/roster/store/storetest"
)

// opener returns the opener of one file in a folder of its own.
func opener(t *testing.T) storetest.Opener {
	t.Helper()
	return at(filepath.Join(t.TempDir(), "roster.db"))
}

func TestBolt(t *testing.T) { storetest.Run(t, opener, true) }
