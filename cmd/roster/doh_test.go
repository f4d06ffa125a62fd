package main

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
)

// What RFC 8484 says of methods, media types, sizes and caches.
func TestDNSOverHTTPS(t *testing.T) {
	r, err := store.Open(t.Context(), store.NewMemory(), store.Config{Derive: dnsserver.Compile("service.")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := &store.Instance{Service: "web", ID: "a1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Port: 80}
	if _, err := r.Register(t.Context(), in, false); err != nil {
		t.Fatal(err)
	}
	d, err := dnsserver.New(dnsserver.Config{Registry: r, MaxTTL: 20, NegativeTTL: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	web := httptest.NewServer(dnsOverHTTPS{d})
	defer web.Close()
	q := new(dns.Msg).SetQuestion("web.service.", dns.TypeA)
	q.Id = 0 // section 4.1: the same query is the same URL
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	response := new(dns.Msg).SetReply(q)
	r64 := base64.RawURLEncoding.EncodeToString
	packed, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method, query, kind, body string
		status                    int
	}{
		"GET":            {"GET", "?dns=" + r64(b), "", "", 200},
		"GET, padded":    {"GET", "?dns=" + r64(b) + "==", "", "", 200},
		"POST":           {"POST", "", "application/dns-message", string(b), 200},
		"HEAD":           {"HEAD", "?dns=" + r64(b), "", "", 200},
		"no query":       {"GET", "", "", "", 400},
		"no base64":      {"GET", "?dns=!!", "", "", 400},
		"no message":     {"POST", "", "application/dns-message", "hello", 400},
		"a response":     {"POST", "", "application/dns-message", string(packed), 400},
		"JSON":           {"POST", "", "application/json", "{}", 415},
		"no type":        {"POST", "", "", string(b), 415},
		"too large":      {"POST", "", "application/dns-message", strings.Repeat("x", 65536), 413},
		"another method": {"PUT", "", "application/dns-message", string(b), 405},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, web.URL+"/dns-query"+c.query, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", c.kind)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("status %d, want %d: %s, %v", resp.StatusCode, c.status, got, err)
			}
			if c.status != 200 || c.method == "HEAD" {
				return
			}
			var m dns.Msg
			if err := m.Unpack(got); err != nil || len(m.Answer) != 1 || m.Id != 0 {
				t.Errorf("answered %v, %v", &m, err)
			}
			if resp.Header.Get("Content-Type") != "application/dns-message" || resp.Header.Get("Cache-Control") != "max-age=20" {
				t.Errorf("the headers are %v", resp.Header)
			}
		})
	}
}
