package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	Reset        EventKind = "reset"      // the whole state comes with it, in place of all that was known
	Registered   EventKind = "register"   // it was not there before
	Updated      EventKind = "update"     // anything of it has changed but its status
	StatusSet    EventKind = "status"     // its status has changed, and nothing else
	Deregistered EventKind = "deregister" // it was removed on request
	Expired      EventKind = "expire"     // its lease ended
)

// Event is a change.
type Event struct {
	Kind     EventKind `json:"event"`
	Revision uint64    `json:"revision"`

	// Instance is what the event happened to, after a removal as it was
	// before. Nil in a Reset.
	Instance *Instance `json:"instance,omitempty"`

	// Instances is the whole state in a Reset, sorted by service and ID.
	Instances []Instance `json:"instances,omitempty"`
}

// staleEvent is one that is about the server.
const staleEvent = "stale"

const (
	silence    = 45 * time.Second // the server says something every 15 s
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
	maxLine    = 4 << 20 // of a stream; an instance is one line, and far below
)

// Watch tells the changes of a service, or of all where service is "", until
// ctx is done or the caller breaks off. The first event is a [Reset], all others
// come once and in order: where the connection is lost, Watch makes another one
// and resumes, or there is a Reset again. From a server that is cut off from the
// others, and so hears nothing, it goes to one that is not, where there is one:
// see [Client.OnStale].
//
// An error tells that the connection was lost, once for each loss; to go on is
// to wait for the next event. With an error that [IsFinal] the sequence ends. It
// ends without one when ctx is done.
func (c *Client) Watch(ctx context.Context, service string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := &watch{client: c, service: service, yield: yield, retry: firstRetry}
		for w.follow(ctx) {
			if !wait(ctx, w.retry/2+rand.N(w.retry/2)) {
				return
			}
			w.retry = min(2*w.retry, lastRetry)
		}
	}
}

// wait waits, and reports whether ctx was not done before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch is one call of Watch, over as many connections as it takes.
type watch struct {
	client  *Client
	service string
	yield   func(Event, error) bool
	last    string        // the ID of the last event
	retry   time.Duration // before the next connection
	lost    bool          // and the caller knows
	broken  bool          // the caller has broken off
	from    *Stale        // the server that is being left; nil: none
	to      uint32        // the one that is gone to, an index
}

// follow follows one connection to its end, and reports whether there should be
// another one.
func (w *watch) follow(ctx context.Context) (again bool) {
	err := w.connect(ctx)
	for errors.Is(err, errMoved) {
		w.retry = min(2*w.retry, lastRetry) // before it moves again
		w.client.last.Store(w.to)
		err = w.connect(ctx)
	}
	if w.broken || ctx.Err() != nil {
		return false
	}
	if IsFinal(err) {
		w.yield(Event{}, w.wrap(err))
		return false
	}
	if e, ok := errors.AsType[*Error](err); ok {
		w.retry = max(w.retry, e.RetryAfter)
	}
	if w.lost {
		return true
	}
	w.lost = true
	return w.yield(Event{}, w.wrap(err))
}

func (w *watch) wrap(err error) error {
	if w.service == "" {
		return fmt.Errorf("watch: %w", err)
	}
	return fmt.Errorf("watch %s: %w", w.service, err)
}

// call is the request for the stream.
func (w *watch) call() call {
	q := call{method: http.MethodGet, path: "/v1/events", header: http.Header{"Accept": {"text/event-stream"}}}
	if w.service != "" {
		q.query = url.Values{"service": {w.service}}
	}
	if w.last != "" {
		q.header.Set("Last-Event-ID", w.last)
	}
	return q
}

// connect follows the first server that answers.
func (w *watch) connect(ctx context.Context) error {
	var cut error
	err := w.client.each(ctx, func(server *url.URL) error {
		began, err := w.read(ctx, server, w.call())
		if began {
			cut = err
			return nil
		}
		return err
	})
	return errors.Join(err, cut)
}

// read reads the events of one server, and reports whether it began to answer.
// A connection on which nothing comes for a while is lost.
func (w *watch) read(ctx context.Context, server *url.URL, q call) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(attemptTimeout, func() { cancel(errors.New("the server does not answer")) })
	defer alarm.Stop()
	resp, err := w.client.send(ctx, server, q, nil)
	if err != nil {
		return false, cause(ctx, err)
	}
	defer resp.Body.Close()
	if w.from != nil && w.from.Server != shown(server) {
		w.from.Watching = shown(server)
		w.client.reportStale(*w.from)
	}
	w.from = nil
	s := &seeker{watch: w, server: server, moved: func() { cancel(errMoved) }}
	defer s.end()
	lines := bufio.NewScanner(wakeful{resp.Body, alarm})
	lines.Buffer(nil, maxLine)
	var kind, id string
	var data bytes.Buffer
	for lines.Scan() {
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			kind = string(value)
		case "id":
			id = string(value)
		case "data":
			data.Write(value)
			data.WriteByte('\n')
		case "":
			if len(lines.Bytes()) > 0 || kind == "" {
				continue
			}
			// The event is whole.
			if kind == staleEvent {
				if err := s.hear(ctx, data.Bytes()); err != nil {
					return true, err
				}
			} else if !w.tell(kind, id, data.Bytes()) {
				return true, nil
			}
			kind, data = "", bytes.Buffer{}
		}
	}
	err = cause(ctx, lines.Err())
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return true, fmt.Errorf("the stream of %s was cut: %w", server.Host, err)
}

// cause is why a request whose context ended did so, and err otherwise.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// wakeful puts the alarm off whenever something comes.
type wakeful struct {
	io.Reader
	alarm *time.Timer
}

// Read implements [io.Reader].
func (r wakeful) Read(b []byte) (int, error) {
	r.alarm.Reset(silence)
	return r.Reader.Read(b)
}

// tell tells the caller an event, and reports whether it wants more.
func (w *watch) tell(kind, id string, data []byte) bool {
	revision, err := strconv.ParseUint(id, 10, 64)
	e := Event{Kind: EventKind(kind), Revision: revision}
	if err == nil && e.Kind == Reset {
		err = json.Unmarshal(data, &struct{ Instances *[]Instance }{&e.Instances})
	} else if err == nil {
		err = json.Unmarshal(data, &e.Instance)
	}
	if err != nil {
		w.broken = true
		w.yield(Event{}, w.wrap(fmt.Errorf("event %s: %w: %w", kind, ErrUnreadable, err)))
		return false
	}
	w.last, w.lost, w.retry = id, false, firstRetry
	w.broken = !w.yield(e, nil)
	return !w.broken
}
