package etcd

import (
	"time"

	"github.com/rosterdns/roster/store"
)

// counts are what a store counts of what it does. They are guarded by its mu.
type counts struct {
	cutOffs, changes, conflicts, failed, resyncs, renewed uint64

	batches, took *store.Histogram
}

// Counts are what a [Store] has done since it was opened, and how it is.
type Counts struct {
	CutOff  bool          // etcd is out of reach
	CutOffs uint64        // how often it has been
	Lag     time.Duration // how old is what is confirmed now
	Servers int           // how many others are up

	Batches store.Distribution // leases in a batch of renewals
	Took    store.Distribution // until what was written had come back, in nanoseconds
	Renewed uint64             // leases that were written in batches

	Changes   uint64 // transactions that changed an instance
	Conflicts uint64 // those that were decided again because another server was faster
	Failed    uint64 // transactions without an answer, or with an error
	Resyncs   uint64 // how often all was read again
}

// Counts returns what the store has done. It may be called at any time.
func (s *Store) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Counts{
		CutOff: s.cutOff, CutOffs: s.counts.cutOffs, Servers: len(s.servers), Renewed: s.counts.renewed,
		Batches: s.counts.batches.Read(), Took: s.counts.took.Read(),
		Changes: s.counts.changes, Conflicts: s.counts.conflicts, Failed: s.counts.failed, Resyncs: s.counts.resyncs,
	}
	if s.replica != nil {
		c.Lag = s.replica.Age() - s.returned
	}
	return c
}

// count counts.
func (s *Store) count(one func(*counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one(&s.counts)
}

// wrote counts a transaction with renewals, or a tick alone.
func (c *counts) wrote(leases int, took time.Duration) {
	c.took.Count(int64(took))
	if leases > 0 {
		c.batches.Count(int64(leases))
		c.renewed += uint64(leases)
	}
}

func newCounts() counts {
	const ms = int64(time.Millisecond)
	return counts{
		batches: store.NewHistogram(1, 4, 16, 64, 256, 1024, 4096, 16384),
		took:    store.NewHistogram(ms, 2*ms, 4*ms, 8*ms, 16*ms, 32*ms, 64*ms, 128*ms, 256*ms, 512*ms, 1024*ms),
	}
}
