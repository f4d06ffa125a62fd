package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/rosterdns/roster/store"
)

// watcher is one open watch: a stream of events, or a GET that waits for one.
//
// Thousands of them sit idle, so each is to cost as little as can be. A
// watcher takes its connection from net/http, with whose buffers and stacks an
// idle request costs five times as much, and has one goroutine, which sleeps
// in a read: so it sees at once when the client goes. It is woken by a read
// deadline in the past.
type watcher struct {
	service string // "": all
	client  netip.Addr
	grant   *Grant  // what its caller may read
	rights  *Rights // those that the grant is of

	// wants says, for a GET, which event ends its wait; nil: a stream.
	wants func(*store.Event) bool

	gone <-chan struct{} // the request's end, for a watcher without conn
	wake chan struct{}   // has room for one; for a watcher without conn

	mu         sync.Mutex
	conn       net.Conn                  // nil: it could not be had (HTTP/2); guarded by mu
	after      store.Revision            // it has seen everything up to here; guarded by mu
	newer      map[string]store.Revision // services of which it has seen more; guarded by mu
	newerUntil store.Revision            // newer is of no use after that; guarded by mu
	queue      []*message                // events to be sent; guarded by mu
	state      watchState                // guarded by mu

	scratch [16]byte // what a client says that should listen
	said    int      // how much it was
}

type watchState uint8

const (
	watching watchState = iota
	changed             // what a GET waits for has come
	lagged              // too much is in the queue
	ended               // the server stops
)

// message is an event for those who watch its service, or one of the server for
// all streams.
type message struct {
	event *store.Event // nil: it is the server's
	text  []byte       // as a stream has it; nil where no stream wanted it
}

const (
	maxQueue   = 1024             // events that may wait for a client
	maxSaid    = 4096             // octets that a client may send which should listen
	keepAlive  = 15 * time.Second // between two signs of life in a stream
	slowClient = 10 * time.Second // how long one write may take
)

// past is a deadline that has been missed.
var past = time.Unix(1, 0)

var (
	errGone   = errors.New("the client has gone")
	errLagged = errors.New("the client did not keep up")
	errEnded  = errors.New("the server stops")
)

// take gives the watcher an event, and reports whether that has woken it, and
// whether it was one too many.
func (w *watcher) take(m *message) (woken, tooMany bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != watching || m.event != nil && (w.knowsLocked(m.event) || !w.sees(m.event.Instance().Service)) {
		return false, false
	}
	switch {
	case w.wants != nil:
		if m.event == nil || !w.wants(m.event) {
			return false, false
		}
		w.state = changed
	case len(w.queue) == maxQueue:
		w.state, w.queue = lagged, nil
		if w.conn != nil {
			_ = w.conn.SetWriteDeadline(past) // a write is stuck
		}
	default:
		w.queue = append(w.queue, m)
	}
	if len(w.queue) <= 1 {
		w.pokeLocked()
		woken = true
	}
	return woken, w.state == lagged
}

// knowsLocked reports whether the client has seen what the event did.
func (w *watcher) knowsLocked(e *store.Event) bool {
	if w.newer != nil && e.Revision > w.newerUntil {
		w.newer = nil
	}
	return e.Revision <= max(w.after, w.newer[e.Instance().Service])
}

// seen notes what the client has been told meanwhile, and drops from the queue
// what is in that.
func (w *watcher) seen(after store.Revision, newer map[string]store.Revision, until store.Revision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after, w.newer, w.newerUntil = max(after, w.after), newer, until
	var left []*message
	for _, m := range w.queue {
		if m.event == nil || !w.knowsLocked(m.event) {
			left = append(left, m)
		}
	}
	w.queue = left
}

// end ends the watch at once.
func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = ended
	if w.conn != nil && w.wants == nil { // a GET still gets its answer
		_ = w.conn.SetWriteDeadline(past)
	}
	w.pokeLocked()
}

// pokeLocked makes wait look again. Setting a deadline never blocks.
func (w *watcher) pokeLocked() {
	if w.conn != nil {
		_ = w.conn.SetReadDeadline(past)
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// takeOver takes the connection from net/http, where that lets go of it.
func (w *watcher) takeOver(rw http.ResponseWriter) (net.Conn, bool) {
	conn, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.gone, w.wake = conn, nil, nil
	return conn, true
}

// wait sleeps until there are events to be sent, which it returns, until the
// given moment, or until the watch is at its end, which is an error. What a
// GET waited for is none of these: nothing is returned before the moment.
func (w *watcher) wait(until time.Time) ([]*message, error) {
	for {
		w.mu.Lock()
		queue, state := w.queue, w.state
		w.queue = nil
		if len(queue) == 0 && state == watching && w.conn != nil {
			// Under mu, or a poke in between would be undone.
			_ = w.conn.SetReadDeadline(until)
		}
		w.mu.Unlock()
		switch {
		case state == lagged:
			return nil, errLagged
		case state == ended:
			return nil, errEnded
		case len(queue) > 0 || state == changed || !time.Now().Before(until):
			return queue, nil
		}
		if err := w.sleep(until); err != nil {
			return nil, err
		}
	}
}

// sleep returns when there may be something to do.
func (w *watcher) sleep(until time.Time) error {
	if w.conn != nil { // nobody writes it any more
		n, err := w.conn.Read(w.scratch[:])
		if w.said += n; w.said > maxSaid || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return errGone
		}
		return nil
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-w.wake:
	case <-timer.C:
	case <-w.gone:
		return errGone
	}
	return nil
}

// newWatcher makes a watcher for a request, whose caller must have the right to
// read.
func (s *Server) newWatcher(rw http.ResponseWriter, r *http.Request, service string, wants func(*store.Event) bool) (*watcher, error) {
	w := &watcher{service: service, wants: wants, gone: r.Context().Done(), wake: make(chan struct{}, 1)}
	w.rights = s.rights() // before the grant: never newer than that is
	var err error
	if w.grant, err = s.admit(rw, r, Read, service); err != nil {
		return nil, err
	}
	w.client, _ = peerAddr(r) // those without one share a count
	return w, nil
}

// rights returns those that are in force, nil for none.
func (s *Server) rights() *Rights {
	if s.cfg.Rights == nil {
		return nil
	}
	return s.cfg.Rights()
}

// judged knows since which revision the rights are those of now.
type judged struct {
	mu     sync.Mutex // guards what follows
	rights *Rights
	at     store.Revision
}

// since returns the last revision that anybody may have been told by other
// rights than those of now; 0 where there are no rights. Who looks first after
// a change notes it: a stream is cut before it tells anything later (see stream).
func (j *judged) since(rights func() *Rights, revision func() store.Revision) store.Revision {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now := rights(); now != j.rights {
		j.rights, j.at = now, revision()
	}
	return j.at
}

// sees reports whether the caller may read the service.
func (w *watcher) sees(service string) bool {
	return w.service != "" || w.grant.May(Read, service)
}

// responseHead is the start of a response on a connection that was taken over.
func responseHead(status int, h http.Header) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	_ = h.Write(&b) // into memory
	b.WriteString("\r\n")
	return b.Bytes()
}

// Write writes to the stream's client, within slowClient.
func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	err := errLagged
	switch w.state {
	case ended:
		err = errEnded
	case watching: // under mu, or the past deadline of take and end would be undone
		err = w.conn.SetWriteDeadline(time.Now().Add(slowClient))
	}
	w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return w.conn.Write(b)
}

// flushingWriter does the same for a response of net/http.
type flushingWriter struct{ http.ResponseWriter }

func (f flushingWriter) Write(b []byte) (int, error) {
	c := http.NewResponseController(f.ResponseWriter)
	if err := c.SetWriteDeadline(time.Now().Add(slowClient)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = c.Flush()
	}
	_ = c.SetWriteDeadline(time.Time{}) // or HTTP/2 would end an idle stream then
	return n, err
}
