package etcd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
)

const (
	// batchTime is from one batch of renewals to the next, in the long run;
	// burst batches may come at once before that counts.
	batchTime = 50 * time.Millisecond
	burst     = 20
	// maxBatch bounds the leases in a batch: etcd takes 1.5 MiB.
	maxBatch = 50_000
	// maxWriting bounds the batches and ticks that are under way. There are
	// several when a member does not answer.
	maxWriting = 8
	// doneAtOnce is how many batches that nobody needs a transaction deletes;
	// etcd takes 128 operations.
	doneAtOnce = 64
)

// pending are the renewals that wait to be written, or are being written.
type pending struct {
	leases  map[place]store.Instant
	waiters []chan struct{} // each is closed when all that was pending has been seen
	writing int             // transactions that are under way
	last    time.Duration   // the Age at which the last one was begun
	earned  time.Duration   // the Age at which the next batch is paid for
}

// Renew implements [store.Shared].
func (s *Store) Renew(ctx context.Context, leases []store.Renewal) error {
	done := make(chan struct{})
	s.mu.Lock()
	select {
	case <-s.cut:
		defer s.mu.Unlock()
		return s.outOfReachLocked(store.ErrCutOff)
	default:
	}
	if s.ticks.begun && !s.isGoing() { // what is heard now cannot be said to have been heard later
		defer s.mu.Unlock()
		return s.outOfReachLocked(store.ErrCutOff)
	}
	cut := s.cut
	if s.pending.leases == nil {
		s.pending.leases = make(map[place]store.Instant, len(leases))
	}
	for _, l := range leases {
		at := place{l.Service, l.Label}
		s.pending.leases[at] = max(s.pending.leases[at], l.End)
	}
	s.pending.waiters = append(s.pending.waiters, done)
	s.mu.Unlock()
	s.kick()
	select {
	case <-done:
		return nil
	case <-cut:
		return s.outOfReach()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", store.ErrUnconfirmed, ctx.Err())
	}
}

// kick has the writer look at once whether there is something to do.
func (s *Store) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write writes renewals and ticks until ctx is done.
func (s *Store) write(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.checkCut()
		w, next := s.take()
		if w != nil {
			s.running.Go(func() { s.send(ctx, w) })
		}
		timer.Reset(next)
	}
}

// writing is one transaction with renewals and a tick.
type writing struct {
	tick
	leases  map[place]store.Instant
	waiters []chan struct{}
	age     time.Duration
	ops     []clientv3.Op
	renewed int
}

// take returns what is to be written now, nil for nothing, and when to ask again.
func (s *Store) take() (*writing, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, age := &s.pending, s.replica.Age()
	// While the lease clock does not go, it does not say how long ago leases were
	// renewed, as it will when it has made up for that.
	wanted := s.isGoing() && (len(p.waiters) > 0 || len(p.leases) > 0)
	rest := p.earned - burst*batchTime - age
	switch {
	case p.writing >= maxWriting:
		return nil, tickTime
	case wanted && rest > 0:
		return nil, rest
	case !wanted && age-p.last < tickTime:
		// A tick that was kicked for shows somebody what has been seen.
		if len(s.waiting) == 0 || rest > 0 || age-p.last < batchTime {
			return nil, tickTime - (age - p.last)
		}
	}
	if wanted {
		p.earned = max(p.earned, age) + batchTime
	}
	p.last = age
	p.writing++
	at := s.stampLocked()
	w := &writing{tick: s.tick(at, s.ticks.send(age)), age: age}
	if wanted {
		w.leases, w.waiters = p.leases, p.waiters
		p.leases, p.waiters = nil, nil
	}
	s.fill(w)
	return w, tickTime
}

// fill makes the operations of w. The tick comes last: whoever sees it has seen
// the rest. The caller holds mu.
func (s *Store) fill(w *writing) {
	var leases []renewed
	for at, end := range w.leases {
		if len(leases) == maxBatch {
			break
		}
		if i := s.known.instances[at]; i != nil {
			leases = append(leases, renewed{i.created, end})
		}
	}
	if len(leases) > 0 {
		slices.SortFunc(leases, func(a, b renewed) int { return cmp.Compare(a.created, b.created) })
		key := s.keys.batch(s.id, w.n)
		w.ops = append(w.ops, clientv3.OpPut(key, appendBatch(key, w.stamp, leases)))
		w.renewed = len(leases)
	}
	for _, key := range s.known.done(doneAtOnce, s.cleans) {
		w.ops = append(w.ops, clientv3.OpDelete(key))
	}
	for _, id := range s.silent() {
		w.ops = append(w.ops, clientv3.OpDelete(s.keys.server(id)))
	}
	key := s.keys.server(s.id)
	w.ops = append(w.ops, clientv3.OpPut(key, w.append(key)))
}

// send writes w and waits until it has been seen. Where that takes too long, what
// it had is pending again: it is no harm if it is written twice.
func (s *Store) send(ctx context.Context, w *writing) {
	asking, cancel := context.WithTimeout(ctx, txnTime)
	defer cancel()
	resp, err := s.client.Txn(asking).Then(w.ops...).Commit()
	if err == nil {
		s.mu.Lock()
		s.answered = max(s.answered, w.age)
		s.lookBack(resp.Header, w.seen)
		s.mu.Unlock()
	} else {
		s.note(s.translate(err))
		s.count(func(c *counts) { c.failed++ })
	}
	seen := false
	for err == nil && asking.Err() == nil {
		later := s.later()
		if seen = s.isBack(w.n); seen {
			break
		}
		select {
		case <-later:
		case <-asking.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.writing--
	if seen {
		s.counts.wrote(w.renewed, s.replica.Age()-w.age)
	}
	if seen && len(w.leases) <= maxBatch {
		for _, done := range w.waiters {
			close(done)
		}
		return
	}
	s.pending.waiters = append(w.waiters, s.pending.waiters...)
	if s.pending.leases == nil {
		s.pending.leases = map[place]store.Instant{}
	}
	for at, end := range w.leases {
		if i := s.known.instances[at]; i != nil && end > i.end+unit {
			s.pending.leases[at] = max(s.pending.leases[at], end)
		}
	}
	if seen {
		defer s.kick()
	}
}

// isBack reports whether a tick of this server has come back.
func (s *Store) isBack(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.ticks.sent, func(t sentTick) bool { return t.n == n && t.revision != 0 })
}
