package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// This file is what every request passes first and last: it gets an ID, and at
// debug level a line in the log.

const requestIDHeader = "X-Request-Id"

// access gives each response the request's ID, takes a token out of the URL
// before anybody can print that, and logs the request where the log is at
// debug level.
func (s *Server) access(next http.Handler) http.Handler {
	ids := newRequestIDs()
	leveled, _ := s.cfg.Log.(interface{ IsLevelEnabled(level logrus.Level) bool })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = withoutToken(r)
		id := r.Header[requestIDHeader]
		if len(id) != 1 || !sane(id[0]) {
			id = []string{ids.next()}
		}
		w.Header()[requestIDHeader] = id
		if s.retiring.Load() {
			w.Header().Set("Connection", "close")
		}
		if leveled == nil || !leveled.IsLevelEnabled(logrus.DebugLevel) {
			next.ServeHTTP(w, r)
			return
		}
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		defer rec.log(s.cfg.Log, r, id[0], time.Now())
		next.ServeHTTP(rec, r)
	})
}

// sane reports whether a request's ID may come from the client: it goes into
// the log and back to the client.
func sane(id string) bool {
	const most = 128
	for k := range len(id) {
		switch c := id[k]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.:/+=~", c) >= 0:
		default:
			return false
		}
	}
	return id != "" && len(id) <= most
}

// requestIDs makes IDs that are this process's, and count up.
type requestIDs struct {
	process string
	n       atomic.Uint64
}

func newRequestIDs() *requestIDs {
	var b [5]byte
	rand.Read(b[:])
	return &requestIDs{process: hex.EncodeToString(b[:]) + "-"}
}

func (i *requestIDs) next() string {
	var b [32]byte
	return string(strconv.AppendUint(append(b[:0], i.process...), i.n.Add(1), 10))
}

// recorder notes what the access log says of a response.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	caller string // the name of its grant
}

// note tells the access log who the caller is, through whatever is wrapped
// around its recorder.
func note(w http.ResponseWriter, g *Grant) {
	for w != nil {
		switch at := w.(type) {
		case *recorder:
			at.caller = g.Name
			return
		case interface{ Unwrap() http.ResponseWriter }:
			w = at.Unwrap()
		default:
			return
		}
	}
}

// WriteHeader implements [http.ResponseWriter].
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Flush implements [http.Flusher].
func (r *recorder) Flush() {
	_ = http.NewResponseController(r.ResponseWriter).Flush() // a client that has gone cannot be told
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) log(log logrus.FieldLogger, req *http.Request, id string, begin time.Time) {
	fields := logrus.Fields{
		"method":   req.Method,
		"path":     req.URL.RequestURI(),
		"status":   r.status,
		"duration": time.Since(begin).String(),
		"bytes":    r.bytes,
		"peer":     req.RemoteAddr,
		"request":  id,
	}
	if r.caller != "" {
		fields["token"] = r.caller
	}
	log.WithFields(fields).Debug("request")
}

// connectionLog takes what net/http has to say of connections, which is mostly
// that a client gave up in the middle of TLS.
type connectionLog struct{ log logrus.FieldLogger }

// Write implements [io.Writer].
func (c connectionLog) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	if strings.Contains(line, "TLS handshake error") {
		c.log.Debug(line)
	} else {
		c.log.Warn(line)
	}
	return len(b), nil
}
