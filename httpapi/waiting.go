package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/rosterdns/roster/store"
)

// This file is the GET that waits: ?after=REVISION&wait=30s.

// maxWait is the longest wait; a longer one is cut to it.
const maxWait = 10 * time.Minute

// patience is what ?after= and ?wait= ask for.
type patience struct {
	after store.Revision
	wait  time.Duration // 0: none
}

func readPatience(q url.Values) (patience, error) {
	after, wait := q["after"], q["wait"]
	switch {
	case len(after) == 0 && len(wait) == 0:
		return patience{}, nil
	case len(after) != 1:
		return patience{}, problemf(http.StatusBadRequest, "after: it stands there %d times; send the revision of your last reply once, and how long to wait as wait", len(after))
	case len(wait) != 1:
		return patience{}, problemf(http.StatusBadRequest, "wait: it stands there %d times; send how long to wait once, as in wait=30s", len(wait))
	}
	revision, err := strconv.ParseUint(after[0], 10, 64)
	if err != nil {
		return patience{}, store.Invalid("after", strconv.Quote(after[0]), "the revision of an earlier reply, or 0")
	}
	d, err := time.ParseDuration(wait[0])
	if err != nil || d <= 0 {
		return patience{}, store.Invalid("wait", strconv.Quote(wait[0]), "a duration above 0 as in 30s or 1m")
	}
	return patience{store.Revision(revision), min(d, maxWait)}, nil
}

// waiting is a GET whose answer is wanted when it is another one.
type waiting struct {
	patience
	service string                      // "": all
	wants   func(*store.Event) bool     // whether the event changes the answer
	answer  func() (etag string, v any) // "": it has no ETag
}

// await answers a GET that waits: at once where the answer has changed since,
// otherwise when it does, and in the end as it is.
func (s *Server) await(rw http.ResponseWriter, r *http.Request, q waiting) error {
	if r.Method == http.MethodHead || s.hasChanged(q) {
		return s.reply(rw, r, q)
	}
	w, err := s.newWatcher(rw, r, q.service, q.wants)
	if err != nil {
		return err
	}
	w.after = q.after
	if err := s.hub.join(w); err != nil {
		return err
	}
	if s.hasChanged(q) { // before it was listened to
		s.hub.leave(w)
		return s.reply(rw, r, q)
	}
	until := time.Now().Add(q.wait)
	h := rw.Header()
	conn, ok := w.takeOver(rw)
	if !ok {
		defer s.hub.leave(w)
		c := http.NewResponseController(rw)
		_ = c.SetReadDeadline(time.Time{}) // or net/http would take the client for gone
		_ = c.SetWriteDeadline(time.Time{})
		if _, err := w.wait(until); errors.Is(err, errGone) {
			return nil
		}
		_ = c.SetWriteDeadline(time.Now().Add(slowClient))
		if s.rights() != w.rights {
			return errRightsChanged
		}
		return s.reply(rw, r, q)
	}
	go func() {
		defer s.hub.leave(w)
		defer conn.Close()
		if _, err := w.wait(until); !errors.Is(err, errGone) {
			s.send(conn, h, w, q)
		}
	}()
	return nil
}

// errRightsChanged is for who began to wait under other rights: the next
// request is judged by those of now.
var errRightsChanged = problemf(http.StatusServiceUnavailable, "the server's rights have changed meanwhile: ask again")

// hasChanged reports whether the answer may be another than that at the
// revision given.
func (s *Server) hasChanged(q waiting) bool {
	past, ok := s.since(q.service, q.after)
	return !ok || slices.ContainsFunc(past, func(e store.Event) bool { return q.wants(&e) })
}

// reply replies once there is room for the list.
func (s *Server) reply(rw http.ResponseWriter, r *http.Request, q waiting) error {
	rw.Header().Del(staleHeader) // it was so when it began to wait
	leave, err := s.roomFor(r.Context(), rw.Header(), q.service)
	if err != nil {
		return err
	}
	defer leave()
	return q.reply(rw)
}

func (q waiting) reply(rw http.ResponseWriter) error {
	tag, v := q.answer()
	if tag != "" {
		rw.Header().Set("ETag", tag)
	}
	return writeJSON(rw, http.StatusOK, v)
}

// send writes the whole response to a connection that was taken over.
func (s *Server) send(conn net.Conn, h http.Header, w *watcher, q waiting) {
	r := detached{header: h, status: http.StatusOK}
	h.Del(staleHeader) // it was so when it began to wait
	leave, err := s.roomFor(context.Background(), h, q.service)
	switch {
	case err != nil:
	case s.rights() != w.rights:
		leave()
		err = errRightsChanged
	default:
		defer leave()
		err = q.reply(&r)
	}
	if err != nil {
		writeProblem(&r, &http.Request{Method: http.MethodGet}, err)
	}
	h.Set("Content-Length", strconv.Itoa(len(r.body)))
	if err := conn.SetWriteDeadline(time.Now().Add(stopTime)); err != nil {
		return
	}
	_, _ = conn.Write(append(responseHead(r.status, h), r.body...)) // a client that has gone cannot be told
}

// detached is a response in memory.
type detached struct {
	header http.Header
	status int
	body   []byte
}

// Header implements [http.ResponseWriter].
func (d *detached) Header() http.Header { return d.header }

// WriteHeader implements [http.ResponseWriter].
func (d *detached) WriteHeader(status int) { d.status = status }

// Write implements [http.ResponseWriter].
func (d *detached) Write(b []byte) (int, error) {
	d.body = append(d.body, b...)
	return len(b), nil
}

// changesInstances says which events change the list of instances that the
// filter leaves.
func (f filter) changesInstances(e *store.Event) bool {
	return e.Before != nil && f.takes(e.Before) || e.After != nil && f.takes(e.After)
}

// changesSummary does so for the list of services, which has counts by status
// and all tags. Where only tags change, it may say so of an event that adds
// what another instance has as well.
func (s *Server) changesSummary(f filter, e *store.Event) bool {
	if !f.grant.May(Read, e.Instance().Service) {
		return false
	}
	before := e.Before != nil && f.takes(e.Before)
	after := e.After != nil && f.takes(e.After)
	switch {
	case before != after, before && e.Before.Status != e.After.Status:
		return true
	case slices.Equal(tagsOf(e.Before), tagsOf(e.After)):
		return false
	}
	// Its tags are in the list if the service is.
	v := s.registry.Service(e.Instance().Service)
	return v != nil && summarize(v, f, s.registry.Now()).Instances > 0
}

func tagsOf(i *store.Instance) []string {
	if i == nil {
		return nil
	}
	return i.Tags
}
