package bolt_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// opener returns the opener of one file in a folder of its own.
func opener(t *testing.T) storetest.Opener {
	t.Helper()
	return at(filepath.Join(t.TempDir(), "roster.db"))
}

func TestBolt(t *testing.T) { storetest.Run(t, opener, true) }

// Where the disk fails, transactions are tried for no more than a fifth of the
// time, however many writers there are, and all of these get their answer.
func TestTroubleLeavesTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roster.db")
	for takes, most := range map[time.Duration]int64{
		10 * time.Millisecond: 10_000/50 + 1,
		2 * time.Second:       4, // and a second of rest
	} {
		synctest.Test(t, func(t *testing.T) {
			s := mustOpen(t, path)
			r, done := storetest.Open(t, func(*testing.T) store.Backend { return s }, store.Config{})
			tries := bolt.BreakSlowly(s, takes)
			var g sync.WaitGroup
			for w := range 8 {
				g.Go(func() {
					for begin := time.Now(); time.Since(begin) < 10*time.Second; {
						if _, err := r.Register(t.Context(), storetest.Instance("web", fmt.Sprint(w)), false); !errors.Is(err, store.ErrNotDurable) {
							t.Errorf("got %v, want ErrNotDurable", err)
						}
					}
				})
			}
			storetest.Advance(10*time.Second - 1)
			if n := tries.Load(); n > most {
				t.Errorf("where each takes %v there were %d in 10 s, want %d at most", takes, n, most)
			}
			g.Wait()
			done()
		})
	}
}
