package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strings"

	"github.com/rosterdns/roster/dnsserver"
)

// dnsOverHTTPS answers /dns-query (RFC 8484).
type dnsOverHTTPS struct{ server *dnsserver.Server }

// dnsOverHTTPS returns what answers /dns-query at the HTTP address, nil where
// that is neither encrypted nor on this host only.
func (f *serveFlags) dnsOverHTTPS(d *dnsserver.Server) http.Handler {
	if f.tlsCert == "" && !isLoopback(f.http) {
		return nil
	}
	return dnsOverHTTPS{d}
}

const (
	dnsMessage = "application/dns-message"
	maxMessage = 65535
)

// ServeHTTP implements [http.Handler].
func (h dnsOverHTTPS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, status, err := readQuery(w, r)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "the client has no address", http.StatusBadRequest)
		return
	}
	response, ttl := h.server.ExchangeHTTPS(query, peer.Addr().Unmap())
	if response == nil {
		http.Error(w, "this is no DNS query", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", dnsMessage)
	w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", ttl)) // section 5.1
	_, _ = w.Write(response)
}

// readQuery takes the query from the request, or says with which status it is
// refused.
func readQuery(w http.ResponseWriter, r *http.Request) (query []byte, status int, err error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		text := r.URL.Query().Get("dns")
		if text == "" {
			return nil, http.StatusBadRequest, fmt.Errorf("?dns= has the query, in base64url")
		}
		query, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return nil, http.StatusBadRequest, fmt.Errorf("?dns= is no base64url: %w", err)
		}
		return query, 0, nil
	case http.MethodPost:
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != dnsMessage {
			return nil, http.StatusUnsupportedMediaType, fmt.Errorf("the body has to be %s", dnsMessage)
		}
		query, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
		if err != nil {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("read the query, which has at most %d octets: %w", maxMessage, err)
		}
		return query, 0, nil
	}
	w.Header().Set("Allow", "GET, HEAD, POST")
	return nil, http.StatusMethodNotAllowed, fmt.Errorf("DNS queries come by GET or POST")
}
