package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// This file keeps pages from elsewhere from a server that trusts everybody on
// its host. To a browser a page is of the server's origin when its own name has
// come to lead to 127.0.0.1 meanwhile (DNS rebinding); but the browser then says
// that name as the request's host.

// ownNames refuses requests to other names than a loopback address has, where
// the server listens on one and asks for no rights.
func (s *Server) ownNames(next http.Handler) http.Handler {
	if s.cfg.Rights != nil || !s.onLoopback() {
		return next
	}
	refused := s.counted(elsewhere, handlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		return problemf(http.StatusForbidden, "this server takes requests from its own host only, and not to the name %q, with which a page "+
			"from elsewhere could reach it: ask for its IP address or localhost (a proxy in front: send that as Host), or give it --tokens", r.Host)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// DNS is for everybody, whichever way it comes.
		if !isOwnName(r.Host) && r.URL.Path != "/dns-query" {
			refused.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) onLoopback() bool {
	if s.listener == nil {
		return false
	}
	a, ok := s.listener.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// isOwnName reports whether a Host field is one that no name server has a say
// in: an IP address, localhost or a name below it (RFC 6761, 6.3), or none,
// which no browser sends. Each heartbeat comes by here, so it does not
// allocate.
func isOwnName(host string) bool {
	const local = ".localhost"
	name := host
	if k := strings.LastIndexByte(host, ':'); k > strings.LastIndexByte(host, ']') {
		name = host[:k]
	}
	name = strings.TrimSuffix(name, ".")
	if host == "" || strings.EqualFold(name, local[1:]) {
		return true
	}
	if k := len(name) - len(local); k > 0 && strings.EqualFold(name[k:], local) {
		return true
	}
	if inside, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(inside, "]")
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}
