package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/rosterdns/roster/store"
)

const (
	// txnTime is how long a transaction may take until it is tried again, with
	// another member perhaps.
	txnTime = time.Second
	// atOnce is how many transactions one Commit has under way: etcd takes all
	// that wait into one write of its own.
	atOnce = 64
)

// Commit implements [store.Backend]. Each event is a transaction of its own, with
// its own revision; etcd writes those that come together together.
func (s *Store) Commit(ctx context.Context, events []store.Event) error {
	if len(events) == 1 {
		return s.commit(ctx, &events[0])
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for k := 0; k < len(events); {
		end := k + 1
		for end < len(events) && placeOf(&events[end]) == placeOf(&events[k]) {
			end++
		}
		of := events[k:end]
		g.Go(func() error {
			for k := range of {
				if err := s.commit(ctx, &of[k]); err != nil {
					return err
				}
			}
			return nil
		})
		k = end
	}
	return g.Wait()
}

func placeOf(e *store.Event) place { return place{e.Instance().Service, e.Instance().Label} }

// commit makes one event durable and waits until it has been applied. Whether
// it was shows only in the watch: an answer can be lost, and a transaction that
// is tried again then finds what it has itself done.
func (s *Store) commit(ctx context.Context, e *store.Event) error {
	n, seen := s.expect()
	defer s.expectNoMore(n)
	begin, rest := s.replica.Age(), time.Millisecond
	for tried := false; ; tried = true {
		done, revision, err := s.try(ctx, e, n, seen)
		switch {
		case done:
			e.Stamp(revision)
			return nil
		case errors.Is(err, errUnseen):
			if s.replica.Age()-begin > 5*txnTime {
				return fmt.Errorf("%s: %w", e.Instance(), store.ErrConflict) // others get their turn
			}
			// Not all at once again and again: that keeps etcd from what is waited for.
			if !pause(ctx, rand.N(rest)) {
				return fmt.Errorf("%w: %w", store.ErrNotDurable, ctx.Err())
			}
			rest = min(2*rest, tickTime/2)
			continue
		case tried && errors.Is(err, store.ErrNotDurable):
			return s.outOfReach() // the first may have worked
		case err != nil && final(err):
			return err
		case err != nil:
			s.note(err)
		}
		// It may still have worked: what is seen until our next tick shows. A
		// short rest, too, where errors come at once.
		select {
		case revision := <-seen:
			if revision != 0 {
				e.Stamp(revision)
				return nil
			}
		case <-time.After(tickTime):
		case <-s.isCut():
			return s.outOfReach()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrUnconfirmed, ctx.Err())
		}
		if s.replica.Age()-begin > 5*txnTime {
			return s.outOfReach()
		}
	}
}

// final reports whether it makes no sense to try again.
func final(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotDurable) || errors.Is(err, store.ErrClosed)
}

// expect returns a number for a change, and where its revision comes once it has
// been applied; before that, a 0 where all has been read again.
func (s *Store) expect() (n uint64, seen chan store.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	seen = make(chan store.Revision, 2)
	s.waiting[s.changes] = seen
	return s.changes, seen
}

func (s *Store) expectNoMore(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, n)
}

// try sends the transaction for an event and waits until what it has done, or
// what stood against it, has been applied.
func (s *Store) try(ctx context.Context, e *store.Event, n uint64, seen <-chan store.Revision) (done bool, _ store.Revision, _ error) {
	conditions, ops, err := s.transaction(e, n)
	if errors.Is(err, store.ErrConflict) {
		s.settled(ctx) // or the registry would decide by the same again
	}
	if err != nil {
		return false, 0, err
	}
	if e.Kind == store.Expired && s.replica.Lasts(e.Before) {
		// Since it was judged, another server's renewal has come, which the
		// condition takes for seen.
		return false, 0, fmt.Errorf("%s: %w", e.Instance(), store.ErrConflict)
	}
	lasted := s.lasted(placeOf(e))
	asking, cancel := context.WithTimeout(ctx, txnTime)
	defer cancel()
	resp, err := s.client.Txn(asking).If(conditions...).Then(ops...).Commit()
	if err != nil {
		s.count(func(c *counts) { c.failed++ })
		return false, 0, s.translate(err)
	}
	if resp.Succeeded {
		s.count(func(c *counts) { c.changes++ })
	} else {
		s.kick() // a tick shows when all before it has been seen
	}
	return s.await(ctx, e, resp, lasted, seen)
}

// await waits until what a transaction has done, or what stood against it, has
// been applied.
func (s *Store) await(ctx context.Context, e *store.Event, resp *clientv3.TxnResponse, lasted store.Instant, seen <-chan store.Revision) (done bool, _ store.Revision, _ error) {
	for {
		var later <-chan struct{}
		if !resp.Succeeded {
			later = s.later()
			if s.hasSeen(resp.Header.Revision) && len(seen) == 0 {
				return false, 0, s.stoodAgainst(e, lasted)
			}
		}
		select {
		case revision := <-seen:
			if revision == 0 && resp.Succeeded && s.hasSeen(resp.Header.Revision) {
				revision = s.revisionOf(resp.Header.Revision)
			}
			if revision != 0 {
				return true, revision, nil
			}
		case <-later:
		case <-s.isCut():
			return false, 0, s.outOfReach()
		case <-ctx.Done():
			return false, 0, fmt.Errorf("%w: %w", store.ErrUnconfirmed, ctx.Err())
		}
	}
}

// stoodAgainst returns what it means that a transaction was not done.
func (s *Store) stoodAgainst(e *store.Event, lasted store.Instant) error {
	if e.Kind == store.Expired && s.isAs(e, lasted) {
		return errUnseen
	}
	s.count(func(c *counts) { c.conflicts++ })
	return fmt.Errorf("%s: %w", e.Instance(), store.ErrConflict)
}

// transaction returns what makes an event durable, and on what condition.
func (s *Store) transaction(e *store.Event, n uint64) ([]clientv3.Cmp, []clientv3.Op, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.cut:
		return nil, nil, s.outOfReachLocked(store.ErrCutOff)
	default:
	}
	if s.ticks.begun && !s.isGoing() {
		return nil, nil, s.outOfReachLocked(store.ErrCutOff)
	}
	at := placeOf(e)
	key, there := s.keys.instance(at), s.known.instances[at]
	c := change{stamp: s.stampLocked(), server: s.id, n: n, kind: e.Kind, checked: e.Checked, at: at}
	if e.After != nil {
		c.end = s.replica.EndAfter(e)
	}
	condition := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	switch {
	case (e.Before == nil) != (there == nil), there != nil && there.revision != e.Before.Revision:
		return nil, nil, fmt.Errorf("%s: %w", e.Instance(), store.ErrConflict)
	case there != nil:
		condition = clientv3.Compare(clientv3.ModRevision(key), "=", there.modified)
		if !e.Shortens() {
			c.end = max(c.end, there.end) // for those who will read only the key
		}
	}
	conditions := []clientv3.Cmp{condition}
	if e.Shortens() {
		// And no server may have joined that has not been heard of here: it may hand
		// out longer TTLs than the others, for which the end has to leave time.
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(s.keys.servers), "<", s.seen+1).WithPrefix())
	}
	if e.Kind == store.Expired {
		// And nobody may have written a renewal that has not been seen here: each
		// comes with a tick. What this server has written itself it knows.
		own, end := s.keys.server(s.id), clientv3.GetPrefixRangeEnd(s.keys.servers)
		conditions = append(conditions,
			clientv3.Compare(clientv3.ModRevision(s.keys.servers), "<", s.seen+1).WithRange(own),
			clientv3.Compare(clientv3.ModRevision(own+"\x00"), "<", s.seen+1).WithRange(end))
	}
	op := clientv3.OpDelete(key)
	if e.After != nil {
		op = clientv3.OpPut(key, s.keys.appendStored(stored{c.end, e.After}))
	}
	return conditions, []clientv3.Op{op, clientv3.OpPut(s.keys.changed, s.keys.appendChange(c))}, nil
}

// stampLocked returns the present moment, and what was seen before it.
func (s *Store) stampLocked() stamp {
	by := stamp{seen: s.seen, age: s.replica.Age()} // in this order: see endOf
	by.at = s.replica.Now()
	return by
}

// refusal is what etcd says no to, and goes on to until somebody does something.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// translate makes of an error of etcd's one that says what to do. Which errors
// pass by themselves is not told apart: they are tried again.
func (s *Store) translate(err error) error {
	var r refusal
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		r.text = fmt.Sprintf("etcd at %s is full: compact and defragment it, then disarm its alarm (etcdctl alarm disarm)", s.where)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		r.text = fmt.Sprintf("etcd at %s does not let %s read and write under %s: grant it (etcdctl role grant-permission, user grant-role)", s.where, s.user(), s.keys.all)
	default:
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrNotDurable, &r)
}

// user is who this server is to etcd, for people.
func (s *Store) user() string {
	if s.cfg.User == "" {
		return "the user that the certificate names (--etcd-cert)"
	}
	return fmt.Sprintf("user %q", s.cfg.User)
}

// errUnseen: there was a tick that had not been seen, but nothing came with it
// that is about this instance.
var errUnseen = errors.New("something had not been seen")

// lasted returns until when the lease of an instance lasts as far as is known.
func (s *Store) lasted(at place) store.Instant {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.known.instances[at]; i != nil {
		return i.end
	}
	return 0
}

// isAs reports whether nothing has been heard of the instance that e ends.
func (s *Store) isAs(e *store.Event, lasted store.Instant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.known.instances[placeOf(e)]
	return i != nil && i.revision == e.Before.Revision && i.end == lasted
}

// settled returns when what is known is also what the registry has.
func (s *Store) settled(ctx context.Context) {
	s.mu.Lock()
	later, applying := s.advanced, s.applying
	s.mu.Unlock()
	if !applying {
		return
	}
	select {
	case <-later:
	case <-ctx.Done():
	}
}

// hasSeen reports whether all up to a revision of etcd has been applied.
func (s *Store) hasSeen(revision int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen >= revision && !s.applying
}

// revisionOf returns what the registry calls a revision of etcd.
func (s *Store) revisionOf(revision int64) store.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base + store.Revision(revision)
}
