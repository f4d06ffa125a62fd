package etcdtest

import (
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// keys are all keys and what they were before.
type keys struct {
	revision  int64
	compacted int64     // the oldest revision that can still be read
	sorted    []*past   // by key
	log       []*change // of the revisions from compacted on, in order
	writing   *change   // what the transaction under way has done
}

// past is a key with all that it was.
type past struct {
	key    string
	values []*mvccpb.KeyValue // oldest first; Version 0: it was deleted
}

// change is what one transaction did.
type change struct {
	revision int64
	events   []*mvccpb.Event // with PrevKv
}

// span is a range of keys, as requests name it.
type span struct{ from, to string }

// spanOf takes what a request says: without an end it is one key, and an end
// of a zero octet is none.
func spanOf(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{string(key), string(key) + "\x00"}
	case len(end) == 1 && end[0] == 0:
		return span{from: string(key)}
	}
	return span{string(key), string(end)}
}

func (s span) has(key string) bool {
	return key >= s.from && (s.to == "" || key < s.to)
}

// now is the revision that a read sees: a transaction sees what it has done.
func (k *keys) now() int64 {
	if k.writing != nil && len(k.writing.events) > 0 {
		return k.revision + 1
	}
	return k.revision
}

func (p *past) at(revision int64) *mvccpb.KeyValue {
	for _, v := range slices.Backward(p.values) {
		if v.ModRevision <= revision {
			if v.Version == 0 {
				return nil
			}
			return v
		}
	}
	return nil
}

func (k *keys) find(key string) (int, bool) {
	return slices.BinarySearchFunc(k.sorted, key, func(p *past, key string) int { return strings.Compare(p.key, key) })
}

// in returns the keys of a range as they were, in order.
func (k *keys) in(s span, revision int64) []*mvccpb.KeyValue {
	var all []*mvccpb.KeyValue
	first, _ := k.find(s.from)
	for _, p := range k.sorted[first:] {
		if !s.has(p.key) {
			break
		}
		if v := p.at(revision); v != nil {
			all = append(all, v)
		}
	}
	return all
}

// write begins, does and ends a transaction; one that changes nothing has no
// revision of its own.
func (k *keys) write(do func()) *change {
	k.writing = &change{revision: k.revision + 1}
	do()
	c := k.writing
	k.writing = nil
	if len(c.events) == 0 {
		return nil
	}
	k.revision++
	k.log = append(k.log, c)
	return c
}

// put returns what the key was before.
func (k *keys) put(key string, value []byte) *mvccpb.KeyValue {
	i, ok := k.find(key)
	if !ok {
		k.sorted = slices.Insert(k.sorted, i, &past{key: key})
	}
	p, revision := k.sorted[i], k.revision+1
	before := p.at(revision)
	now := &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: revision, ModRevision: revision, Version: 1}
	if before != nil {
		now.CreateRevision, now.Version = before.CreateRevision, before.Version+1
	}
	p.values = append(p.values, now)
	k.writing.events = append(k.writing.events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: now, PrevKv: before})
	return before
}

// remove returns what it has deleted.
func (k *keys) remove(s span) []*mvccpb.KeyValue {
	gone := k.in(s, k.now())
	for _, before := range gone {
		i, _ := k.find(string(before.Key))
		now := &mvccpb.KeyValue{Key: before.Key, ModRevision: k.revision + 1}
		k.sorted[i].values = append(k.sorted[i].values, now)
		k.writing.events = append(k.writing.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: now, PrevKv: before})
	}
	return gone
}

// compact forgets what was before a revision.
func (k *keys) compact(revision int64) error {
	if revision <= k.compacted {
		return rpctypes.ErrGRPCCompacted
	}
	if revision > k.revision {
		return rpctypes.ErrGRPCFutureRev
	}
	k.compacted = revision
	k.log = slices.DeleteFunc(k.log, func(c *change) bool { return c.revision < revision })
	k.sorted = slices.DeleteFunc(k.sorted, func(p *past) bool {
		last := 0
		for i, v := range p.values {
			if v.ModRevision <= revision {
				last = i
			}
		}
		if v := p.values[last]; v.Version == 0 && v.ModRevision <= revision {
			last++
		}
		p.values = p.values[last:]
		return len(p.values) == 0
	})
	return nil
}

// since returns the changes from a revision on.
func (k *keys) since(revision int64) []*change {
	i, _ := slices.BinarySearchFunc(k.log, revision, func(c *change, r int64) int { return int(c.revision - r) })
	return k.log[i:]
}

// readable says whether a request may read at a revision.
func (k *keys) readable(revision int64) error {
	switch {
	case revision > k.now():
		return rpctypes.ErrGRPCFutureRev
	case revision > 0 && revision < k.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// read answers a request that is [keys.readable].
func (k *keys) read(r *pb.RangeRequest) *pb.RangeResponse {
	revision := r.Revision
	if revision <= 0 {
		revision = k.now()
	}
	all := k.in(spanOf(r.Key, r.RangeEnd), revision)
	resp := &pb.RangeResponse{Header: header(k.now()), Count: int64(len(all))}
	if r.CountOnly {
		return resp
	}
	all = slices.DeleteFunc(all, func(v *mvccpb.KeyValue) bool {
		return beyond(v.ModRevision, r.MinModRevision, r.MaxModRevision) ||
			beyond(v.CreateRevision, r.MinCreateRevision, r.MaxCreateRevision)
	})
	order(all, r.SortTarget, r.SortOrder)
	if r.Limit > 0 && int64(len(all)) > r.Limit {
		all, resp.More = all[:r.Limit], true
	}
	for _, v := range all {
		v = copied(v)
		if r.KeysOnly {
			v.Value = nil
		}
		resp.Kvs = append(resp.Kvs, v)
	}
	return resp
}

// beyond says whether a revision is beyond bounds; a bound of 0 is none.
func beyond(revision, least, most int64) bool {
	return revision < least || most != 0 && revision > most
}

// copied returns a value that the caller may change; its octets are shared.
func copied(v *mvccpb.KeyValue) *mvccpb.KeyValue {
	if v == nil {
		return nil
	}
	return &mvccpb.KeyValue{Key: v.Key, Value: v.Value, CreateRevision: v.CreateRevision, ModRevision: v.ModRevision, Version: v.Version}
}

func header(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: revision}
}
