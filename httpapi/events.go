package httpapi

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rosterdns/roster/store"
)

// This file is the stream of events, server-sent events as browsers and many
// libraries read them (HTML Living Standard, 9.2).

// events is GET /v1/events.
func (s *Server) events(rw http.ResponseWriter, r *http.Request) error {
	service, err := watched(r)
	if err != nil {
		return err
	}
	w, err := s.newWatcher(rw, r, service, nil)
	if err != nil {
		return err
	}
	if err := s.hub.join(w); err != nil {
		return err
	}
	h := rw.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx in front is to pass events on at once
	if r.Method == http.MethodHead {
		s.hub.leave(w)
		return nil
	}
	last := r.Header.Get("Last-Event-ID")
	conn, ok := w.takeOver(rw)
	if !ok {
		defer s.hub.leave(w)
		rw.WriteHeader(http.StatusOK)
		if out := (flushingWriter{rw}); s.begin(w, out, last) == nil {
			_ = s.stream(w, out) // why it ended is nobody's to handle
		}
		return nil
	}
	// What comes first is written here, where net/http's large stack is; what
	// then waits has a small one.
	_, err = w.Write(responseHead(http.StatusOK, h))
	if err == nil {
		err = s.begin(w, w, last)
	}
	if err != nil {
		conn.Close()
		s.hub.leave(w)
		return nil
	}
	go func() {
		defer s.hub.leave(w)
		defer conn.Close()
		_ = s.stream(w, w) // why it ended is nobody's to handle
	}()
	return nil
}

// watched returns the service that ?service= names, "" for all.
func watched(r *http.Request) (string, error) {
	if err := takeQuery(r, "service"); err != nil {
		return "", err
	}
	switch list := r.URL.Query()["service"]; {
	case len(list) > 1:
		return "", problemf(http.StatusBadRequest, "service: %d of them; ask for one, or leave it out for all", len(list))
	case len(list) == 1:
		name := store.FoldName(list[0])
		return name, store.CheckLabel("service", name)
	}
	return "", nil
}

// begin sends what the client is to see first: the events after the last one
// that it has seen, or the whole state where those are no longer known.
func (s *Server) begin(w *watcher, out io.Writer, last string) error {
	after, err := strconv.ParseUint(last, 10, 64)
	known := err == nil
	var past []store.Event
	if w.service == "" && store.Revision(after) <= s.judged.since(s.rights, s.registry.Revision) {
		known = false // it may have been told less than it may read now, or more
	}
	if known {
		past, known = s.since(w.service, store.Revision(after))
	}
	start := "retry: 1000\n\n"
	if known {
		// An event without an id has the last one of its stream (9.2.6), which
		// begins with none.
		start = fmt.Sprintf("retry: 1000\nid: %d\n\n", after)
	}
	if _, err := io.WriteString(out, start); err != nil {
		return err
	}
	if known {
		return s.catchUp(w, out, store.Revision(after), past)
	}
	return s.reset(w, out)
}

// since returns the events of a service ("" for all) after a revision, and
// whether all of them are known.
func (s *Server) since(service string, after store.Revision) ([]store.Event, bool) {
	past, err := s.registry.Since(service, after)
	if err == nil {
		return past, true
	}
	if service == "" || after > s.registry.Revision() { // of another registry's life
		return nil, false
	}
	// The history does not reach back, but nothing of it may be the service's.
	v := s.registry.Service(service)
	return nil, v != nil && v.Revision <= after
}

func (s *Server) catchUp(w *watcher, out io.Writer, after store.Revision, past []store.Event) error {
	b := bufio.NewWriterSize(out, 32<<10)
	for k := range past {
		after = past[k].Revision
		if !w.sees(past[k].Instance().Service) {
			continue
		}
		if _, err := b.Write(s.words(&past[k])); err != nil {
			return err
		}
	}
	w.seen(after, nil, 0)
	return b.Flush()
}

// reset sends the whole state. It is sent instance by instance, each on a line
// of its own, so that a large registry does not have to be in memory twice.
func (s *Server) reset(w *watcher, out io.Writer) error {
	at := s.registry.Revision() // before the views: never newer than they are
	var views []*store.View
	if w.service == "" {
		views = slices.Collect(s.registry.Services)
		slices.SortFunc(views, func(a, b *store.View) int { return cmp.Compare(a.Service, b.Service) })
	} else if v := s.registry.Service(w.service); v != nil {
		views = []*store.View{v}
	}
	var newer map[string]store.Revision
	for _, v := range views {
		if v.Revision > at {
			if newer == nil {
				newer = map[string]store.Revision{}
			}
			newer[v.Service] = v.Revision
		}
	}
	w.seen(at, newer, s.registry.Revision())

	b := bufio.NewWriterSize(out, 32<<10)
	fmt.Fprintf(b, "event: reset\nid: %d\ndata: {\"revision\":%d,", at, at)
	if w.service != "" {
		fmt.Fprintf(b, "\"service\":%q,", w.service)
	}
	_, _ = b.WriteString("\"instances\":[\n") // Flush has the error
	comma := ""
	for _, v := range views {
		if !w.sees(v.Service) {
			continue
		}
		for _, i := range s.instances(v, filter{}) {
			if _, err := fmt.Fprintf(b, "data: %s%s\n", comma, encode(i)); err != nil {
				return err
			}
			comma = ","
		}
	}
	_, _ = b.WriteString("data: ]}\n\n")
	return b.Flush()
}

// words puts an event into words: the instance as replies have it, with the
// revision of the event.
func (s *Server) words(e *store.Event) []byte {
	i := e.Instance()
	var expires time.Time
	if e.After != nil {
		if m, ok := s.find(i.Service, i.ID, s.registry.Now()); ok {
			expires = s.expires(m)
		}
	}
	d := s.describe(i, expires)
	d.Revision = e.Revision
	return fmt.Appendf(nil, "event: %s\nid: %d\ndata: %s\n\n", e.Kind, e.Revision, encode(d))
}

func encode(i instanceJSON) []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic("httpapi: internal error: encode an instance: " + err.Error())
	}
	return b
}

// stream sends events as they come, and a comment where none has come for a
// while, until the watch is at its end.
func (s *Server) stream(w *watcher, out io.Writer) error {
	for {
		queue, err := w.wait(time.Now().Add(keepAlive))
		if err != nil {
			return err
		}
		if s.rights() != w.rights {
			return errRightsChanged // the client comes back, and is judged anew
		}
		if err := say(out, queue); err != nil {
			return err
		}
	}
}

// say writes events, or a comment where there are none. Many go out in pieces:
// all that may wait for a slow client is too much to have in memory once more.
func say(out io.Writer, queue []*message) error {
	switch len(queue) {
	case 0:
		_, err := io.WriteString(out, ":\n\n")
		return err
	case 1:
		_, err := out.Write(queue[0].text)
		return err
	}
	b := bufio.NewWriterSize(out, 32<<10)
	for _, m := range queue {
		if _, err := b.Write(m.text); err != nil {
			return err
		}
	}
	return b.Flush()
}
