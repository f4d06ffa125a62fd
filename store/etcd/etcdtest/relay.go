package etcdtest

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// relay brings a real watch into the bubble. The real one is of all keys, so
// that it shows every revision, whatever is wanted of it.
type relay struct {
	bridge *Bridge
	real   opened
	out    chan clientv3.WatchResponse
	wake   chan struct{} // there may be a new revision
	wanted wanted
	next   int64 // the revision that the real watch brings next
}

// opened is a watch outside of the bubble.
type opened struct {
	responses clientv3.WatchChan
	cancel    context.CancelFunc
	created   clientv3.WatchResponse
	ok        bool
}

// Watch returns once the real watch is there.
func (b *Bridge) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpWatch(key, opts...)
	r := &relay{bridge: b, out: make(chan clientv3.WatchResponse, 1), wake: make(chan struct{}, 1), wanted: wantedOf(op)}
	md, _ := metadata.FromOutgoingContext(ctx)
	all := []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithRev(op.Rev()), clientv3.WithCreatedNotify()}
	if op.IsPrevKV() {
		all = append(all, clientv3.WithPrevKV())
	}
	var err error
	r.real, err = outside(ctx, b.hub, func(until context.Context) opened {
		// The watch outlives the call, whose context is for the time of it.
		far, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), md))
		stop := context.AfterFunc(until, cancel)
		o := opened{cancel: cancel, responses: b.hub.client.Watch(far, "", all...)}
		o.created, o.ok = <-o.responses
		stop()
		return o
	})
	if err != nil || !r.real.ok {
		close(r.out)
		return r.out
	}
	if created := r.real.created; !created.Created {
		b.hub.work <- func() { r.real.cancel() }
		r.out <- created
		close(r.out)
		return r.out
	} else if r.wanted.told {
		r.out <- created
	}
	r.begin()
	b.serving.Go(func() { r.serve(ctx) })
	return r.out
}

func (r *relay) begin() {
	h := r.bridge.hub
	now := r.real.created.Header.GetRevision()
	r.next = r.wanted.from
	if r.next <= 0 {
		r.next = now + 1
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = max(h.seen, now)
	h.relays[r] = true
}

// behind says whether the real watch has something to bring.
func (r *relay) behind() bool {
	r.bridge.hub.mu.Lock()
	defer r.bridge.hub.mu.Unlock()
	return r.next <= r.bridge.hub.seen
}

func (r *relay) serve(ctx context.Context) {
	h := r.bridge.hub
	defer func() {
		h.mu.Lock()
		delete(h.relays, r)
		h.mu.Unlock()
		h.work <- func() { r.real.cancel() }
		close(r.out)
	}()
	for {
		if !r.behind() {
			select { // all of the bubble: time goes on
			case <-r.wake:
			case <-ctx.Done():
				return
			case <-r.bridge.closed:
				return
			}
			continue
		}
		select { // time stands
		case resp, ok := <-r.real.responses:
			if !ok || !r.bring(ctx, resp) || resp.Canceled {
				return
			}
		case <-ctx.Done():
			return
		case <-r.bridge.closed:
			return
		}
	}
}

// bring hands on what is wanted of a response.
func (r *relay) bring(ctx context.Context, resp clientv3.WatchResponse) bool {
	var events []*clientv3.Event
	for _, e := range resp.Events {
		r.next = max(r.next, e.Kv.ModRevision+1)
		if r.wanted.has(e) {
			events = append(events, e)
		}
	}
	if len(events) == 0 && !resp.Canceled {
		return true
	}
	resp.Events = events
	select {
	case r.out <- resp:
		return true
	case <-ctx.Done():
	case <-r.bridge.closed:
	}
	return false
}
