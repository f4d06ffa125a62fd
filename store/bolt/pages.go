package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file reads a bbolt file without bbolt, whose own readers trust what
// they read: a damaged page makes them panic, loop, or leave the mapping, in
// goroutines that nobody can guard. Here every number is checked before it is
// used, and the whole is a function from octets to keys and values. bbolt only
// gets to open what has passed.
//
// The layout, in the machine's byte order: the file is pages of one size. A
// page begins with
//
//	 0        8     10     12        16
//	+--------+------+------+----------+
//	| number | kind | n    | overflow |  overflow: further pages that belong to it
//	+--------+------+------+----------+
//
// Pages 0 and 1 are meta pages, of which the valid one with the higher
// transaction counts:
//
//	16      20        24          28      32     40         48         56      64       72
//	+-------+---------+-----------+-------+------+----------+----------+-------+-------+----------+
//	| magic | version | page size | flags | root | sequence | freelist | pages | tx id | checksum |
//	+-------+---------+-----------+-------+------+----------+----------+-------+-------+----------+
//
// A branch page goes on with n elements of (pos 4, key size 4, page 8), a leaf
// page with n of (flags 4, pos 4, key size 4, value size 4); pos counts from
// the element. A leaf with flag 1 is a bucket: its value is (root page 8,
// sequence 8), and where the root is 0 the bucket's one leaf page follows.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64 // up to and with the checksum, after the page's header

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01

	magic       = 0xED0CDAED
	fileVersion = 2
	noFreelist  = 1<<64 - 1

	maxDepth = 32 // of a tree; a branch has two children at least
)

var native = binary.NativeEndian

// pages is a file being read.
type pages struct {
	r     io.ReaderAt
	size  uint64 // of a page
	count uint64 // of pages in use, the free ones among them
	txid  uint64 // of the transaction that the file is as of
	seen  []bool // each page belongs to one place at most
}

// readMeta finds the meta page that counts and returns the root page of the
// tree of buckets.
func readMeta(r io.ReaderAt, fileSize int64) (*pages, uint64, error) {
	// The page size stands in the meta pages, and says where the second is.
	// Like bbolt, believe the first, or else look for the second.
	var best []byte
	for _, at := range metaOffsets(fileSize) {
		m := make([]byte, pageHeader+metaSize)
		if _, err := r.ReadAt(m, at); err != nil || !validMeta(m, at) {
			continue
		}
		if best == nil || native.Uint64(m[64:]) > native.Uint64(best[64:]) {
			best = m
		}
	}
	if best == nil {
		return nil, 0, errors.New("it has no valid meta page")
	}
	p := &pages{r: r, size: uint64(native.Uint32(best[24:])), count: native.Uint64(best[56:]), txid: native.Uint64(best[64:])}
	if p.count < 3 || p.count > uint64(fileSize)/p.size {
		return nil, 0, fmt.Errorf("it has %d octets and should have %d pages of %d", fileSize, p.count, p.size)
	}
	p.seen = make([]bool, p.count)
	p.seen[0], p.seen[1] = true, true
	return p, native.Uint64(best[32:]), p.checkFreelist(native.Uint64(best[48:]))
}

// metaOffsets returns where meta pages can be: at the start, and behind a page
// of any size that bbolt uses.
func metaOffsets(fileSize int64) []int64 {
	list := []int64{0}
	for size := int64(1024); size <= 1<<24 && size < fileSize; size *= 2 {
		list = append(list, size)
	}
	return list
}

func validMeta(m []byte, at int64) bool {
	sum := fnv.New64a()
	sum.Write(m[pageHeader : pageHeader+metaSize-8])
	size := int64(native.Uint32(m[24:]))
	// As bbolt, which does not look at the page's header here.
	return native.Uint32(m[16:]) == magic && native.Uint32(m[20:]) == fileVersion &&
		native.Uint64(m[72:]) == sum.Sum64() &&
		size >= 1024 && size <= 1<<24 && (at == 0 || at == size)
}

// checkFreelist checks the list of free pages. A new file has one, and so has
// one that bbolt's own tools have written; ours are kept without.
func (p *pages) checkFreelist(number uint64) error {
	if number == noFreelist {
		return nil
	}
	b, err := p.page(number, freelistPage)
	if err != nil {
		return err
	}
	n, ids := uint64(native.Uint16(b[10:])), b[pageHeader:]
	if n == 0xffff { // too many for the header: the number is the first of them
		n, ids = native.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids))/8 {
		return fmt.Errorf("page %d: the list of free pages is out of bounds", number)
	}
	for k := range n {
		free := native.Uint64(ids[8*k:])
		if free >= p.count || p.seen[free] {
			return fmt.Errorf("page %d is free and in use", free)
		}
		p.seen[free] = true
	}
	return nil
}

// page returns a page with what overflows from it, which must be of one of
// the kinds and must not have been read before.
func (p *pages) page(number uint64, kinds uint16) ([]byte, error) {
	if number >= p.count {
		return nil, fmt.Errorf("page %d is used, of %d", number, p.count)
	}
	b := make([]byte, p.size)
	if _, err := p.r.ReadAt(b, int64(number*p.size)); err != nil {
		return nil, fmt.Errorf("page %d: %w", number, err)
	}
	overflow := uint64(native.Uint32(b[12:]))
	kind := native.Uint16(b[8:])
	if native.Uint64(b) != number || kind&kinds == 0 || kind&(kind-1) != 0 || overflow >= p.count-number {
		return nil, fmt.Errorf("page %d has a bad header", number)
	}
	for n := number; n <= number+overflow; n++ {
		if p.seen[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		p.seen[n] = true
	}
	if overflow > 0 {
		rest := make([]byte, p.size*overflow)
		if _, err := p.r.ReadAt(rest, int64((number+1)*p.size)); err != nil {
			return nil, fmt.Errorf("page %d: %w", number, err)
		}
		b = append(b, rest...)
	}
	return b, nil
}

// item is one key of a leaf page and its value, or the bucket under it.
type item struct {
	key, value []byte
	bucket     bool
}

// walk calls visit with every item of the tree at a root page, in order.
func (p *pages) walk(root uint64, visit func(item) error) error {
	w := walker{pages: p, visit: visit}
	return w.tree(root, nil, 0)
}

type walker struct {
	*pages
	visit func(item) error
	last  []byte // the key visited before
	begun bool
}

// tree walks the subtree at a page, whose keys must not be below low.
func (w *walker) tree(number uint64, low []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d stands too deep", number)
	}
	b, err := w.page(number, branchPage|leafPage)
	if err != nil {
		return err
	}
	if native.Uint16(b[8:]) == leafPage {
		err = w.leaf(b, low)
	} else {
		err = w.branch(b, low, depth)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	return nil
}

func (w *walker) branch(b, low []byte, depth int) error {
	n := int(native.Uint16(b[10:]))
	if n == 0 {
		return errors.New("it is an empty branch")
	}
	for k := range n {
		at := pageHeader + k*elementSize
		if at+elementSize > len(b) {
			return errors.New("an element is out of bounds")
		}
		e := b[at:]
		key, ok := cut(e, uint64(native.Uint32(e)), uint64(native.Uint32(e[4:])))
		if !ok || bytes.Compare(key, low) < 0 || w.begun && bytes.Compare(key, w.last) <= 0 {
			return errors.New("a key is out of bounds or order")
		}
		if err := w.tree(native.Uint64(e[8:]), key, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) leaf(b, low []byte) error {
	for k := range int(native.Uint16(b[10:])) {
		at := pageHeader + k*elementSize
		if at+elementSize > len(b) {
			return errors.New("an element is out of bounds")
		}
		e := b[at:]
		flags, pos := native.Uint32(e), uint64(native.Uint32(e[4:]))
		keySize, valueSize := uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		key, keyOK := cut(e, pos, keySize)
		value, valueOK := cut(e, pos+keySize, valueSize)
		if !keyOK || !valueOK || flags&^bucketLeaf != 0 {
			return errors.New("an element is out of bounds")
		}
		if bytes.Compare(key, low) < 0 || w.begun && bytes.Compare(key, w.last) <= 0 {
			return errors.New("a key is out of order")
		}
		w.last, w.begun = key, true
		if err := w.visit(item{key, value, flags == bucketLeaf}); err != nil {
			return err
		}
	}
	return nil
}

// cut returns size octets of b from pos on, if it has them.
func cut(b []byte, pos, size uint64) ([]byte, bool) {
	if pos > uint64(len(b)) || size > uint64(len(b))-pos {
		return nil, false
	}
	return b[pos : pos+size], true
}

// walkBucket walks the tree of a bucket, given the value that stands for it.
func (p *pages) walkBucket(value []byte, visit func(item) error) error {
	if len(value) < 16 {
		return errors.New("its root is out of bounds")
	}
	if root := native.Uint64(value); root != 0 {
		return p.walk(root, visit)
	}
	inline := value[16:]
	if len(inline) < pageHeader || native.Uint16(inline[8:]) != leafPage {
		return errors.New("its inline page has a bad header")
	}
	w := walker{pages: p, visit: visit}
	return w.leaf(inline, nil)
}
