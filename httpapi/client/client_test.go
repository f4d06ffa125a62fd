package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// Everything that can be said of an instance arrives, and comes back.
func TestRegister(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	zero, some := uint16(0), uint16(7)
	in := client.Registration{
		Service: "web", ID: "a1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
		Port:      8080, Ports: map[string]uint16{"metrics": 9090}, Protocol: "udp",
		Priority: &zero, Weight: &some, TTL: 20, Tags: []string{"eu", "v2"}, Meta: map[string]string{"build": "1"},
		Check: &client.Check{Type: "http", Path: "/healthz"},
	}
	i, err := c.Register(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(i.Expires); left < 15*time.Second || left > 20*time.Second || i.Revision == 0 {
		t.Errorf("it expires in %v, at revision %d", left, i.Revision)
	}
	want := client.Instance{
		Service: "web", ID: "a1", Addresses: in.Addresses, Port: 8080, Ports: in.Ports, Protocol: "udp",
		Weight: 7, TTL: 20, Tags: in.Tags, Meta: in.Meta,
		Check:  &client.Check{Type: "http", Path: "/healthz", Interval: 10, Timeout: 2, Port: 8080, Rise: 1, Fall: 3},
		Status: client.Starting, DNSName: "a1.web.service.", Expires: i.Expires, Revision: i.Revision,
	}
	if !reflect.DeepEqual(i, want) {
		t.Errorf("got  %+v\nwant %+v", i, want)
	}
	got, err := c.Instance(t.Context(), "web", "a1")
	if d := got.Expires.Sub(want.Expires).Abs(); d > time.Millisecond {
		t.Errorf("it expires %v apart", d)
	}
	got.Expires = want.Expires // from one clock to the other it takes a moment
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}

	// Left out, the server decides.
	i, err = c.Register(t.Context(), client.Registration{Service: "web", Port: 80, Permanent: true})
	if err != nil || i.ID == "" || i.Priority != 10 || i.Weight != 10 || !i.Permanent || !i.Expires.IsZero() || len(i.Warnings) == 0 {
		t.Errorf("got %+v, %v", i, err)
	}
	l, err := c.Heartbeat(t.Context(), "web", "a1", client.Beat{TTL: 60, Weight: &zero, Status: client.Down})
	if err != nil || l.TTL != 60 || *l.Weight != 0 || time.Until(l.Expires) < 55*time.Second {
		t.Errorf("heartbeat: %+v, %v", l, err)
	}
	services, err := c.Services(t.Context(), client.Query{})
	if want := []client.Service{{Name: "web", Instances: 2, Up: 1, Down: 1, Tags: []string{"eu", "v2"}}}; err != nil || !reflect.DeepEqual(services.Services, want) {
		t.Errorf("services: %+v, %v", services, err)
	}
	list, err := c.Instances(t.Context(), "web", client.Query{Tags: []string{"v2"}, Status: client.Down})
	if err != nil || len(list.Instances) != 1 || list.Service != "web" {
		t.Errorf("instances: %+v, %v", list, err)
	}
	if list, err = c.Instances(t.Context(), "none", client.Query{Wait: time.Millisecond}); err != nil || len(list.Instances) != 0 {
		t.Errorf("a wait for nobody: %+v, %v", list, err)
	}
	if r, err := c.Deregister(t.Context(), "web", "a1"); err != nil || r.Revision <= i.Revision || r.SafeAfter.IsZero() {
		t.Errorf("deregister: %+v, %v", r, err)
	}
}

// An ID may have anything in it that the server takes.
func TestOddIDs(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	for _, id := range []string{"..", ".", "a/b", "a%2fb", "a?b#c", "A;b=1", "http://x:80/", "heartbeat", "~+&"} {
		i, err := c.Register(t.Context(), client.Registration{Service: "Web", ID: id, Port: 80})
		if err != nil || i.ID != id || i.Service != "web" {
			t.Errorf("register %s: %+v, %v", id, i, err)
			continue
		}
		if _, err := c.Heartbeat(t.Context(), "web", id, client.Beat{}); err != nil {
			t.Errorf("heartbeat: %v", err)
		}
		if _, err := c.Instance(t.Context(), "web", id); err != nil {
			t.Error(err)
		}
		if _, err := c.Drain(t.Context(), "web", id); err != nil {
			t.Error(err)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	_, err := c.Register(t.Context(), client.Registration{Service: "web", ID: "a b"})
	var e *client.Error
	if !errors.As(err, &e) || e.Status != 400 || e.Field != "id" || !strings.HasPrefix(err.Error(), "register web/a b: id: ") || !strings.HasSuffix(err.Error(), " (400 Bad Request)") {
		t.Errorf("got %v, %+v", err, e)
	}
	if e.Temporary() || errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v is temporary, or not found", err)
	}
	for what, call := range map[string]func() error{
		"send a heartbeat for web/a1": func() error { _, err := c.Heartbeat(t.Context(), "web", "a1", client.Beat{}); return err },
		"deregister web/a1":           func() error { _, err := c.Deregister(t.Context(), "web", "a1"); return err },
		"drain web/a1":                func() error { _, err := c.Drain(t.Context(), "web", "a1"); return err },
		"get web/a1":                  func() error { _, err := c.Instance(t.Context(), "web", "a1"); return err },
		"list the instances of web":   func() error { _, err := c.Instances(t.Context(), "web", client.Query{}); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrNotFound) || !strings.HasPrefix(err.Error(), what+": ") {
			t.Errorf("%s: %v", what, err)
		}
	}

	gone := httptest.NewServer(nil)
	gone.Close()
	var u *client.UnreachableError
	_, err = (&client.Client{Servers: []string{gone.URL}}).Services(t.Context(), client.Query{})
	if !errors.As(err, &u) || len(u.Reasons) != 1 || !strings.Contains(err.Error(), "no server answers: "+gone.URL+" (dial tcp") {
		t.Errorf("nobody there: %v", err)
	}
	for _, s := range []string{"", "ftp://x", "http://", "http://x?y", "a b"} {
		if _, err := (&client.Client{Servers: []string{s}}).Services(t.Context(), client.Query{}); !errors.Is(err, client.ErrServer) {
			t.Errorf("server %q: %v", s, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := c.Services(ctx, client.Query{}); !errors.Is(err, why) {
		t.Errorf("a context that is done: %v", err)
	}

	// Something else that speaks HTTP.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) }))
	t.Cleanup(other.Close)
	if _, err := (&client.Client{Servers: []string{other.URL}}).Services(t.Context(), client.Query{}); err == nil || !strings.Contains(err.Error(), "the reply is not what roster answers") {
		t.Errorf("no roster server: %v", err)
	}
}

// A server that is in trouble, or not there, is passed over, and the one that
// answered is asked first from then on.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	url, _ := serve(t, r, "")
	asked := 0
	trouble := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(trouble.Close)
	c := &client.Client{Servers: []string{trouble.URL, "127.0.0.1:1", url}}
	for range 3 {
		if _, err := c.Services(t.Context(), client.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("the server in trouble was asked %d times, want once", asked)
	}
	c = &client.Client{Servers: []string{trouble.URL, "127.0.0.1:1"}}
	var e *client.Error
	if _, err := c.Services(t.Context(), client.Query{}); !errors.As(err, &e) || e.Status != 503 || !e.Temporary() {
		t.Errorf("got %v, want what the server said that said anything", err)
	}
}

// The token and the transport of the caller are used.
func TestTokenAndTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnauthorized)
			w.Write([]byte(`{"title":"Unauthorized","status":401,"detail":"a token is needed"}`))
			return
		}
		w.Write([]byte(`{"revision":1,"services":[]}`))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if _, err := (&client.Client{Servers: []string{s.URL}, Token: "secret", HTTP: h}).Services(t.Context(), client.Query{}); err != nil {
		t.Error(err)
	}
	if _, err := (&client.Client{Servers: []string{s.URL}, HTTP: h}).Services(t.Context(), client.Query{}); err == nil || !strings.Contains(err.Error(), "a token is needed (401 Unauthorized)") {
		t.Errorf("without a token: %v", err)
	}
	if _, err := (&client.Client{Servers: []string{s.URL}, Token: "secret"}).Services(t.Context(), client.Query{}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("an unknown authority: %v", err)
	}
}

// A wrong clock here makes nobody stop too early, and a right one not late.
func TestUntilSafe(t *testing.T) {
	t.Parallel()
	server := time.Date(2026, 11, 24, 12, 0, 0, 700e6, time.UTC)
	at, date := server.Add(5*time.Second), server.Format(http.TimeFormat)
	for skew, want := range map[time.Duration]time.Duration{
		0:                      5 * time.Second,
		500 * time.Millisecond: 4500 * time.Millisecond, // or the reply was late
		-time.Hour:             5700 * time.Millisecond,
		time.Hour:              5700 * time.Millisecond,
		-10 * time.Second:      5700 * time.Millisecond,
		3 * time.Second:        5700 * time.Millisecond,
	} {
		if got := client.UntilSafe(at, server.Add(skew), date); got != want {
			t.Errorf("with a clock %v ahead it waits %v, want %v", skew, got, want)
		}
	}
	if got := client.UntilSafe(at, server, ""); got != 5*time.Second {
		t.Errorf("without a Date it waits %v", got)
	}
	if got := client.UntilSafe(server.Add(-time.Second), server, date); got != 0 {
		t.Errorf("for what is over it waits %v", got)
	}
}
