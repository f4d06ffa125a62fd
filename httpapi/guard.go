package httpapi

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/sirupsen/logrus"
)

// This file holds requests to the rights of who sends them. What those are is
// rights.go's business.

// grantKey is where a request's context has its caller's grant.
type grantKey struct{}

// everything is the grant of everybody where no rights are configured, nothing
// that of a request which never came by guard.
var (
	everything = &Grant{Actions: Read | Register}
	nothing    = &Grant{Name: "an unguarded request"}
)

// grant returns what the request's caller may do. A handler of a path that
// names no service asks it about each service that it shows or changes.
func (s *Server) grant(r *http.Request) *Grant {
	if s.cfg.Rights == nil {
		return everything
	}
	if g, ok := r.Context().Value(grantKey{}).(*Grant); ok {
		return g
	}
	return nothing
}

// unguarded are the paths that need no token.
var unguarded = map[string]bool{"/healthz": true, "/readyz": true, "/openapi.yaml": true, "/ui": true, "/ui/": true, "/ui/{file}": true}

// guard lets only those through to a path's handlers who may do what they ask
// for: reading for GET, registering for all else; to the service that the path
// names, or to any service at all. Without rights it costs nothing.
func (s *Server) guard(path string, m methods) methods {
	if s.cfg.Rights == nil || unguarded[path] {
		return m
	}
	guarded := methods{}
	for method, f := range m {
		action := Register
		if method == http.MethodGet {
			action = Read
		}
		guarded[method] = func(w http.ResponseWriter, r *http.Request) error {
			service := ""
			if _, ok := mux.Vars(r)["service"]; ok {
				var err error
				if service, err = pathVar(r, "service"); err != nil {
					return err
				}
			}
			g, err := s.admit(w, r, action, service)
			if err != nil {
				return err
			}
			if action == Read {
				w.Header().Set("Cache-Control", "private") // another caller may see less
			}
			return f(w, r.WithContext(context.WithValue(r.Context(), grantKey{}, g)))
		}
	}
	return guarded
}

// admit returns the grant of the request's caller, or the error for one who
// may not do the action to the service; "" is any service at all.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, a Action, service string) (*Grant, error) {
	if s.cfg.Rights == nil {
		return everything, nil
	}
	rights := s.cfg.Rights()
	g, ok := rights.For(tokenOf(r), certificateOf(r))
	if !ok {
		return nil, s.unknownToken(w, r)
	}
	if g == rights.anonymous && !g.May(a, service) {
		return nil, unauthorized(w, "this needs the right %q: %s", a, howToGetIn(rights))
	}
	note(w, g)
	return g, g.check(a, service)
}

func howToGetIn(r *Rights) string {
	const byToken, byCertificate = "send a token as Authorization: Bearer TOKEN", "present a client certificate"
	switch {
	case r.cfg.Certificates && r.Len() == 0:
		return byCertificate
	case r.cfg.Certificates:
		return byToken + ", or " + byCertificate
	}
	return byToken
}

// unauthorized is the error for a caller who is not known.
func unauthorized(w http.ResponseWriter, format string, args ...any) error {
	w.Header().Set("WWW-Authenticate", "Bearer")
	return problemf(http.StatusUnauthorized, format, args...)
}

// unknownToken is the error for a token that is not in the tokens file, and
// for one too many of them.
func (s *Server) unknownToken(w http.ResponseWriter, r *http.Request) error {
	peer, _ := peerAddr(r) // those without one share a count
	wait, first := s.attempts.fail(peer, s.registry.Age())
	if wait == 0 {
		return unauthorized(w, "this token is not known here, or no longer; send one that the server's tokens file has the hash of")
	}
	if first {
		s.cfg.Log.WithFields(logrus.Fields{"peer": peer.String()}).
			Warn("too many unknown tokens from this address: more of them get 429 for a while; known ones go on working")
	}
	seconds := strconv.Itoa(int((wait + time.Second - 1) / time.Second))
	w.Header().Set("Retry-After", seconds)
	return problemf(http.StatusTooManyRequests, "too many unknown tokens came from %s; wait %s s, or send one that is known", peer, seconds)
}

// certificateOf returns the client's certificate, if one was verified.
func certificateOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}

// tokenHeader is where Consul's clients have their token, and where
// withoutToken puts one from the URL.
const tokenHeader = "X-Consul-Token"

// tokenOf returns the request's token, "" for none.
func tokenOf(r *http.Request) string {
	if t := r.Header.Get(tokenHeader); t != "" {
		return t
	}
	scheme, t, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(t)
}

// withoutToken returns the request with a token in its URL moved to a header,
// before anybody can print the URL. One in the URL comes first, as in Consul.
func withoutToken(r *http.Request) *http.Request {
	if r.URL.RawQuery == "" {
		return r
	}
	query, token, found := cutToken(r.URL.RawQuery)
	if !found {
		return r
	}
	r = r.Clone(r.Context())
	r.URL.RawQuery = query
	r.RequestURI = r.URL.RequestURI()
	if token != "" {
		r.Header.Set(tokenHeader, token)
	}
	return r
}

// cutToken takes each parameter named token out of a query, however it is
// spelt, and returns the first.
func cutToken(query string) (rest, token string, found bool) {
	var kept []string
	for part := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		name, value, _ := strings.Cut(part, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil {
			plain = name
		}
		isToken := strings.EqualFold(plain, "token") || err != nil && strings.Contains(strings.ToLower(name), "token")
		if !isToken {
			kept = append(kept, part)
			continue
		}
		if v, err := url.QueryUnescape(value); err == nil && !found {
			token = v
		}
		found = true
	}
	if !found {
		return query, "", false
	}
	return strings.Join(kept, "&"), token, true
}
