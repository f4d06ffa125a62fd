package store

import "sync/atomic"

// Histogram counts measurements by size. Counting takes no lock and allocates
// nothing; what was counted is read with [Histogram.Read].
type Histogram struct {
	bounds []int64
	cells  []atomic.Uint64 // cells[k]: up to bounds[k]; the last: above all of them
	sum    atomic.Int64
}

// Distribution is what a [Histogram] has counted.
type Distribution struct {
	Bounds []int64  // rising; the unit is the histogram's
	Cells  []uint64 // how many were up to each bound and above the one before; the last: above all
	Sum    int64    // of all that was measured
}

// NewHistogram makes a histogram with the given bounds, which rise.
func NewHistogram(bounds ...int64) *Histogram {
	return &Histogram{bounds: bounds, cells: make([]atomic.Uint64, len(bounds)+1)}
}

// Count counts one measurement. Small ones are found fastest.
func (h *Histogram) Count(n int64) {
	k := 0
	for k < len(h.bounds) && n > h.bounds[k] {
		k++
	}
	h.cells[k].Add(1)
	h.sum.Add(n)
}

// Read returns what was counted up to now. What is being counted meanwhile may
// be in it by half: in a cell and not yet in the sum.
func (h *Histogram) Read() Distribution {
	d := Distribution{Bounds: h.bounds, Cells: make([]uint64, len(h.cells)), Sum: h.sum.Load()}
	for k := range h.cells {
		d.Cells[k] = h.cells[k].Load()
	}
	return d
}
