package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rosterdns/roster/store"
)

const (
	// reachTime is how long Start waits for etcd.
	reachTime = 30 * time.Second
	// pageSize is how many keys are read at a time.
	pageSize = 2000
)

// Start implements [store.Backend].
func (s *Store) Start(ctx context.Context, _ func(*store.Instance), _ func([]store.Event)) (store.Revision, error) {
	begin := s.replica.Age()
	st, alone, err := s.enter(ctx)
	err = explain(s.cfg, err)
	if err != nil && !refused(err) {
		s.cfg.Waiting(fmt.Errorf("etcd at %s: %w", s.where, err))
	}
	for err != nil && !refused(err) && s.replica.Age()-begin < reachTime && pause(ctx, tickTime) {
		st, alone, err = s.enter(ctx) // it has no leader yet, or another one just now
		err = explain(s.cfg, err)
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return 0, r // it says where
	}
	if err != nil {
		return 0, fmt.Errorf("etcd at %s: %w", s.where, err)
	}
	s.mu.Lock()
	restored := s.adopt(st)
	s.mu.Unlock()
	for _, i := range restored {
		if !alone && i.End != store.Never {
			i.End = i.End.Add(-lateTime) // by whose clock is not known
		}
		s.replica.Restore(i.Instance, i.End, !alone)
	}
	s.run()
	return st.revision, nil
}

// run starts what runs until Close.
func (s *Store) run() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.write(ctx) })
	s.running.Go(func() { s.watch(ctx) })
	s.running.Go(func() { s.compact(ctx) })
}

// enter makes this server one of those that work on the registry, and returns
// what is stored and whether there are no others.
func (s *Store) enter(ctx context.Context) (st *state, alone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	if err := s.checkPrefix(ctx); err != nil {
		return nil, false, err
	}
	// Revisions start from the unix time at which the first server was started.
	if err := s.setBase(ctx, store.FreshRevision(), 0); err != nil {
		return nil, false, s.translate(err)
	}
	if st, err = s.read(ctx); err != nil {
		return nil, false, err
	}
	s.replica.Set(st.shown)
	if alone, err = s.join(ctx); err != nil {
		return nil, false, err
	}
	if alone {
		// Nobody could send a heartbeat while no server was up.
		if err := s.writeFloor(ctx, st.servers); err != nil {
			return nil, false, err
		}
	}
	st, err = s.read(ctx)
	return st, alone, err
}

// refused reports whether etcd, or what is in the place of it, has refused us:
// to wait does not help.
func refused(err error) bool {
	if errors.Is(err, store.ErrNotDurable) || errors.Is(err, errTLS) {
		return true
	}
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition:
		return true
	}
	return errors.Is(err, errForeign) || errors.Is(err, errDamaged) || errors.Is(err, store.ErrDamagedRecord) || errors.Is(err, store.ErrNewerRecord) ||
		errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// errForeign is a prefix with keys below it where no server has ever been.
var errForeign = errors.New("it was not made by roster, and others may need what is there: choose another prefix (--store etcd://HOST/PREFIX), or delete the keys")

// checkPrefix refuses somebody else's keys where ours would be, before anything is
// written among them: the base is the first key of ours.
func (s *Store) checkPrefix(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, 2*txnTime)
	defer cancel()
	first := func(key string) clientv3.Op {
		return clientv3.OpGet(key, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	}
	resp, err := s.client.Txn(asking).
		If(clientv3.Compare(clientv3.CreateRevision(s.keys.base), "=", 0)).
		Then(first(s.keys.instances), first(s.keys.renewals), first(s.keys.servers), first(s.keys.changed), first(s.keys.floor()), first(s.keys.clock())).
		Commit()
	if err != nil {
		return s.translate(err)
	}
	if !resp.Succeeded {
		return nil
	}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			return fmt.Errorf("etcd key %q: %w", kv.Key, errForeign)
		}
	}
	return nil
}

// setBase sets the base, if it was last written at a revision of etcd; 0: never.
func (s *Store) setBase(ctx context.Context, base store.Revision, written int64) error {
	asking, cancel := context.WithTimeout(ctx, 2*txnTime)
	defer cancel()
	w := newWriter()
	w.number(uint64(base))
	_, err := s.client.Txn(asking).
		If(clientv3.Compare(clientv3.ModRevision(s.keys.base), "=", written)).
		Then(clientv3.OpPut(s.keys.base, w.end(s.keys.base))).
		Commit()
	return err
}

// join makes this server known to the others, and reports whether there are none
// that are up.
func (s *Store) join(ctx context.Context) (alone bool, _ error) {
	s.mu.Lock()
	age, now := s.replica.Age(), s.stampLocked()
	n := s.ticks.send(age)
	tick := s.tick(now, n)
	s.mu.Unlock()
	key := s.keys.server(s.id)
	resp, err := s.client.Put(ctx, key, tick.append(key))
	if err != nil {
		return false, fmt.Errorf("write %s: %w", key, s.translate(err))
	}
	joined := resp.Header.Revision
	s.mu.Lock()
	s.ticks.back(n, joined)
	s.mu.Unlock()
	for {
		others, err := s.readServers(ctx, 0)
		if err != nil {
			return false, err
		}
		for _, p := range others {
			if p.seen >= joined {
				return false, nil
			}
		}
		if len(others) == 0 || s.replica.Age()-age > aloneTime {
			return true, nil
		}
		if !pause(ctx, tickTime/2) {
			return false, ctx.Err()
		}
	}
}

// writeFloor says that all leases are fresh from now on, and that servers are
// gone.
func (s *Store) writeFloor(ctx context.Context, gone map[string]*peer) error {
	s.mu.Lock()
	now := s.stampLocked()
	s.mu.Unlock()
	for id := range gone {
		if _, err := s.client.Delete(ctx, s.keys.server(id)); err != nil {
			return fmt.Errorf("delete %s: %w", s.keys.server(id), s.translate(err))
		}
	}
	if _, err := s.client.Put(ctx, s.keys.floor(), now.mark(s.keys.floor())); err != nil {
		return fmt.Errorf("write %s: %w", s.keys.floor(), s.translate(err))
	}
	return nil
}

// state is what is stored at one revision of etcd.
type state struct {
	at       int64 // etcd's revision
	base     store.Revision
	written  int64 // when the base was
	revision store.Revision
	shown    store.Instant // the last that any lease clock is known to have shown
	floor    store.Instant // from when leases are fresh, of instances made before
	floored  int64         // this revision of etcd
	longest  time.Duration // for which caches hold what was answered
	known    known
	stored   map[place]*store.Instance
	servers  map[string]*peer
}

// read reads all that is stored.
func (s *Store) read(ctx context.Context) (*state, error) {
	st := &state{known: newKnown(), stored: map[place]*store.Instance{}}
	if err := s.readSingle(ctx, st); err != nil {
		return st, err
	}
	var err error
	if st.servers, err = s.readServers(ctx, st.at); err != nil {
		return st, err
	}
	st.longest = s.replica.LongestTTL() + time.Second // it has heard of the servers now
	if err := s.readRange(ctx, s.keys.instances, st.at, st.takeInstance(s.keys)); err != nil {
		return st, err
	}
	if err := s.readRange(ctx, s.keys.renewals, st.at, st.takeBatch(s.keys)); err != nil {
		return st, err
	}
	for _, p := range st.servers {
		st.shown = max(st.shown, p.at)
	}
	return st, nil
}

// readSingle reads the keys that there is one of.
func (s *Store) readSingle(ctx context.Context, st *state) error {
	resp, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(s.keys.base), clientv3.OpGet(s.keys.changed), clientv3.OpGet(s.keys.floor()), clientv3.OpGet(s.keys.clock())).Commit()
	if err != nil {
		return fmt.Errorf("read %s: %w", s.keys.all, s.translate(err))
	}
	st.at = resp.Header.Revision
	if st.at == 0 {
		return errors.New("it does not say its revision")
	}
	for k, take := range []func(*mvccpb.KeyValue) error{st.takeBase, st.takeChanged(s.keys), st.takeFloor, st.takeClock} {
		for _, kv := range resp.Responses[k].GetResponseRange().Kvs {
			if err := take(kv); err != nil {
				return err
			}
		}
	}
	st.revision += st.base
	return nil
}

func (st *state) takeBase(kv *mvccpb.KeyValue) error {
	r := newReader(string(kv.Key), kv.Value)
	st.base, st.written = store.Revision(r.number()), kv.ModRevision
	return r.end(string(kv.Key))
}

func (st *state) takeChanged(k keys) func(*mvccpb.KeyValue) error {
	return func(kv *mvccpb.KeyValue) error {
		c, err := k.parseChange(kv.Value)
		st.revision, st.shown = store.Revision(kv.ModRevision), max(st.shown, c.stamp.at)
		return err
	}
}

func (st *state) takeFloor(kv *mvccpb.KeyValue) error {
	m, err := parseMark(string(kv.Key), kv.Value)
	st.floor, st.floored, st.shown = m.at, kv.ModRevision, max(st.shown, m.at)
	return err
}

func (st *state) takeClock(kv *mvccpb.KeyValue) error {
	m, err := parseMark(string(kv.Key), kv.Value)
	st.shown = max(st.shown, m.at)
	return err
}

func (st *state) takeInstance(k keys) func(*mvccpb.KeyValue) error {
	return func(kv *mvccpb.KeyValue) error {
		key := string(kv.Key)
		in, err := k.parseStored(key, kv.Value)
		if err != nil {
			return err
		}
		at := place{in.Service, in.Label}
		switch {
		case in.Permanent() && !in.Leaving:
			in.end = store.Never
		case kv.ModRevision < st.floored:
			in.end = st.floor.Add(st.freshLength(in.Instance))
		}
		in.Revision = st.base + store.Revision(kv.ModRevision)
		st.known.put(at, kv.CreateRevision, kv.ModRevision, in.Revision, in.end, lengthOf(in.Instance))
		st.stored[at] = in.Instance
		return nil
	}
}

func (st *state) takeBatch(k keys) func(*mvccpb.KeyValue) error {
	return func(kv *mvccpb.KeyValue) error {
		key := string(kv.Key)
		server := k.writerOf(key)
		s, leases, err := parseBatch(key, kv.Value)
		if err != nil {
			return err
		}
		st.shown = max(st.shown, s.at)
		b := st.known.add(key, server)
		if kv.ModRevision < st.floored {
			return nil
		}
		for _, l := range leases {
			if i := st.known.created[l.created]; i != nil {
				st.known.renew(i, i.until(s.at, l.end), b)
			}
		}
		return nil
	}
}

// readRange reads all keys with a prefix as they were at a revision of etcd.
func (s *Store) readRange(ctx context.Context, prefix string, at int64, take func(*mvccpb.KeyValue) error) error {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		resp, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(at), clientv3.WithLimit(pageSize))
		if err != nil {
			return fmt.Errorf("read %s: %w", prefix, s.translate(err))
		}
		for _, kv := range resp.Kvs {
			if err := take(kv); err != nil {
				return err
			}
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// readServers reads who else is there.
func (s *Store) readServers(ctx context.Context, at int64) (map[string]*peer, error) {
	servers := map[string]*peer{}
	return servers, s.readRange(ctx, s.keys.servers, at, func(kv *mvccpb.KeyValue) error {
		id := strings.TrimPrefix(string(kv.Key), s.keys.servers)
		if id == s.id {
			return nil
		}
		t, err := parseTick(string(kv.Key), kv.Value)
		age := s.replica.Age()
		if err != nil {
			return err
		}
		s.replica.HandsOut(t.maxTTL)
		// It may have been killed; if not, the next tick comes soon.
		servers[id] = &peer{tick: t, heard: age, ticked: age + lateTime - aloneTime, since: age, from: t.age}
		return nil
	})
}

// adopt takes what has been read for what is known, and returns the instances
// with the ends of their leases. The caller holds mu.
func (s *Store) adopt(st *state) (restored []store.Restored) {
	s.known, s.base, s.seen, s.servers = st.known, st.base, st.at, st.servers
	s.others.Store(int64(len(s.servers)))
	s.setBack = false
	for at, i := range st.stored {
		restored = append(restored, store.Restored{Instance: i, End: st.known.instances[at].end})
	}
	close(s.advanced)
	s.advanced = make(chan struct{})
	return restored
}

// freshLength returns how long the lease of an instance lasts after a time in
// which no server was up: if it is leaving, until caches have forgotten it.
func (st *state) freshLength(i *store.Instance) time.Duration {
	switch {
	case !i.Leaving:
		return i.TTL
	case i.Permanent():
		return st.longest
	}
	return min(st.longest, i.TTL)
}

// resync reads all again, because changes have been missed, and returns what that
// has made of the registry.
func (s *Store) resync(ctx context.Context) (by store.Difference, _ error) {
	st, err := s.read(ctx)
	if err != nil {
		return by, err
	}
	s.count(func(c *counts) { c.resyncs++ })
	// Where etcd was set back to an earlier state, readers have seen what we have
	// shown, so that revisions must go on from there.
	now := s.replica.Revision()
	for back := s.isSetBack() || st.revision < now; back && st.revision <= now; {
		if err := s.setBase(ctx, st.base+(now-st.revision)+1, st.written); err != nil {
			return by, err
		}
		if st, err = s.read(ctx); err != nil {
			return by, err
		}
	}
	s.mu.Lock()
	s.applying = true
	restored := s.adopt(st)
	s.mu.Unlock()
	for k := range restored {
		if restored[k].End != store.Never {
			restored[k].End = restored[k].End.Add(-lateTime)
		}
	}
	by = s.replica.Reset(ctx, restored, st.revision)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applying, s.why = false, nil
	close(s.advanced)
	s.advanced = make(chan struct{})
	for _, seen := range s.waiting {
		if len(seen) == 0 {
			seen <- 0 // what it waits for may have been among what was read
		}
	}
	return by, nil
}
