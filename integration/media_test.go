package integration

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
)

// pageSize is what a system writes back at once, and sector what a disk writes
// whole or not at all.
const (
	pageSize = 4096
	sector   = 512
)

// media is what a disk may hold of one file. What was written and synced is
// there. What was not synced yet is there or not, each page for itself, or in
// part. And after a sync that failed, the system has forgotten that the pages
// were ever to be written: they are there or not whatever is synced later.
type media struct {
	pages map[int64]*mediaPage
	size  mediaSize
	steps int // operations so far
	at    func(m *media, step int)
}

type mediaPage struct {
	seen    []byte   // what readers see
	durable []byte   // what is there for certain, nil: a hole
	maybe   [][]byte // what may be there in its place
	dirty   bool     // the next sync will have it written
}

type mediaSize struct {
	seen, durable int64
	dirty         bool
}

// newMedia begins with what is there for certain.
func newMedia(content []byte, at func(*media, int)) *media {
	m := &media{pages: map[int64]*mediaPage{}, size: mediaSize{seen: int64(len(content)), durable: int64(len(content))}, at: at}
	for off := 0; off < len(content); off += pageSize {
		page := make([]byte, pageSize)
		copy(page, content[off:])
		m.pages[int64(off)] = &mediaPage{seen: page, durable: page}
	}
	return m
}

func (m *media) step() {
	m.steps++
	m.at(m, m.steps)
}

func (m *media) write(off int64, data []byte) {
	for len(data) > 0 {
		start := off / pageSize * pageSize
		p := m.pages[start]
		if p == nil {
			p = &mediaPage{seen: make([]byte, pageSize)}
			m.pages[start] = p
		}
		p.seen = bytes.Clone(p.seen)
		n := copy(p.seen[off-start:], data)
		p.maybe, p.dirty = append(p.maybe, p.seen), true
		off, data = off+int64(n), data[n:]
	}
	if off > m.size.seen {
		m.size.seen, m.size.dirty = off, true
	}
	m.step()
}

func (m *media) resize(size int64) {
	m.size.seen, m.size.dirty = size, true
	m.step()
}

func (m *media) sync(ok bool) {
	for _, p := range m.pages {
		if p.dirty && ok {
			p.durable, p.maybe = p.seen, nil
		}
		p.dirty = false
	}
	if m.size.dirty && ok {
		m.size.durable = m.size.seen
	}
	m.size.dirty = false
	m.step()
}

// open reports how many pages may be one or another.
func (m *media) open() int {
	n := 0
	for _, p := range m.pages {
		if len(p.maybe) > 0 {
			n++
		}
	}
	return n
}

// image returns what a power cut may leave: choose says for each page which of
// n states, of which 0 is the durable one and the last that which readers saw.
func (m *media) image(r *rand.Rand, choose func(n int) int) []byte {
	size := m.size.durable
	if choose(2) == 1 {
		size = max(size, m.size.seen)
	}
	image := make([]byte, size)
	place := func(off int64, page []byte) {
		if end := int(off) + pageSize; end > len(image) {
			image = append(image, make([]byte, end-len(image))...) // a page that was written is in the file
		}
		copy(image[off:], page)
	}
	for _, off := range slices.Sorted(maps.Keys(m.pages)) {
		p := m.pages[off]
		if k := choose(len(p.maybe) + 1); k > 0 {
			page := p.maybe[k-1]
			if r.IntN(4) == 0 {
				page = torn(r, p.durable, page)
			}
			place(off, page)
		} else if p.durable != nil {
			place(off, p.durable)
		}
	}
	return image
}

// torn returns a page of which some sectors are the old ones.
func torn(r *rand.Rand, before, after []byte) []byte {
	page := make([]byte, pageSize)
	copy(page, before)
	for at := 0; at < pageSize; at += sector {
		if r.IntN(2) == 0 {
			copy(page[at:at+sector], after[at:])
		}
	}
	return page
}
