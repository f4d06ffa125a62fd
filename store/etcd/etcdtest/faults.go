package etcdtest

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Fault is what a client meets that is cut off.
type Fault int

// In each case watches bring nothing until the client is healed, and new ones
// wait for that.
const (
	// Hangs: requests wait until they are healed or their context ends, as
	// where packets are dropped.
	Hangs Fault = iota + 1

	// Refuses: requests fail at once with Unavailable, as where the members
	// are down.
	Refuses

	// NoLeader: as Hangs; but requests and watches whose context requires a
	// leader fail at once and end with rpctypes.ErrNoLeader.
	NoLeader
)

var (
	errUnavailable = status.Error(codes.Unavailable, "etcdtest: the connection was lost")
	errClosed      = status.Error(codes.Canceled, "etcdtest: the client is closed")
)

// trouble is what a client meets. The cluster's mutex guards it.
type trouble struct {
	fault  Fault // 0: none
	paused bool
	delay  time.Duration
	losing []string // see Lose
	closed chan struct{}
}

// Cut cuts the client off, or changes how it is.
func (c *Client) Cut(f Fault) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	c.fault = f
	for w := range c.cluster.watches {
		if w.client == c && f == NoLeader && w.needsLeader {
			w.endLocked(rpctypes.ErrNoLeader.Error())
		}
	}
	c.cluster.changedLocked()
}

// Heal ends a cut. Watches go on from the last event that they brought, or end
// where that has been compacted meanwhile.
func (c *Client) Heal() { c.resume(func() { c.fault = 0 }) }

// Pause has the client's watches bring nothing; requests are not affected.
func (c *Client) Pause() {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	c.paused = true
	c.cluster.changedLocked()
}

// Resume ends a pause.
func (c *Client) Resume() { c.resume(func() { c.paused = false }) }

func (c *Client) resume(do func()) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	do()
	for w := range c.cluster.watches {
		if w.client == c && !c.heldLocked() {
			w.catchUpLocked()
		}
	}
	c.cluster.changedLocked()
}

// EndWatches ends the client's watches with an error that says so.
func (c *Client) EndWatches(reason string) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	for w := range c.cluster.watches {
		if w.client == c {
			w.endLocked(reason)
		}
	}
	c.cluster.changedLocked()
}

// Delay has each request take so long from now on: half of it on the way
// there, half on the way back. What a watch brings is late by half of it.
func (c *Client) Delay(d time.Duration) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	c.delay = d
}

// Lose has the next request that may write a key with this text in its name be
// done, and its reply lost: the caller gets Unavailable. Several wait for their
// turns.
func (c *Client) Lose(text string) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	c.losing = append(c.losing, text)
}

func (c *Client) losesLocked(writes []string) bool {
	if len(c.losing) == 0 || !about(writes, c.losing[0]) {
		return false
	}
	c.losing = c.losing[1:]
	return true
}

// heldLocked says whether watches bring nothing now.
func (c *Client) heldLocked() bool { return c.fault != 0 || c.paused }

// travel is the way from client to cluster, or back.
func (c *Client) travel(ctx context.Context) error {
	c.cluster.mu.Lock()
	half := c.delay / 2
	c.cluster.mu.Unlock()
	if half > 0 {
		timer := time.NewTimer(half)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
		case <-ctx.Done():
		}
	}
	return c.pass(ctx, true)
}

// pass waits until the client is not cut off. What may be refused fails where
// requests are.
func (c *Client) pass(ctx context.Context, refused bool) error {
	for {
		c.cluster.mu.Lock()
		fault, changed := c.fault, c.cluster.changed
		c.cluster.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return status.FromContextError(ctx.Err()).Err()
		case c.isClosed():
			return errClosed
		case fault == 0:
			return nil
		case fault == Refuses && refused:
			return errUnavailable
		case fault == NoLeader && needsLeader(ctx):
			return rpctypes.ErrGRPCNoLeader
		}
		select {
		case <-changed:
		case <-c.closed:
		case <-ctx.Done():
		}
	}
}

// needsLeader is whether a context is one of clientv3.WithRequireLeader.
func needsLeader(ctx context.Context) bool {
	md, _ := metadata.FromOutgoingContext(ctx)
	return len(md.Get(rpctypes.MetadataRequireLeaderKey)) > 0
}
