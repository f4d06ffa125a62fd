package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrNotFound is what an [*Error] with status 404 is: nothing is registered
// there.
var ErrNotFound = errors.New("not registered")

// ErrServer says that an entry of [Client.Servers] is no URL of a server.
var ErrServer = errors.New("no URL of a server")

// ErrUnreadable says that a reply is not what roster answers: the server is
// another one, or a later one.
var ErrUnreadable = errors.New("the reply is not what roster answers")

// Error is an answer of a server that is no success, a problem document (RFC
// 9457).
type Error struct {
	Status     int           // the HTTP status
	Detail     string        // what is wrong, and what to change
	Field      string        // the field that is wrong; "" where it is none
	RetryAfter time.Duration // when to try again; 0 where the server did not say

	header http.Header // of the answer
}

// Error implements error: the detail, and the status.
func (e *Error) Error() string {
	return fmt.Sprintf("%s (%d %s)", e.Detail, e.Status, http.StatusText(e.Status))
}

// Is makes an error with status 404 an [ErrNotFound].
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// Temporary reports whether the same request may succeed later: the server is
// in trouble, or asks for patience. What is not temporary needs another
// request, token or server.
func (e *Error) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// elsewhere reports whether another server may do better at once.
func (e *Error) elsewhere() bool { return e.Status >= 500 }

// maxProblem bounds the body of an error.
const maxProblem = 64 << 10

// readError reads the reply to req that is no success.
func readError(req *http.Request, resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode, header: resp.Header}
	var document struct{ Title, Detail, Field string }
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err == nil && json.Unmarshal(b, &document) == nil {
		e.Detail, e.Field = cmp.Or(document.Detail, document.Title), document.Field
	}
	if e.Detail == "" {
		e.Detail = fmt.Sprintf("%s %s gave no reason", req.Method, req.URL.Redacted())
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(n) * time.Second
	}
	return e
}

// UnreachableError says that none of the servers answered. It wraps the
// reasons.
type UnreachableError struct {
	Servers []string // their URLs, without passwords
	Reasons []error  // why not, one for each server
}

func (e *UnreachableError) add(server string, err error) {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // which is without the URL
	}
	e.Servers, e.Reasons = append(e.Servers, server), append(e.Reasons, err)
}

// Error implements error.
func (e *UnreachableError) Error() string {
	var list []string
	for k, s := range e.Servers {
		list = append(list, fmt.Sprintf("%s (%v)", s, e.Reasons[k]))
	}
	return "no server answers: " + strings.Join(list, ", ")
}

// Unwrap returns the reasons.
func (e *UnreachableError) Unwrap() []error { return e.Reasons }

// IsFinal reports whether an error is one that no retry can help, since
// something has to be changed first: an [*Error] that is not Temporary, an
// [ErrServer] or an [ErrUnreadable].
func IsFinal(err error) bool {
	var e *Error
	return errors.As(err, &e) && !e.Temporary() || errors.Is(err, ErrServer) || errors.Is(err, ErrUnreadable)
}
