package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/rosterdns/roster/store"
)

var (
	// errMissed is why all is to be read again.
	errMissed = errors.New("changes have been missed")
	// errStuck is a watch that brings nothing although there is something.
	errStuck = errors.New("the watch brings nothing")
)

// watch takes in what is written, until ctx is done.
func (s *Store) watch(ctx context.Context) {
	select {
	case <-s.replica.Opened(): // before, a renewal would find nobody
	case <-ctx.Done():
		return
	}
	for n := 0; ; n++ {
		err := s.watchOnce(ctx, n)
		if errors.Is(err, errMissed) || errors.Is(err, errDamaged) {
			err = s.reread(ctx, err)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.note(err)
			if !pause(ctx, tickTime/5) {
				return
			}
		}
	}
}

// reread reads all again, which it tries until ctx is done, and tells why.
func (s *Store) reread(ctx context.Context, why error) error {
	for err := why; ; {
		s.note(err)
		var by store.Difference
		by, err = s.resync(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			s.cfg.Reread(why, by)
			return nil
		}
		_ = pause(ctx, tickTime) // where it ends early, so does the next try
	}
}

// pause returns after d, with false where ctx is done before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// watchOnce watches until something goes wrong. Each time it has a stream of its
// own: one that hangs must not be used again.
func (s *Store) watchOnce(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "roster-watch", strconv.Itoa(n))
	s.mu.Lock()
	from := s.seen + 1
	s.mu.Unlock()
	begin := s.replica.Age()
	responses := s.client.Watch(ctx, s.keys.all, clientv3.WithPrefix(), clientv3.WithRev(from))
	look := time.NewTicker(tickTime)
	defer look.Stop()
	for {
		select {
		case resp, open := <-responses:
			switch {
			case resp.CompactRevision != 0:
				return fmt.Errorf("%w: etcd has dropped them", errMissed)
			case resp.Err() != nil:
				return fmt.Errorf("watch: %w", resp.Err())
			case !open:
				return errors.New("watch: it has ended")
			}
			if err := s.takeIn(ctx, resp.Events); err != nil {
				return err
			}
		case <-look.C:
			if s.isSetBack() {
				return fmt.Errorf("%w: etcd was set back, or is another one", errMissed)
			}
			if s.stuck(begin) {
				return errStuck
			}
		}
	}
}

// stuck reports whether ticks of ours are in etcd and have not come back for a
// while, in which the watch has been open.
func (s *Store) stuck(since time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered > s.returned && s.replica.Age()-max(s.returned, since) > txnTime
}

// lookBack notices that etcd was set back to an earlier state, as from a backup: a
// watch would wait there until the old revisions have come again, with other
// things in them. What has been written has a later revision than what was seen
// before. The caller holds mu.
func (s *Store) lookBack(h *etcdserverpb.ResponseHeader, seen int64) {
	if h.Revision <= seen || s.cluster != 0 && h.ClusterId != s.cluster {
		s.setBack = true
	}
	s.cluster = h.ClusterId
}

func (s *Store) isSetBack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setBack
}

// takeIn takes in what a watch has brought: etcd never splits a revision.
func (s *Store) takeIn(ctx context.Context, events []*clientv3.Event) error {
	t := taker{Store: s, ctx: ctx}
	for _, e := range events {
		if err := t.take(e); err != nil {
			return err
		}
	}
	if err := t.whole(nil); err != nil {
		return err
	}
	t.apply()
	if len(events) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = events[len(events)-1].Kv.ModRevision
	close(s.advanced)
	s.advanced = make(chan struct{})
	for _, tick := range t.back { // after seen, which those who wait for it look at
		s.confirm(tick, len(s.servers) > 0)
	}
	return nil
}

// later returns a channel that is closed when more has been seen.
func (s *Store) later() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.advanced
}

// taker is what is being taken in.
type taker struct {
	*Store
	ctx      context.Context //nolint:containedctx // it lives for one call
	instance *clientv3.Event // of the revision that is being taken in
	changes  []store.Event   // not applied yet
	own      map[store.Revision]uint64
	back     []sentTick
}

// whole returns an error where the instance's key that was taken in last was
// written alone, as by etcdctl: next, nil for none, is not the change that each
// server writes with it. Readers have seen the revision that is there now, so it
// has to move. What is no instance, before and after, is passed over.
func (t *taker) whole(next *clientv3.Event) error {
	i := t.instance
	if i == nil || next != nil && next.Kv.ModRevision == i.Kv.ModRevision && string(next.Kv.Key) == t.keys.changed {
		return nil
	}
	t.instance = nil
	key := string(i.Kv.Key)
	at, _ := t.keys.parseInstance(key)
	_, err := t.keys.parseStored(key, i.Kv.Value)
	t.mu.Lock()
	alone := t.known.instances[at] != nil || i.Type == clientv3.EventTypePut && err == nil
	t.setBack = t.setBack || alone
	t.mu.Unlock()
	if !alone {
		return nil
	}
	t.apply()
	return fmt.Errorf("%w: %s was written alone", errMissed, key)
}

// take takes one event in. Changes are put off, to be applied together.
func (t *taker) take(e *clientv3.Event) error {
	if err := t.whole(e); err != nil {
		return err
	}
	key := string(e.Kv.Key)
	switch {
	case strings.HasPrefix(key, t.keys.instances):
		t.instance = e
		return nil
	case key == t.keys.changed && e.Type == clientv3.EventTypePut:
		return t.change(e)
	case key == t.keys.changed, key == t.keys.base, key == t.keys.floor():
		return fmt.Errorf("%w: %s was written", errMissed, key)
	}
	t.apply() // what comes now is about what is there
	switch {
	case strings.HasPrefix(key, t.keys.renewals):
		return t.batch(key, e)
	case strings.HasPrefix(key, t.keys.servers):
		return t.tick(key, e)
	}
	return nil
}

// change takes in a change: the event of the instance's key came before it.
func (t *taker) change(e *clientv3.Event) error {
	c, err := t.keys.parseChange(e.Kv.Value)
	if err != nil {
		return err
	}
	i := t.instance
	t.instance = nil
	if i == nil || i.Kv.ModRevision != e.Kv.ModRevision || string(i.Kv.Key) != t.keys.instance(c.at) {
		return fmt.Errorf("%w: of a change of %s/%s, only a part is there", errMissed, c.at.service, c.at.label)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	event := store.Event{Revision: t.base + store.Revision(e.Kv.ModRevision), Kind: c.kind, Checked: c.checked, Elsewhere: c.server != t.id, End: c.end}
	if event.Elsewhere {
		event.End = t.here(c.server, c.stamp, c.at, c.end)
	}
	if i.Type == clientv3.EventTypePut {
		in, err := t.keys.parseStored(string(i.Kv.Key), i.Kv.Value)
		if err != nil {
			return err
		}
		event.After = in.Instance
		event.After.Revision = event.Revision
		t.known.put(c.at, i.Kv.CreateRevision, i.Kv.ModRevision, event.Revision, c.end, lengthOf(in.Instance))
	} else {
		event.Before = &store.Instance{Service: c.at.service, Label: c.at.label} // apply knows the rest
		t.known.remove(c.at)
	}
	t.applying = true
	t.changes = append(t.changes, event)
	if !event.Elsewhere {
		if t.own == nil {
			t.own = map[store.Revision]uint64{}
		}
		t.own[event.Revision] = c.n
	}
	return nil
}

// apply makes the changes visible that were put off, and tells those who wait.
func (t *taker) apply() {
	if len(t.changes) == 0 {
		return
	}
	t.replica.Apply(t.ctx, t.changes)
	t.changes = nil
	t.mu.Lock()
	defer t.mu.Unlock()
	t.applying = false
	for revision, n := range t.own {
		if seen := t.waiting[n]; seen != nil {
			seen <- revision // it has room
			delete(t.waiting, n)
		}
	}
	t.own = nil
}

// batch takes in a batch of renewals.
func (t *taker) batch(key string, e *clientv3.Event) error {
	server := t.keys.writerOf(key)
	if e.Type != clientv3.EventTypePut {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.known.drop(key)
		return nil
	}
	s, leases, err := parseBatch(key, e.Kv.Value)
	if err != nil {
		return err
	}
	t.replica.Extend(t.renewals(key, server, s, leases))
	return nil
}

// renewals notes what a batch says, and returns what is new in it.
func (t *taker) renewals(key, server string, s stamp, leases []renewed) (news []store.Renewal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.known.add(key, server)
	for _, l := range leases {
		i := t.known.created[l.created]
		if i == nil {
			continue // it is gone
		}
		end := i.until(s.at, l.end)
		t.known.renew(i, end, b)
		if server != t.id && i.length > 0 {
			news = append(news, store.Renewal{Service: i.service, Label: i.label, End: t.here(server, s, i.place, end)})
		}
	}
	return news
}

// tick takes in a server's tick.
func (t *taker) tick(key string, e *clientv3.Event) error {
	id := strings.TrimPrefix(key, t.keys.servers)
	if e.Type != clientv3.EventTypePut {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.servers, id)
		t.others.Store(int64(len(t.servers)))
		t.ticks.forget(id)
		return nil
	}
	tick, err := parseTick(key, e.Kv.Value)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if id != t.id {
		t.hearFrom(id, tick)
		t.follow(id, tick)
		t.ticks.hear(id, sentTick{tick.n, tick.age, e.Kv.ModRevision})
		return nil
	}
	if sent, ok := t.ticks.back(tick.n, e.Kv.ModRevision); ok {
		t.back = append(t.back, sent)
	}
	return nil
}
