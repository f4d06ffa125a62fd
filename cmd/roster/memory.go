package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// heapFloor is memory that is asked for and never touched, so that the system
// never gives it. The garbage collector counts it: it begins when the heap has
// grown by gcPercent of the floor and what lives together. Without the floor a
// small registry is collected ten times a second while heartbeats come in by the
// thousand, and each time DNS answers wait; with Go's own 100 percent a large one
// would hold as much garbage as instances.
const (
	heapFloor = 512 << 20
	gcPercent = 25
)

// tuneCollector sets the garbage collector up, unless GOGC says how it is to be.
// The floor lasts until release is called.
func tuneCollector() (release func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	debug.SetGCPercent(gcPercent)
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}

// spare gives memory back to the system that the floor would have the process
// keep: what a busy time has left behind, once it is over. Collecting costs
// nobody anything then.
type spare struct {
	allocated func() uint64 // octets, since the process began
	release   func()

	last, released uint64 // what was allocated at the last look, and when memory was given back
}

const (
	spareTime = time.Minute // from one look to the next
	// quietMost is how much is allocated from one look to the next in a time that
	// is not busy: some 200 requests a second. Less than spareLeast is not worth
	// the trouble.
	quietMost  = 32 << 20
	spareLeast = 8 << 20
)

func newSpare() *spare {
	return &spare{allocated: heapAllocated, release: debug.FreeOSMemory}
}

func heapAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// look gives memory back where it is time to.
func (s *spare) look() {
	now := s.allocated()
	quiet := now-s.last <= quietMost
	s.last = now
	if quiet && now-s.released >= spareLeast {
		s.release()
		s.released = s.allocated()
	}
}

// run looks once a minute until ctx is done.
func (s *spare) run(ctx context.Context) error {
	ticker := time.NewTicker(spareTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.look()
		}
	}
}
