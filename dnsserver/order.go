package dnsserver

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// shuffle brings records into the random order of one answer. Weighted, the
// chance of each to come first, and then of each of the rest to come next, is
// in proportion to its weight, as a client would draw by RFC 2782: most take
// the first address. Otherwise every order is as likely.
func shuffle(records []record, weighted bool) {
	if !weighted {
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		return
	}
	// Each draws when it would arrive, its weight being its rate; the order of
	// arrival is the order wanted.
	type arrival struct {
		at float64
		record
	}
	order := make([]arrival, len(records))
	for k, r := range records {
		order[k] = arrival{rand.ExpFloat64() / rate(r.weight), r}
	}
	slices.SortFunc(order, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	for k := range order {
		records[k] = order[k].record
	}
}

// rate gives weight 0 the very small chance that RFC 2782 asks for.
func rate(weight int) float64 {
	if weight == 0 {
		return 0.001
	}
	return float64(weight)
}
