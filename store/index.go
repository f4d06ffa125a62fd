package store

import (
	"hash/maphash"
	"sync/atomic"
)

// index finds services by name. Lookups take no lock and allocate nothing,
// also where the name is a slice of octets; those who change it hold the
// registry's mu. It is a hash table of immutable chains: a change puts a new
// head in place of one chain, growth puts a new table in place of the old.
type index struct {
	seed  maphash.Seed
	table atomic.Pointer[[]atomic.Pointer[entry]] // its length is a power of two
	n     int
}

type entry struct {
	name string
	s    *service
	next *entry
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	x.grow(64)
	return x
}

func (x *index) get(name string) *service {
	table := *x.table.Load()
	e := table[maphash.String(x.seed, name)&uint64(len(table)-1)].Load()
	for ; e != nil; e = e.next {
		if e.name == name {
			return e.s
		}
	}
	return nil
}

func (x *index) getBytes(name []byte) *service {
	table := *x.table.Load()
	e := table[maphash.Bytes(x.seed, name)&uint64(len(table)-1)].Load()
	for ; e != nil; e = e.next {
		if e.name == string(name) {
			return e.s
		}
	}
	return nil
}

// add adds a name that is not in it.
func (x *index) add(name string, s *service) {
	if x.n >= len(*x.table.Load()) {
		x.grow(2 * x.n)
	}
	x.insert(*x.table.Load(), name, s)
	x.n++
}

func (x *index) insert(table []atomic.Pointer[entry], name string, s *service) {
	head := &table[maphash.String(x.seed, name)&uint64(len(table)-1)]
	head.Store(&entry{name, s, head.Load()})
}

func (x *index) grow(size int) {
	table := make([]atomic.Pointer[entry], size)
	if x.table.Load() != nil {
		x.all(func(name string, s *service) bool { x.insert(table, name, s); return true })
	}
	x.table.Store(&table)
}

// remove removes a name that is in it.
func (x *index) remove(name string) {
	table := *x.table.Load()
	head := &table[maphash.String(x.seed, name)&uint64(len(table)-1)]
	var chain *entry // copied, for readers may be on the old one
	for e := head.Load(); e != nil; e = e.next {
		if e.name != name {
			chain = &entry{e.name, e.s, chain}
		}
	}
	head.Store(chain)
	x.n--
}

// all calls yield with every service until it returns false. What is added or
// removed meanwhile may be among them or not.
func (x *index) all(yield func(string, *service) bool) {
	table := *x.table.Load()
	for k := range table {
		for e := table[k].Load(); e != nil; e = e.next {
			if !yield(e.name, e.s) {
				return
			}
		}
	}
}
