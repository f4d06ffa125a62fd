package etcdtest

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxBatch is how many revisions one response has at most, where a watch has
// to catch up.
const maxBatch = 1000

// watch is one watch of a client. The cluster's mutex guards what changes.
type watch struct {
	client      *Client
	out         chan clientv3.WatchResponse
	wanted      wanted
	needsLeader bool

	next  int64 // the revision to go on from, after trouble
	queue []due // what is to be brought
	ended bool  // the last response is in the queue
	force bool  // it is to be brought even where watches are held
}

// due is a response that is to be brought at a moment.
type due struct {
	response clientv3.WatchResponse
	at       time.Time
}

// wanted is what a watch has asked for.
type wanted struct {
	span                            span
	noPuts, noDeletes, before, told bool // told: when it has been created
	from                            int64
}

func wantedOf(op clientv3.Op) wanted {
	key := op.KeyBytes()
	if len(key) == 0 {
		key = []byte{0}
	}
	return wanted{
		span: spanOf(key, op.RangeBytes()), from: op.Rev(), before: op.IsPrevKV(), told: op.IsCreatedNotify(),
		noPuts: op.IsFilterPut(), noDeletes: op.IsFilterDelete(),
	}
}

func (w wanted) has(e *clientv3.Event) bool {
	unwanted := w.noPuts
	if e.Type == mvccpb.Event_DELETE {
		unwanted = w.noDeletes
	}
	return !unwanted && w.span.has(string(e.Kv.Key))
}

// Watch returns once the watch is there, and waits for that where the client
// is cut off.
func (c *Client) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	w := &watch{client: c, out: make(chan clientv3.WatchResponse, 1), needsLeader: needsLeader(ctx), wanted: wantedOf(clientv3.OpWatch(key, opts...))}
	if err := c.pass(ctx, false); err != nil {
		if errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			w.out <- canceled(rpctypes.ErrNoLeader.Error())
		}
		close(w.out)
		return w.out
	}
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	now := c.cluster.keys.revision
	w.next = w.wanted.from
	if w.next <= 0 {
		w.next = now + 1
	}
	if w.wanted.told {
		w.pushLocked(clientv3.WatchResponse{Header: header(now), Created: true})
	}
	w.catchUpLocked()
	c.cluster.watches[w] = true
	c.serving.Go(func() { w.serve(ctx) })
	return w.out
}

// RequestProgress is not known here.
func (c *Client) RequestProgress(context.Context) error {
	return errors.New("etcdtest: watches do not report their progress here")
}

// publishLocked gives a change to all watches that can see it.
func (c *Cluster) publishLocked(what *change) {
	c.counts.Changes++
	for w := range c.watches {
		if !w.client.heldLocked() {
			w.bringLocked([]*change{what}, what.revision)
		}
	}
	c.changedLocked()
}

// catchUpLocked brings what has happened from the revision on that the watch
// is to go on from.
func (w *watch) catchUpLocked() {
	k := &w.client.cluster.keys
	if w.next < k.compacted {
		if !w.ended {
			w.pushLocked(clientv3.WatchResponse{Header: header(0), Canceled: true, CompactRevision: k.compacted})
			w.ended = true
		}
		return
	}
	missed := k.since(w.next)
	for len(missed) > 0 {
		n := min(maxBatch, len(missed))
		w.bringLocked(missed[:n], k.revision)
		missed = missed[n:]
	}
}

// bringLocked puts the events that are wanted into one response.
func (w *watch) bringLocked(changes []*change, now int64) {
	var events []*clientv3.Event
	for _, c := range changes {
		for _, e := range c.events {
			if c.revision < w.next || !w.wanted.has(e) {
				continue
			}
			event := &clientv3.Event{Type: e.Type, Kv: copied(e.Kv)}
			if w.wanted.before && c.revision > w.client.cluster.keys.compacted {
				event.PrevKv = copied(e.PrevKv)
			}
			events = append(events, event)
		}
	}
	if len(events) > 0 && !w.ended {
		w.next = changes[len(changes)-1].revision + 1
		w.pushLocked(clientv3.WatchResponse{Header: header(now), Events: events})
	}
}

func (w *watch) pushLocked(r clientv3.WatchResponse) {
	w.queue = append(w.queue, due{r, time.Now().Add(w.client.delay / 2)})
}

// endLocked ends the watch, whatever it still had to bring.
func (w *watch) endLocked(reason string) {
	if !w.ended {
		w.queue = []due{{canceled(reason), time.Now()}}
		w.ended, w.force = true, true
	}
}

// canceled is the last response of a watch. Its Err is the error of etcd's that
// has this text, if there is one.
func canceled(reason string) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: header(0), Canceled: true, CancelReason: reason}
}

// serve brings the responses, until the watch ends.
func (w *watch) serve(ctx context.Context) {
	c := w.client.cluster
	defer func() {
		c.mu.Lock()
		delete(c.watches, w)
		c.mu.Unlock()
		close(w.out)
	}()
	for {
		var out chan clientv3.WatchResponse
		var late <-chan time.Time
		var next due
		c.mu.Lock()
		changed := c.changed
		if len(w.queue) > 0 && (w.force || !w.client.heldLocked()) {
			next = w.queue[0]
			if wait := time.Until(next.at); wait > 0 {
				late = time.After(wait)
			} else {
				out = w.out
			}
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-w.client.closed:
			return
		case <-changed:
		case <-late:
		case out <- next.response:
			if w.sent(); next.response.Canceled {
				return
			}
		}
	}
}

// sent takes the first response off the queue. Where the watch has been ended
// meanwhile that is the end, which is still to be sent.
func (w *watch) sent() {
	w.client.cluster.mu.Lock()
	defer w.client.cluster.mu.Unlock()
	if !w.force {
		w.queue = w.queue[1:]
	}
}
