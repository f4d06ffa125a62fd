package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/rosterdns/roster/store"
)

// heartbeatsFirst sends plain heartbeats past the router, in which finding
// their handler costs more than the heartbeat itself. With rights it is the
// guarded handler that the router would find.
func (s *Server) heartbeatsFirst(router http.Handler, guarded *counted) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		service, id, ok := heartbeatPath(r.URL)
		switch {
		case !ok || r.Method != http.MethodPut:
			router.ServeHTTP(w, r)
		case s.cfg.Rights != nil:
			guarded.ServeHTTP(w, mux.SetURLVars(r, map[string]string{"service": service, "id": id}))
		default:
			begin, status := time.Now(), http.StatusOK
			if err := s.beat(w, r, store.FoldName(service), id); err != nil {
				status = writeProblem(w, r, err)
			}
			guarded.counts.count(r.Method, status, time.Since(begin))
		}
	})
}

// heartbeatPath takes apart the path of a heartbeat in which nothing is
// escaped.
func heartbeatPath(u *url.URL) (service, id string, ok bool) {
	rest, ok := strings.CutSuffix(u.Path, "/heartbeat")
	if !ok || u.RawPath != "" || strings.Contains(rest, "%") {
		return "", "", false
	}
	if rest, ok = strings.CutPrefix(rest, "/v1/services/"); !ok {
		return "", "", false
	}
	service, rest, ok = strings.Cut(rest, "/")
	if !ok || service == "" {
		return "", "", false
	}
	id, ok = strings.CutPrefix(rest, "instances/")
	return service, id, ok && id != "" && !strings.Contains(id, "/")
}

// heartbeat is PUT /v1/services/{service}/instances/{id}/heartbeat.
func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request) error {
	service, id, err := target(r)
	if err != nil {
		return err
	}
	return s.beat(w, r, service, id)
}

// beat is by far the most frequent request, so its reply is put together by
// hand.
func (s *Server) beat(w http.ResponseWriter, r *http.Request, service, id string) error {
	if err := takeQuery(r); err != nil {
		return err
	}
	b, err := readBody(w, r)
	if err != nil {
		return err
	}
	beat, err := parseBeat(b)
	if err != nil {
		return err
	}
	reg, err := s.registry.Heartbeat(r.Context(), service, id, beat)
	if errors.Is(err, store.ErrNotFound) {
		return problemf(http.StatusNotFound, "%v: register again", err)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(appendBeaten(make([]byte, 0, 128), reg, beat.Weight != nil))
	return ignoreGone(err)
}

// appendBeaten appends what a heartbeat has left in force; the weight where it
// brought one, which may not be in force yet.
func appendBeaten(dst []byte, reg store.Registration, weight bool) []byte {
	if reg.Permanent() {
		dst = append(dst, `{"permanent":true`...)
	} else {
		dst = append(dst, `{"ttl":`...)
		dst = strconv.AppendInt(dst, int64(reg.TTL/time.Second), 10)
	}
	if weight {
		dst = append(dst, `,"weight":`...)
		dst = strconv.AppendUint(dst, uint64(reg.Weight), 10)
	}
	if !reg.Expires.IsZero() {
		dst = append(dst, `,"expires":"`...)
		dst = appendTime(dst, reg.Expires)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"revision":`...)
	dst = strconv.AppendUint(dst, uint64(reg.Revision), 10)
	return append(dst, "}\n"...)
}

// batch is what the heartbeats of many instances need while they are read and
// answered. It is used again and again, so that a batch costs no garbage.
type batch struct {
	body   []byte
	items  []batchItem     // octets of body
	leases []store.Renewal // for the other servers, where there are any
	reply  []byte
}

// heartbeats is POST /v1/heartbeats.
func (s *Server) heartbeats(w http.ResponseWriter, r *http.Request) error {
	if err := takeQuery(r); err != nil {
		return err
	}
	if err := takesJSON(r); err != nil {
		return err
	}
	if r.ContentLength < 0 || r.ContentLength > maxBody {
		select {
		case s.largeBatches <- struct{}{}:
			defer func() { <-s.largeBatches }()
		default:
			return problemf(http.StatusServiceUnavailable,
				"%d large batches are being read, which is all that this server takes at once: try again, or send at most %d octets at a time", maxLargeBatches, maxBody)
		}
	}
	b, ok := s.batches.Get().(*batch)
	if !ok {
		b = &batch{}
	}
	defer func() {
		if cap(b.body) <= maxKept {
			s.batches.Put(b)
		}
	}()
	if err := b.read(w, r); err != nil {
		return err
	}
	if err := b.check(s.grant(r)); err != nil {
		return err
	}
	if err := b.renew(r.Context(), s.registry); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b.reply)))
	_, err := w.Write(b.reply)
	return ignoreGone(err)
}

// check returns the error for the first item that the caller may not renew.
func (b *batch) check(g *Grant) error {
	if g.May(Register, "") && len(g.Services) == 0 {
		return nil
	}
	for k, i := range b.items {
		if err := g.check(Register, store.FoldName(string(i.service))); err != nil {
			return problemf(http.StatusForbidden, "instances[%d]: %v", k, err)
		}
	}
	return nil
}

// renew renews what is there, and makes the reply.
func (b *batch) renew(ctx context.Context, registry *store.Registry) error {
	if !registry.Shared() {
		b.answer(registry.Renew)
		return nil
	}
	if err := b.share(ctx, registry); err != nil {
		return problemf(http.StatusServiceUnavailable, "%v; the leases may end: send the heartbeats again, here or to another server", err)
	}
	// Somebody may have been removed elsewhere meanwhile. And who was registered
	// there a moment ago, and is known here only now, has a fresh lease.
	b.answer(registry.Live)
	return nil
}

// share renews what is there, and has all servers know of that, at once for the
// whole batch.
func (b *batch) share(ctx context.Context, registry *store.Registry) error {
	defer func() {
		clear(b.leases) // they hold on to names
		b.leases = b.leases[:0]
	}()
	for _, i := range b.items {
		if l, ok := registry.RenewUntil(i.service, i.id); ok && l.End != store.Never {
			b.leases = append(b.leases, l)
		}
	}
	if len(b.items) == 0 {
		return nil
	}
	return registry.Cover(ctx, b.leases)
}

// answer makes the reply by whether each is renewed.
func (b *batch) answer(renewed func(service, id []byte) bool) {
	dst := append(b.reply[:0], `{"results":[`...)
	for _, i := range b.items {
		if renewed(i.service, i.id) {
			dst = append(dst, `"renewed",`...)
		} else {
			dst = append(dst, `"unknown",`...)
		}
	}
	if len(b.items) > 0 {
		dst = dst[:len(dst)-1]
	}
	b.reply = append(dst, "]}\n"...)
}
