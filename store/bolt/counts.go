package bolt

import (
	"sync/atomic"
	"time"

	"github.com/rosterdns/roster/store"
)

// counts are what the committer counts of what it does.
type counts struct {
	took    *store.Histogram
	changes *store.Histogram
	failed  atomic.Uint64
}

func newCounts() *counts {
	const ms = int64(time.Millisecond)
	return &counts{
		took: store.NewHistogram(ms/4, ms/2, ms, 2*ms, 4*ms, 8*ms, 16*ms, 32*ms, 64*ms,
			128*ms, 256*ms, 512*ms, 1024*ms, 2048*ms, 4096*ms),
		changes: store.NewHistogram(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
	}
}

// Counts are what a [Store] has done since it was opened.
type Counts struct {
	// Took is how long transactions took to be written and synced, in
	// nanoseconds; those that failed are not in it.
	Took store.Distribution

	// Changes is how many changes shared each of them.
	Changes store.Distribution

	// Failed is how many transactions could not be made to last.
	Failed uint64

	// Troubled is whether the last ones are among these.
	Troubled bool
}

// Counts returns what the store has done. It may be called at any time.
func (s *Store) Counts() Counts {
	return Counts{
		Took:     s.counts.took.Read(),
		Changes:  s.counts.changes.Read(),
		Failed:   s.counts.failed.Load(),
		Troubled: s.troubled.Load(),
	}
}
