package httpapi

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// A list is made in memory before it is sent, and a client may take its time to
// read it. So that many of them do not take what memory there is, lists share
// room for a number of entries, of about 1 KiB each.
const (
	allEntries = 1 << 20
	// smallList needs no room: it is no larger than a body may be.
	smallList = 64
	// roomTime is how long a list waits for room.
	roomTime = 5 * time.Second
)

var errNoRoom = problemf(http.StatusServiceUnavailable,
	"lists of %d entries are being sent, which is all that this server has room for: try again, or ask for one service at a time", allEntries)

// room is what the lists under way leave.
type room struct{ entries *semaphore.Weighted }

func newRoom() room { return room{semaphore.NewWeighted(allEntries)} }

// take takes room for a list, until leave is called; a list of more than there
// is gets all of it.
func (r room) take(ctx context.Context, entries int) (leave func(), err error) {
	if entries <= smallList {
		return func() {}, nil
	}
	n := int64(min(entries, allEntries))
	ctx, cancel := context.WithTimeout(ctx, roomTime)
	defer cancel()
	if r.entries.Acquire(ctx, n) != nil {
		return nil, errNoRoom
	}
	return func() { r.entries.Release(n) }, nil
}

// entries returns how many entries a list of a service ("" for all) has at
// most.
func (s *Server) entries(service string) int {
	if service == "" {
		return s.registry.Len()
	}
	v := s.registry.Service(service)
	if v == nil {
		return 0
	}
	return v.Count()
}

// roomFor takes room for a list of a service ("" for all), until leave is called.
// What is read then may have become stale meanwhile: the header says so.
func (s *Server) roomFor(ctx context.Context, h http.Header, service string) (leave func(), err error) {
	leave, err = s.lists.take(ctx, s.entries(service))
	s.markStale(h)
	return leave, err
}

// writeList writes the list that make makes, once there is room for it.
func (s *Server) writeList(w http.ResponseWriter, r *http.Request, service string, make func() any) error {
	leave, err := s.roomFor(r.Context(), w.Header(), service)
	if err != nil {
		return err
	}
	defer leave()
	return writeJSON(w, http.StatusOK, make())
}
