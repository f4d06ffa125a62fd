package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// A server whose backend several share may be cut off from it. Its answers say
// so, and streams, but there is no end to them: who looks here while things are
// broken wants to see what there is, and how old it is.

// staleHeader is since how many whole seconds what is in an answer can no longer
// be confirmed. Answers that are confirmed do not have it.
const staleHeader = "Roster-Stale"

// markStale is called before the registry is read: where that is stale, the
// answer that the header is of says so. It never takes a mark back.
func (s *Server) markStale(h http.Header) {
	if since, stale := s.registry.Stale(); stale {
		h.Set(staleHeader, strconv.Itoa(int(since/time.Second)))
	}
}

// reading makes of a handler one whose answers say where they are read from a
// stale registry. What waits before it reads marks it again: see roomFor.
func (s *Server) reading(f handlerFunc) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		s.markStale(w.Header())
		return f(w, r)
	}
}

// stalenessJSON is the data of the event "stale".
type stalenessJSON struct {
	Stale   bool   `json:"stale"`
	Seconds int    `json:"seconds,omitempty"` // as in the header
	Backend string `json:"backend,omitempty"` // what the server is cut off from
}

// staleness puts into words that the registry is stale, or no longer is. It is an
// event without an id, so that a client resumes after the last change.
func (s *Server) staleness(stale bool) []byte {
	d := stalenessJSON{Stale: stale}
	if stale {
		since, _ := s.registry.Stale()
		d.Seconds, d.Backend = int(since/time.Second), s.cfg.Backend
	}
	b, err := json.Marshal(d)
	if err != nil {
		panic("httpapi: internal error: encode an event: " + err.Error())
	}
	return append(append([]byte("event: stale\ndata: "), b...), "\n\n"...)
}
