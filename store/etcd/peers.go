package etcd

import (
	"context"
	"hash/fnv"
	"math"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// silentTime is how long a server may write no tick until the others take
	// it that it is gone.
	silentTime = 10 * time.Second
	// rateTime is how long clocks are watched to see how fast they go.
	rateTime = 5 * time.Minute
)

// peer is another server.
type peer struct {
	tick
	heard  time.Duration // when it was last heard of, or may have been
	ticked time.Duration // when a tick of it last came
	since  time.Duration // from when its clock is watched
	from   time.Duration // its own Age then
}

// tick returns one of this server. The caller holds mu.
func (s *Store) tick(at stamp, n uint64) tick {
	return tick{stamp: at, n: n, name: s.cfg.Name, maxTTL: s.replica.MaxTTL(), going: s.isGoing()}
}

// hearFrom takes in a tick of another server. The caller holds mu.
func (s *Store) hearFrom(id string, t tick) {
	age := s.replica.Age()
	p := s.servers[id]
	if p == nil {
		p = &peer{since: age, from: t.age}
		s.servers[id] = p
		s.others.Store(int64(len(s.servers)))
	}
	p.tick, p.heard, p.ticked = t, age, age
	s.replica.HandsOut(t.maxTTL)
	if passed := age - p.since; passed >= rateTime {
		rate := float64(t.age-p.from)/float64(passed) - 1
		p.since, p.from = age, t.age
		if math.Abs(rate) > rateMost {
			go s.cfg.Clocks(t.name, rate*1000)
		}
	}
}

// silent returns the servers that are gone. The caller holds mu.
func (s *Store) silent() (ids []string) {
	if !s.isGoing() {
		return nil // we may not have heard
	}
	for id, p := range s.servers {
		if s.replica.Age()-p.heard > silentTime {
			ids = append(ids, id)
			p.heard = s.replica.Age() // not again at once
		}
	}
	return ids
}

// cleans reports whether this server deletes batches of that one: its own, and
// those of servers that are gone. The caller holds mu.
func (s *Store) cleans(server string) bool {
	return s.servers[server] == nil
}

// Alone implements [store.Shared].
func (s *Store) Alone() bool {
	return s.others.Load() == 0
}

// Judges implements [store.Shared]: for each instance the servers are in another
// order, so that they have about equally many, and few change hands when one
// comes or goes.
func (s *Store) Judges(service, label string) bool {
	weight := func(id string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(id + "\x00" + service + "\x00" + label))
		return h.Sum64() * 0x9e3779b97f4a7c15 >> 1 // the last octets alone change only the lowest bits of FNV
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ours := weight(s.id)
	for id := range s.servers {
		if weight(id) > ours {
			return false
		}
	}
	return true
}

// compact has etcd drop what is older than it needs to be, until ctx is done. One
// of the servers does: the one with the lowest name.
func (s *Store) compact(ctx context.Context) {
	if s.cfg.Compact <= 0 {
		return
	}
	for pause(ctx, s.cfg.Compact) {
		s.mu.Lock()
		revision, first := s.old, true
		s.old = s.seen
		for id := range s.servers {
			first = first && s.id < id
		}
		s.mu.Unlock()
		if !first || revision == 0 {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, txnTime)
		_, _ = s.client.Compact(asking, revision) // another may have done it; the next time will do
		cancel()
	}
}

// leave says that this server is gone, and what its lease clock showed: should
// nobody be left, time goes on from there.
func (s *Store) leave(ctx context.Context) {
	s.mu.Lock()
	now := s.stampLocked()
	s.mu.Unlock()
	_, _ = s.client.Txn(ctx).Then( // the others find out by themselves otherwise
		clientv3.OpDelete(s.keys.server(s.id)),
		clientv3.OpPut(s.keys.clock(), now.mark(s.keys.clock())),
	).Commit()
}
