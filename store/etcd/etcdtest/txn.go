package etcdtest

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What a member allows unless it is told otherwise, and what a client sends at
// most.
const (
	maxOps      = 128
	maxRequest  = 1536 << 10
	maxSendable = 2 << 20
)

// checkSize is for requests that change something; others have no limit that
// is met here.
func checkSize(r proto.Message) error {
	switch n := proto.Size(r); {
	case n > maxSendable:
		return status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", n, maxSendable)
	case n > maxRequest:
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// checkPut is about one put. There are no leases here to name.
func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.Lease != 0:
		return rpctypes.ErrGRPCLeaseNotFound
	case r.IgnoreLease || r.IgnoreValue:
		return status.Error(codes.Unimplemented, "etcdtest: puts that ignore the value or the lease are not known here")
	}
	return nil
}

// checkTxn looks at what does not depend on the keys that there are.
func checkTxn(r *pb.TxnRequest) error {
	if max(len(r.Compare), len(r.Success), len(r.Failure)) > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := checkOp(op); err != nil {
				return err
			}
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if err := checkOnce(ops); err != nil {
			return err
		}
	}
	return checkSize(r)
}

func checkOp(op *pb.RequestOp) error {
	switch {
	case op.GetRequestPut() != nil:
		return checkPut(op.GetRequestPut())
	case op.GetRequestTxn() != nil:
		return status.Error(codes.Unimplemented, "etcdtest: a transaction in a transaction is not known here")
	case op.GetRequestRange() != nil && len(op.GetRequestRange().Key) == 0,
		op.GetRequestDeleteRange() != nil && len(op.GetRequestDeleteRange().Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkOnce refuses a list that puts a key twice, or puts and deletes it.
func checkOnce(ops []*pb.RequestOp) error {
	seen := map[string]bool{}
	for _, op := range ops {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		key := string(put.Key)
		if seen[key] || slices.ContainsFunc(ops, func(o *pb.RequestOp) bool {
			d := o.GetRequestDeleteRange()
			return d != nil && spanOf(d.Key, d.RangeEnd).has(key)
		}) {
			return rpctypes.ErrGRPCDuplicateKey
		}
		seen[key] = true
	}
	return nil
}

// txn does a transaction that [checkTxn] let pass, and returns what it has
// changed; nil: nothing.
func (k *keys) txn(r *pb.TxnRequest) (*pb.TxnResponse, *change, error) {
	holds := !slices.ContainsFunc(r.Compare, func(c *pb.Compare) bool { return !k.compare(c) })
	ops := r.Success
	if !holds {
		ops = r.Failure
	}
	for _, op := range ops {
		if err := k.readable(op.GetRequestRange().GetRevision()); err != nil {
			return nil, nil, err
		}
	}
	resp := &pb.TxnResponse{Succeeded: holds}
	c := k.write(func() {
		for _, op := range ops {
			resp.Responses = append(resp.Responses, k.do(op))
		}
	})
	resp.Header = header(k.revision)
	return resp, c, nil
}

// do does one operation of a transaction.
func (k *keys) do(op *pb.RequestOp) *pb.ResponseOp {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: k.read(r.RequestRange)}}
	case *pb.RequestOp_RequestPut:
		before := k.put(string(r.RequestPut.Key), r.RequestPut.Value)
		resp := &pb.PutResponse{Header: header(k.now())}
		if r.RequestPut.PrevKv {
			resp.PrevKv = copied(before)
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: resp}}
	case *pb.RequestOp_RequestDeleteRange:
		gone := k.remove(spanOf(r.RequestDeleteRange.Key, r.RequestDeleteRange.RangeEnd))
		resp := &pb.DeleteRangeResponse{Header: header(k.now()), Deleted: int64(len(gone))}
		if r.RequestDeleteRange.PrevKv {
			for _, v := range gone {
				resp.PrevKvs = append(resp.PrevKvs, copied(v))
			}
		}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: resp}}
	}
	panic("etcdtest: internal error: an operation that was not checked")
}

// compare says whether a condition holds: for each key of its range. Where
// there is none, it is as if there was one with all numbers 0; but nothing
// holds for a value that is not there.
func (k *keys) compare(c *pb.Compare) bool {
	all := k.in(spanOf(c.Key, c.RangeEnd), k.revision)
	if len(all) == 0 {
		return c.Target != pb.Compare_VALUE && compareOne(c, &mvccpb.KeyValue{})
	}
	return !slices.ContainsFunc(all, func(v *mvccpb.KeyValue) bool { return !compareOne(c, v) })
}

func compareOne(c *pb.Compare, v *mvccpb.KeyValue) bool {
	var is int
	switch c.Target {
	case pb.Compare_VALUE:
		is = bytes.Compare(v.Value, c.GetValue())
	case pb.Compare_CREATE:
		is = cmp.Compare(v.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		is = cmp.Compare(v.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		is = cmp.Compare(v.Version, c.GetVersion())
	case pb.Compare_LEASE:
		is = cmp.Compare(v.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return is == 0
	case pb.Compare_NOT_EQUAL:
		return is != 0
	case pb.Compare_GREATER:
		return is > 0
	}
	return is < 0
}

// order sorts what a read found, which is in the order of its keys.
func order(all []*mvccpb.KeyValue, by pb.RangeRequest_SortTarget, o pb.RangeRequest_SortOrder) {
	if by == pb.RangeRequest_KEY && o != pb.RangeRequest_DESCEND {
		return
	}
	slices.SortStableFunc(all, func(a, b *mvccpb.KeyValue) int {
		if o == pb.RangeRequest_DESCEND {
			a, b = b, a
		}
		switch by {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	})
}
