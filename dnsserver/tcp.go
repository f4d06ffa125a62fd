package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// DNS over TCP (RFC 7766). A connection has one goroutine, which reads what
// has come, answers what the fast path takes, and writes those answers with
// one call. What is left goes to a second goroutine, which only a connection
// with such queries has: its answers may be overtaken.

// The limits on what a connection may take.
const (
	// idleTime is how long a connection may be without a query, and busyTime
	// how long where three quarters of those allowed are open (RFC 7766
	// section 6.2.3).
	idleTime = 20 * time.Second
	busyTime = 2 * time.Second
	// messageTime is how long one query may take to come in, and writeTime
	// how long a client may take to accept its answers.
	messageTime = 5 * time.Second
	writeTime   = 6 * time.Second
	// Once the server is to end, a connection is served until nothing has come
	// for lastIdle, so that what was on its way gets its answer, but not for
	// longer than lastTime.
	lastIdle = 50 * time.Millisecond
	lastTime = 500 * time.Millisecond
	// lazily is how late a deadline may be set: setting one costs as much as
	// answering a query.
	lazily = time.Second

	readSize     = 4 << 10  // grows to a message's size where one is larger
	flushSize    = 48 << 10 // answers that are worth a write of their own
	waitingSlow  = 4        // queries for the ordinary path that wait on one connection
	acceptPause  = 50 * time.Millisecond
	maxFrame     = 2 + streamSize
	streamBuffer = flushSize + maxFrame
)

// streams serves the connections of one listener.
type streams struct {
	server   *Server
	listener net.Listener
	client   transport

	mu        sync.Mutex
	conns     map[*stream]struct{} // guarded by mu
	perClient map[netip.Prefix]int // by network; guarded by mu
	open      atomic.Int64         // how many conns there are

	stopping atomic.Bool
	stopped  chan struct{} // closed when stopping is set
	until    time.Time     // when the last queries are answered; set before stopping
	done     sync.WaitGroup
}

func (s *Server) newStreams(l net.Listener, t transport) *streams {
	return &streams{server: s, listener: l, client: t, conns: map[*stream]struct{}{}, perClient: map[netip.Prefix]int{}, stopped: make(chan struct{})}
}

// serve answers until ctx is done, and then what has come by then.
func (s *streams) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.stop)()
	defer s.done.Wait()
	defer s.listener.Close()
	for {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			s.admit(conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serve DNS over %s: %w", s.client, err)
		default: // out of file descriptors, most likely: others end meanwhile
			s.server.cfg.Log.WithError(err).Warnf("a connection for DNS over %s could not be accepted", s.client)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// stop gives the connections a last moment, those included that the system has
// accepted and we have not, and ends the listener.
func (s *streams) stop() {
	now := time.Now()
	if l, ok := s.listener.(interface{ SetDeadline(t time.Time) error }); !ok || l.SetDeadline(now.Add(lastIdle)) != nil {
		_ = s.listener.Close()
	}
	s.until = now.Add(lastTime)
	s.stopping.Store(true)
	close(s.stopped)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.conn.SetReadDeadline(now.Add(lastIdle))
	}
}

// admit begins to serve a connection, unless that would be too many.
func (s *streams) admit(conn net.Conn) {
	if s.client == overTLS {
		conn = tls.Server(conn, s.server.cfg.TLSConfig)
	}
	c := &stream{streams: s, conn: conn, client: client{addr: remoteAddr(conn), transport: s.client}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.server.cfg.MaxConns || s.perClient[network(c.client.addr)] >= s.server.cfg.MaxConnsPerClient {
		s.server.counts[s.client].refused.Add(1)
		_ = conn.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.open.Add(1)
	s.perClient[network(c.client.addr)]++
	s.done.Go(func() {
		defer s.remove(c)
		c.serve()
	})
}

func (s *streams) remove(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.open.Add(-1)
	from := network(c.client.addr)
	if s.perClient[from]--; s.perClient[from] == 0 {
		delete(s.perClient, from)
	}
}

// idle is how long a connection may wait for a query.
func (s *streams) idle() time.Duration {
	if s.open.Load() > int64(s.server.cfg.MaxConns)*3/4 {
		return busyTime
	}
	return idleTime
}

// network is what counts as one client: an IPv4 address, or the /64 that one
// holder of IPv6 addresses has at least.
func network(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the one for no address at all is as good as any
	return p
}

func remoteAddr(conn net.Conn) netip.Addr {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// stream is one connection.
type stream struct {
	*streams
	conn    net.Conn
	client  client
	partial bool      // a query has begun to come in
	readBy  time.Time // the deadline that is set

	transferring sync.Mutex // held by a transfer

	slow     chan []byte // what the ordinary path is to answer; nil until there is something
	slowDone sync.WaitGroup

	mu      sync.Mutex // held for writing
	writeBy time.Time  // the deadline that is set; guarded by mu
}

// serve answers until the client ends the connection, or takes too long.
func (c *stream) serve() {
	defer func() {
		if c.slow != nil {
			close(c.slow)
		}
		c.slowDone.Wait()
		_ = c.conn.Close()
	}()
	buf, filled := make([]byte, readSize), 0
	for {
		if c.setReadDeadline(filled > 0) != nil {
			return
		}
		n, err := c.conn.Read(buf[filled:])
		filled += n
		rest, ok := c.answer(buf[:filled])
		if err != nil || !ok {
			return
		}
		if len(rest) < filled {
			c.partial = false // what is left, if anything, is another query
			filled = copy(buf, rest)
		}
		if need := frameSize(buf[:filled]); need > len(buf) {
			buf = append(make([]byte, 0, need), buf[:filled]...)[:need]
		}
	}
}

// setReadDeadline gives the client its time: for a query, or for the rest of
// one.
func (c *stream) setReadDeadline(partial bool) error {
	now := time.Now()
	if c.stopping.Load() {
		return c.setLastDeadline(now)
	}
	switch {
	case partial && !c.partial:
		c.readBy = now.Add(messageTime)
	case partial:
		return nil
	default:
		idle := c.idle()
		if left := c.readBy.Sub(now); left > idle-lazily && left <= idle {
			return nil
		}
		c.readBy = now.Add(idle)
	}
	c.partial = partial
	err := c.conn.SetReadDeadline(c.readBy)
	if c.stopping.Load() { // since just now, and stop's deadline may be gone
		return c.setLastDeadline(now)
	}
	return err
}

// setLastDeadline gives what is on its way its time once the server is to end.
func (c *stream) setLastDeadline(now time.Time) error {
	last := now.Add(lastIdle)
	if last.After(c.until) {
		last = c.until
	}
	return c.conn.SetReadDeadline(last)
}

// answer answers the messages in what has come, and returns what is no whole
// message yet; not ok ends the connection.
func (c *stream) answer(in []byte) (rest []byte, ok bool) {
	b := c.server.batches.Get().(*streamBatch) //nolint:errcheck // the pool holds nothing else
	defer c.server.batches.Put(b)
	b.fast.begin()
	b.fast.counts = &c.server.counts[c.client.transport]
	b.out = b.out[:0]
	for {
		msg, rest, state := nextFrame(in)
		switch state {
		case frameBroken:
			_ = c.write(b.out)
			return nil, false
		case framePartial:
			return in, c.write(b.out) == nil
		}
		in = rest
		full := !b.answer(msg, c.client) && !c.leave(msg, false)
		if full || len(b.out) >= flushSize {
			if c.write(b.out) != nil {
				return nil, false
			}
			b.out = b.out[:0]
		}
		if full {
			c.leave(msg, true)
		}
		if full || len(b.out) == 0 {
			b.fast.begin() // either may have taken seconds, and leases end
		}
	}
}

// leave gives a message to the ordinary path. Where too many wait for that it
// waits with them, or with wait unset reports false.
func (c *stream) leave(msg []byte, wait bool) bool {
	if c.slow == nil {
		c.slow = make(chan []byte, waitingSlow)
		c.slowDone.Go(func() {
			for m := range c.slow {
				c.answerSlowly(m)
			}
		})
	}
	m := append([]byte(nil), msg...)
	if wait {
		c.slow <- m
		return true
	}
	select {
	case c.slow <- m:
		return true
	default:
		return false
	}
}

// answerSlowly answers a message by the ordinary path. A transfer takes longer,
// and what is asked meanwhile does not wait for it.
func (c *stream) answerSlowly(packet []byte) {
	from := c.client
	from.idle = c.idle()
	req, out := c.server.read(packet, &from)
	switch {
	case req == nil:
	case c.server.isTransfer(req, from):
		c.transferring.Lock() // one at a time
		c.slowDone.Go(func() {
			defer c.transferring.Unlock()
			c.transfer(req, from)
		})
	default:
		out = c.server.answerRequest(req, from)
	}
	if out != nil {
		_ = c.write(frame(out)) // on an error the reader finds the connection closed
	}
}

// write writes whole messages, one writer after the other. A client that does
// not take them loses the connection.
func (c *stream) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.writeBy.Sub(now) < writeTime-lazily {
		c.writeBy = now.Add(writeTime)
		if err := c.conn.SetWriteDeadline(c.writeBy); err != nil {
			return err
		}
	}
	_, err := c.conn.Write(b)
	if err != nil {
		_ = c.conn.Close()
	}
	return err
}

// streamBatch is what answering the messages of one read takes.
type streamBatch struct {
	fast *fastPath
	out  []byte // whole messages with their lengths before them
}

func (s *Server) newStreamBatch() any {
	return &streamBatch{fast: s.newFastPath(&s.counts[overTCP]), out: make([]byte, 0, streamBuffer)}
}

// answer answers one message where the fast path does. There is always room:
// what is over flushSize is written before the next.
func (b *streamBatch) answer(msg []byte, from client) bool {
	out := beginFrame(b.out)
	response, ok := b.fast.answer(out[len(out):], msg, from)
	if ok {
		b.out = endFrame(out, len(response))
	}
	return ok
}
