// Package etcdtest is what tests of store/etcd stand on: an etcd in memory,
// with faults ([Cluster]), a way from a synctest bubble to a real one ([Hub]),
// and the tests that hold the first to the second ([Conform], [Compare]).
package etcdtest

import (
	"context"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rosterdns/roster/store/etcd"
)

// Cluster is an etcd in memory, as far as roster uses it: keys, transactions,
// watches and compaction, but no leases, no transactions in transactions and
// no users. Made in a synctest bubble it belongs to it; what waits in it lets
// the bubble's time go on. Where nothing is delayed it takes no time at all.
type Cluster struct {
	mu      sync.Mutex // guards all of the cluster and of its clients
	keys    keys
	watches map[*watch]bool
	changed chan struct{} // closed, and made anew, when something has changed
	counts  Counts
}

// Counts is what a cluster has been asked to do.
type Counts struct {
	Reads   int // requests that could change nothing
	Writes  int // requests that could: transactions, and single puts and deletions
	Changes int // writes that changed something: revisions
	Puts    int // of keys, in writes that did them
	Deletes int // of keys
	Bytes   int // of keys and values that were put
}

// NewCluster returns an empty cluster, at revision 1 as a new etcd is.
func NewCluster() *Cluster {
	return &Cluster{keys: keys{revision: 1, compacted: -1}, watches: map[*watch]bool{}, changed: make(chan struct{})}
}

// Counts returns what was done until now.
func (c *Cluster) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Revision returns the revision of the last change.
func (c *Cluster) Revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys.revision
}

// changedLocked wakes all that wait for something.
func (c *Cluster) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Client is one server's way to a [Cluster].
type Client struct {
	clientv3.KV
	cluster *Cluster
	serving sync.WaitGroup // watches
	trouble
}

var _ etcd.Client = (*Client)(nil)

// Client returns a new client.
func (c *Cluster) Client() *Client {
	client := &Client{cluster: c, trouble: trouble{closed: make(chan struct{})}}
	client.KV = clientv3.NewKVFromKVClient(server{client}, nil)
	return client
}

// Close ends the client's watches and all its requests.
func (c *Client) Close() error {
	c.cluster.mu.Lock()
	if !c.isClosed() {
		close(c.closed)
	}
	c.cluster.mu.Unlock()
	c.serving.Wait()
	return nil
}

func (c *Client) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// server is what a client's requests meet. All that makes requests of calls is
// etcd's own.
type server struct{ client *Client }

var _ pb.KVClient = server{}

func (s server) Range(ctx context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	return request(ctx, s.client, nil, func(c *Cluster) (*pb.RangeResponse, error) {
		c.counts.Reads++
		if err := c.keys.readable(r.Revision); err != nil {
			return nil, err
		}
		return c.keys.read(r), nil
	})
}

func (s server) Put(ctx context.Context, r *pb.PutRequest, _ ...grpc.CallOption) (*pb.PutResponse, error) {
	t, err := s.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: r}}}})
	if err != nil {
		return nil, err
	}
	return t.Responses[0].GetResponsePut(), nil
}

func (s server) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest, _ ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	t, err := s.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}}})
	if err != nil {
		return nil, err
	}
	return t.Responses[0].GetResponseDeleteRange(), nil
}

func (s server) Txn(ctx context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	if err := checkTxn(r); err != nil {
		return nil, err
	}
	return request(ctx, s.client, written(r), func(c *Cluster) (*pb.TxnResponse, error) {
		resp, change, err := c.keys.txn(r)
		if err == nil {
			c.count(r, resp)
		}
		if change != nil {
			c.publishLocked(change)
		}
		return resp, err
	})
}

func (s server) Compact(ctx context.Context, r *pb.CompactionRequest, _ ...grpc.CallOption) (*pb.CompactionResponse, error) {
	return request(ctx, s.client, nil, func(c *Cluster) (*pb.CompactionResponse, error) {
		if err := c.keys.compact(r.Revision); err != nil {
			return nil, err
		}
		return &pb.CompactionResponse{Header: header(c.keys.revision)}, nil
	})
}

func (server) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[pb.RangeStreamResponse], error) {
	return nil, status.Error(codes.Unimplemented, "etcdtest: streams of keys are not known here")
}

// request takes a request to the cluster, and the reply back. The keys that it
// writes are for [Client.Lose].
func request[R any](ctx context.Context, c *Client, writes []string, do func(*Cluster) (R, error)) (R, error) {
	var none R
	if err := c.travel(ctx); err != nil {
		return none, err
	}
	c.cluster.mu.Lock()
	r, err := do(c.cluster)
	lost := err == nil && c.losesLocked(writes)
	c.cluster.mu.Unlock()
	switch {
	case err != nil:
		return none, err
	case lost:
		return none, errUnavailable
	}
	if err := c.travel(ctx); err != nil {
		return none, err
	}
	return r, nil
}

// written returns the keys that a transaction may write.
func written(r *pb.TxnRequest) []string {
	var all []string
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if p := op.GetRequestPut(); p != nil {
				all = append(all, string(p.Key))
			}
			if d := op.GetRequestDeleteRange(); d != nil {
				all = append(all, string(d.Key))
			}
		}
	}
	return all
}

func (c *Cluster) count(r *pb.TxnRequest, resp *pb.TxnResponse) {
	if len(written(r)) == 0 {
		c.counts.Reads++
		return
	}
	c.counts.Writes++
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
	for i, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			c.counts.Puts++
			c.counts.Bytes += len(p.Key) + len(p.Value)
		}
		c.counts.Deletes += int(resp.Responses[i].GetResponseDeleteRange().GetDeleted())
	}
}

// about says whether one of the keys has a text in it.
func about(keys []string, text string) bool {
	for _, k := range keys {
		if strings.Contains(k, text) {
			return true
		}
	}
	return false
}
