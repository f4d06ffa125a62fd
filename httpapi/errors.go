package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/rosterdns/roster/store"
)

// problem is an error with an HTTP status of its own. It is written as a
// problem document (RFC 9457).
type problem struct {
	status int
	detail string
}

func (p *problem) Error() string { return p.detail }

func problemf(status int, format string, args ...any) error {
	return &problem{status, fmt.Sprintf(format, args...)}
}

// problemDocument is the wire form. Type is left out: about:blank, the status
// says it all.
type problemDocument struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"` // the field that is wrong
}

// documentOf is the one table from errors to statuses.
func documentOf(err error) problemDocument {
	d := problemDocument{Status: http.StatusInternalServerError, Detail: err.Error()}
	var (
		own      *problem
		invalid  *store.InvalidError
		conflict *store.ConflictError
		tooLarge *http.MaxBytesError
	)
	switch {
	case errors.As(err, &own):
		d.Status = own.status
	case errors.As(err, &invalid):
		d.Status, d.Field = http.StatusBadRequest, invalid.Field
	case errors.As(err, &conflict), errors.Is(err, store.ErrDraining):
		d.Status = http.StatusConflict
	case errors.As(err, &tooLarge):
		d.Status = http.StatusRequestEntityTooLarge
		d.Detail = fmt.Sprintf("the body is over %d octets; send a smaller one", tooLarge.Limit)
	case errors.Is(err, store.ErrNotFound):
		d.Status = http.StatusNotFound
	case errors.Is(err, store.ErrExists):
		d.Status, d.Detail = http.StatusPreconditionFailed, err.Error()+": leave out If-None-Match to replace it"
	case errors.Is(err, store.ErrUnconfirmed):
		d.Status, d.Detail = http.StatusServiceUnavailable, err.Error()+"; it may have happened or not: try again, here or at another server"
	case errors.Is(err, store.ErrCutOff):
		d.Status, d.Detail = http.StatusServiceUnavailable, err.Error()+"; nothing was changed: send it to another server, or try again"
	case errors.Is(err, store.ErrNotDurable), errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrBusy):
		d.Status, d.Detail = http.StatusServiceUnavailable, err.Error()+"; nothing was changed: try again"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		d.Status, d.Detail = http.StatusServiceUnavailable, "the request ended before its change could begin: try again"
	}
	d.Title = http.StatusText(d.Status)
	return d
}

// writeProblem writes an error, and returns its status.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) (status int) {
	d := documentOf(err)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if d.Status == http.StatusServiceUnavailable || d.Status == http.StatusTooManyRequests && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(d.Status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(d) // a client that has gone cannot be told
	}
	return d.Status
}

// writeJSON writes a reply. Errors of the connection are nobody's to handle.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the reply: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return ignoreGone(err)
}

// ignoreGone drops the error of writing to a client: it has gone, and nobody
// is left to tell.
func ignoreGone(error) error { return nil }
