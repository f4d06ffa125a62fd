package main

import "testing"

// Memory is given back in a quiet minute, once for each busy time.
func TestSpare(t *testing.T) {
	var allocated uint64
	released := 0
	s := &spare{allocated: func() uint64 { return allocated }, release: func() { released++ }}
	for k, step := range []struct {
		allocates uint64
		want      int
	}{
		{500 << 20, 0}, // busy
		{100 << 20, 0},
		{1 << 20, 1}, // quiet: now
		{1 << 20, 1}, // nothing worth it
		{30 << 20, 2},
		{33 << 20, 2}, // busy
		{0, 3},
		{0, 3},
	} {
		allocated += step.allocates
		if s.look(); released != step.want {
			t.Errorf("step %d: memory was given back %d times, want %d", k, released, step.want)
		}
	}
}
