package etcd

import (
	"time"

	"github.com/rosterdns/roster/store"
)

// known is what a store knows of what is in etcd beyond what the registry does.
// It is guarded by the mu of its store.
type known struct {
	instances map[place]*instance
	created   map[int64]*instance // by the etcd revision at which the key was made
	batches   map[string]*batch   // by key

	// unneeded are those of the batches that nobody needs, by server. They are few:
	// long leases need a batch for long.
	unneeded map[string]map[*batch]struct{}
}

// instance is what is known of an instance's key.
type instance struct {
	place
	created, modified int64 // etcd's revisions
	revision          store.Revision
	length            time.Duration // of its lease: see lengthOf
	end               store.Instant // the last that any server has said
	batch             *batch        // the one that says so; nil: the key itself
}

// lengthOf returns how long a renewal makes the lease of an instance; 0 and less
// where none moves its end.
func lengthOf(in *store.Instance) time.Duration {
	if in.Leaving {
		return -1
	}
	return in.TTL
}

// until returns the end of the lease after a renewal that was written at a moment.
// It may be of a time when the lease was longer: whoever wrote it did not know yet.
func (i *instance) until(at, end store.Instant) store.Instant {
	if i.length <= 0 {
		return i.end
	}
	return min(end, at.Add(i.length))
}

// batch is a batch of renewals. It is needed for as long as it is the last that
// has said something about any instance.
type batch struct {
	key    string
	server string
	needed int
}

func newKnown() known {
	return known{map[place]*instance{}, map[int64]*instance{}, map[string]*batch{}, map[string]map[*batch]struct{}{}}
}

// put takes in that an instance's key has been written. Where the lease has got
// another length, only what is in the key counts: it may end earlier now.
func (k *known) put(at place, created, modified int64, revision store.Revision, end store.Instant, length time.Duration) {
	i := k.instances[at]
	if i != nil && i.created != created {
		k.remove(at)
		i = nil
	}
	if i == nil {
		i = &instance{place: at, created: created, length: length}
		k.instances[at], k.created[created] = i, i
	}
	i.modified, i.revision = modified, revision
	if i.length != length {
		k.unneed(i)
		i.length, i.end = length, end
	}
	k.renew(i, end, nil)
}

// remove takes in that an instance's key has been deleted.
func (k *known) remove(at place) {
	if i := k.instances[at]; i != nil {
		k.unneed(i)
		delete(k.instances, at)
		delete(k.created, i.created)
	}
}

// renew takes in what a batch, or with nil the key itself, says about a lease. A
// key that is written later says it anew: what the batch said is in it.
func (k *known) renew(i *instance, end store.Instant, b *batch) {
	if end < i.end {
		return
	}
	k.unneed(i)
	i.end, i.batch = end, b
	if b != nil {
		b.needed++
		k.keep(b)
	}
}

// add takes in that a batch has been written.
func (k *known) add(key, server string) *batch {
	k.drop(key) // it may come once more
	b := &batch{key: key, server: server}
	k.batches[key] = b
	k.spare(b)
	return b
}

// drop takes in that a batch has been deleted.
func (k *known) drop(key string) {
	if b := k.batches[key]; b != nil {
		delete(k.batches, key)
		k.keep(b)
	}
}

func (k *known) unneed(i *instance) {
	b := i.batch
	if b == nil {
		return
	}
	i.batch = nil
	b.needed--
	if b.needed == 0 && k.batches[b.key] == b { // else it has been deleted by hand
		k.spare(b)
	}
}

// spare and keep put a batch among those that nobody needs, and take it out.
func (k *known) spare(b *batch) {
	of := k.unneeded[b.server]
	if of == nil {
		of = map[*batch]struct{}{}
		k.unneeded[b.server] = of
	}
	of[b] = struct{}{}
}

func (k *known) keep(b *batch) {
	of := k.unneeded[b.server]
	delete(of, b)
	if len(of) == 0 {
		delete(k.unneeded, b.server)
	}
}

// done returns up to limit keys of batches that nobody needs, of those servers
// for which ours says so.
func (k *known) done(limit int, ours func(server string) bool) (keys []string) {
	for server, of := range k.unneeded {
		if !ours(server) {
			continue
		}
		for b := range of {
			if len(keys) == limit {
				return keys
			}
			keys = append(keys, b.key)
		}
	}
	return keys
}
