package httpapi

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connections is a listener whose connections are bounded: in all, and those of
// one client. Where there are too many, those are closed that have been waiting
// for a request for the longest, of that client or of all. So whoever opens
// connections and sends nothing, or slowly, keeps nobody out. Where all are at
// work, a client's newcomer is closed, and what is too much in all waits.
type connections struct {
	net.Listener
	most, perClient int

	closed atomic.Uint64 // to make room, and newcomers where there was none

	ending chan struct{} // closed at the end
	end    sync.Once

	mu      sync.Mutex
	open    map[*conn]struct{}   // guarded by mu
	clients map[netip.Prefix]int // how many each has; guarded by mu

	fresh atomic.Int64 // connections that have not sent a whole request head yet
}

func newConnections(l net.Listener, most, perClient int) *connections {
	return &connections{Listener: l, most: most, perClient: perClient, ending: make(chan struct{}), open: map[*conn]struct{}{}, clients: map[netip.Prefix]int{}}
}

// conn is one of them.
type conn struct {
	thriftyConn
	of     *connections
	client netip.Prefix
	waits  atomic.Int64 // since when it has been waiting for a request, in unix nanoseconds; 0: it is not
	state  atomic.Int32 // an http.ConnState
	closed sync.Once
}

// Accept implements [net.Listener].
func (l *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if errors.Is(err, syscall.EMFILE) {
			l.close(l.evict()) // net/http will try again
		}
		if err != nil {
			return nil, err
		}
		c := &conn{thriftyConn: thriftyConn{Conn: accepted}, of: l, client: clientOf(addrOf(accepted.RemoteAddr()))}
		for {
			ok, wait := l.admit(c)
			if ok {
				return c, nil
			}
			if !wait {
				break
			}
			select {
			case <-time.After(roomPause):
				continue
			case <-l.ending:
			}
			break
		}
		l.closed.Add(1)
		_ = accepted.Close()
	}
}

// Close implements [net.Listener].
func (l *connections) Close() error {
	l.end.Do(func() { close(l.ending) })
	return l.Listener.Close()
}

// roomPause is how often a newcomer looks whether there is room.
const roomPause = 5 * time.Millisecond

func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap().WithZone("")
}

// admit takes a connection in, unless there are too many that are all at work;
// then it says whether waiting is worth it.
func (l *connections) admit(c *conn) (ok, wait bool) {
	l.mu.Lock()
	var evicted []*conn
	if l.clients[c.client] >= l.perClient {
		evicted = l.longestWaitingLocked(&c.client)
	} else if len(l.open) >= l.most {
		evicted = l.longestWaitingLocked(nil)
	}
	for _, e := range evicted {
		l.forgetLocked(e)
	}
	ok = l.clients[c.client] < l.perClient && len(l.open) < l.most
	wait = l.clients[c.client] < l.perClient
	if ok {
		l.open[c] = struct{}{}
		l.clients[c.client]++
		c.waits.Store(time.Now().UnixNano())
	}
	l.mu.Unlock()
	l.close(evicted)
	return ok, wait
}

// evict returns those of all that have been waiting for the longest.
func (l *connections) evict() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longestWaitingLocked(nil)
}

func (l *connections) close(evicted []*conn) {
	for _, e := range evicted {
		l.closed.Add(1)
		_ = e.Close()
	}
}

// longestWaitingLocked returns the connections that have been waiting for the
// longest, of a client or, with nil, of all: a part of them, so that they are
// not looked through again for the next one that comes.
func (l *connections) longestWaitingLocked(client *netip.Prefix) []*conn {
	type waiting struct {
		*conn
		since int64 // read once, or sorting would go astray
	}
	var all []waiting
	for c := range l.open {
		if since := c.waits.Load(); since != 0 && (client == nil || c.client == *client) {
			all = append(all, waiting{c, since})
		}
	}
	slices.SortFunc(all, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	var out []*conn
	for _, w := range all[:(len(all)+63)/64] {
		out = append(out, w.conn)
	}
	return out
}

func (l *connections) forgetLocked(c *conn) {
	if _, there := l.open[c]; !there {
		return
	}
	delete(l.open, c)
	if l.clients[c.client]--; l.clients[c.client] == 0 {
		delete(l.clients, c.client)
	}
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.closed.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.of.forgetLocked(c)
	})
	return c.thriftyConn.Close()
}

// note is what an [http.Server] says of a connection's state.
func (l *connections) note(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn() // below TLS
	}
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	switch before := http.ConnState(c.state.Swap(int32(state))); {
	case state == http.StateNew:
		l.fresh.Add(1)
	case before == http.StateNew:
		l.fresh.Add(-1)
	}
	if state == http.StateIdle {
		c.waits.Store(time.Now().UnixNano())
	} else if state != http.StateNew {
		c.waits.Store(0)
	}
}

// Connections returns how many connections are open, and how many have been
// closed because there were too many.
func (s *Server) Connections() (open int, closed uint64) {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return len(s.conns.open), s.conns.closed.Load()
}

// settle waits until each connection has sent a request, but not for longer
// than that: net/http drops what it reads once it is to shut down.
func (l *connections) settle(within time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); l.fresh.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}
