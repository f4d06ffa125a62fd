package etcdtest

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rosterdns/roster/store/etcd"
)

// patience is how long, in true time, a request to the real etcd may take.
const patience = 30 * time.Second

// Hub lets the goroutines of a synctest bubble talk to a real etcd, by
// [Bridge]s. It is made outside of the bubble, and serves one at a time. While
// a request is under way the bubble's time stands.
//
// A watch in the bubble must not wait for the outside, or time would never go
// on. So its goroutine sleeps in the bubble until a bridge of the hub has seen a
// new revision, in the reply to a request, and only then waits for the real
// watch to come that far. What others write is seen at the next such moment.
type Hub struct {
	client *clientv3.Client
	kv     pb.KVClient
	work   chan func()
	fresh  chan chan any // channels made outside, for replies

	mu     sync.Mutex
	seen   int64 // the latest revision that a reply has shown
	relays map[*relay]bool
}

// NewHub returns a hub for a client that stays its caller's. It is to be
// called, and closed, outside of the bubble.
func NewHub(c *clientv3.Client) *Hub {
	h := &Hub{
		client: c, kv: clientv3.RetryKVClient(c), relays: map[*relay]bool{},
		work: make(chan func()), fresh: make(chan chan any),
	}
	go func() {
		reply := make(chan any, 1)
		for {
			select {
			case f, ok := <-h.work:
				if !ok {
					return
				}
				go f()
			case h.fresh <- reply:
				reply = make(chan any, 1)
			}
		}
	}()
	return h
}

// Close ends the hub, after its bridges.
func (h *Hub) Close() { close(h.work) }

// outside runs a function outside of the bubble and returns what it returns.
// Where the context, one of the bubble, ends before, the function's context
// ends, too, and its result is left alone.
func outside[R any](ctx context.Context, h *Hub, do func(context.Context) R) (R, error) {
	var none R
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	reply, cancels := <-h.fresh, <-h.fresh
	h.work <- func() {
		far, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), md))
		defer cancel()
		cancels <- cancel
		reply <- do(far)
	}
	cancel, _ := (<-cancels).(context.CancelFunc)
	select {
	case r := <-reply:
		got, _ := r.(R)
		return got, nil
	case <-ctx.Done():
		h.work <- func() { cancel() }
		return none, ctx.Err()
	}
}

// saw notes the revision of a reply and wakes the relays.
func (h *Hub) saw(header *pb.ResponseHeader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = max(h.seen, header.GetRevision())
	for r := range h.relays {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Bridge is a client for use inside of a bubble. Contexts that it is given are
// to be the bubble's.
type Bridge struct {
	clientv3.KV
	hub     *Hub
	closed  chan struct{}
	close   sync.Once
	serving sync.WaitGroup
}

var _ etcd.Client = (*Bridge)(nil)

// Client returns a new bridge. It is to be called in the bubble.
func (h *Hub) Client() *Bridge {
	b := &Bridge{hub: h, closed: make(chan struct{})}
	b.KV = clientv3.NewKVFromKVClient(bridged{h}, h.client)
	return b
}

// Close ends the bridge's watches.
func (b *Bridge) Close() error {
	b.close.Do(func() { close(b.closed) })
	b.serving.Wait()
	return nil
}

// RequestProgress is not known here.
func (b *Bridge) RequestProgress(context.Context) error {
	return errors.New("etcdtest: watches do not report their progress here")
}

// bridged sends requests as they are.
type bridged struct{ hub *Hub }

var _ pb.KVClient = bridged{}

// replied is what a request came to.
type replied[R any] struct {
	resp R
	err  error
}

func forward[Q any, R interface{ GetHeader() *pb.ResponseHeader }](ctx context.Context, b bridged, q Q, opts []grpc.CallOption, do func(context.Context, Q, ...grpc.CallOption) (R, error)) (R, error) {
	r, err := outside(ctx, b.hub, func(ctx context.Context) replied[R] {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		resp, err := do(ctx, q, opts...)
		return replied[R]{resp, err}
	})
	if err != nil {
		return r.resp, status.FromContextError(err).Err()
	}
	if r.err == nil {
		b.hub.saw(r.resp.GetHeader())
	}
	return r.resp, r.err
}

func (b bridged) Range(ctx context.Context, r *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	return forward(ctx, b, r, opts, b.hub.kv.Range)
}

func (b bridged) Put(ctx context.Context, r *pb.PutRequest, opts ...grpc.CallOption) (*pb.PutResponse, error) {
	return forward(ctx, b, r, opts, b.hub.kv.Put)
}

func (b bridged) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest, opts ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	return forward(ctx, b, r, opts, b.hub.kv.DeleteRange)
}

func (b bridged) Txn(ctx context.Context, r *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	return forward(ctx, b, r, opts, b.hub.kv.Txn)
}

func (b bridged) Compact(ctx context.Context, r *pb.CompactionRequest, opts ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return forward(ctx, b, r, opts, b.hub.kv.Compact)
}

func (bridged) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[pb.RangeStreamResponse], error) {
	return nil, status.Error(codes.Unimplemented, "etcdtest: streams of keys are not known here")
}
