package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// switchable is an HTTP server that a test can make fail, hang and stop.
type switchable struct {
	addr   string
	server *http.Server
	mode   atomic.Pointer[string]
	end    chan struct{}
}

func startSwitchable(t *testing.T) *switchable {
	t.Helper()
	s := &switchable{addr: "127.0.0.1:0", end: make(chan struct{})}
	t.Cleanup(func() {
		close(s.end)
		s.server.Close()
	})
	s.start(t)
	return s
}

func (s *switchable) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.be("well")
	s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch *s.mode.Load() {
		case "failing":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "hanging":
			select {
			case <-s.end:
			case <-r.Context().Done():
			}
		case "elsewhere":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}
	})}
	server := s.server
	go func() { _ = server.Serve(l) }()
}

func (s *switchable) be(mode string) { s.mode.Store(&mode) }

// status returns the status of an instance of web, "gone" where it is none.
func (r *roster) status(t *testing.T, id string) string {
	t.Helper()
	status, b, err := r.call(http.MethodGet, "/v1/services/web/instances/"+id, "")
	if status == http.StatusNotFound {
		return "gone"
	}
	var i struct{ Status string }
	if err != nil || json.Unmarshal(b, &i) != nil {
		t.Fatalf("look at %s: %d %s %v", id, status, b, err)
	}
	return i.Status
}

// inDNS reports whether the service's answer has the address.
func (r *roster) inDNS(t *testing.T, address string) bool {
	t.Helper()
	addrs, _, err := addresses(r.dns, "web.service.")
	if err != nil {
		t.Fatalf("ask for web: %v", err)
	}
	return slices.Contains(addrs, address)
}

// A server with a check is in DNS while it answers well: it is made to fail, to
// hang, to redirect and to stop, and recovers each time, over a kill -9 of
// roster too.
func TestCheckFollowsTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRoster(t, dir)
	s := startSwitchable(t)
	_, port, _ := net.SplitHostPort(s.addr)
	r.register(t, "web", "stays", `{"address":"10.0.0.1","permanent":true}`)
	r.register(t, "web", "a1", fmt.Sprintf(
		`{"address":"127.0.0.1","port":%s,"permanent":true,"check":{"type":"http","path":"/healthz","interval":1,"timeout":0.5,"fall":2}}`, port))
	becomes := func(status string) {
		t.Helper()
		until(t, 30*time.Second, "a1 is "+status, func() bool { return r.status(t, "a1") == status })
		if got := r.inDNS(t, "127.0.0.1"); got != (status == "up") {
			t.Errorf("a1 is %s; in DNS: %v", status, got)
		}
		// Its own name answers whatever its status.
		if addrs, _, err := addresses(r.dns, "a1.web.service."); err != nil || !slices.Equal(addrs, []string{"127.0.0.1"}) {
			t.Errorf("a1 is %s; its own name: %q, %v", status, addrs, err)
		}
	}
	becomes("up")
	for _, mode := range []string{"failing", "hanging", "elsewhere"} {
		s.be(mode)
		becomes("down")
		s.be("well")
		becomes("up")
	}
	s.server.Close()
	becomes("down")

	_ = r.end(t, syscall.SIGKILL, 10*time.Second)
	r = startRoster(t, dir)
	if got := r.status(t, "a1"); got != "down" {
		t.Errorf("after the restart a1 is %s, want down, as it was", got)
	}
	s.start(t)
	becomes("up")
	r.stop(t)
}

// What the seed's API registers is in DNS at once, and leaves when nobody
// listens there; over a restart too.
func TestSeedRegistrationLeaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRoster(t, dir)
	s := startSwitchable(t)
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("127.0.0.2 is not this host's: %v", err)
	}
	dead := l.Addr().String()
	l.Close() // nobody is there
	seed := func(address, more string) {
		t.Helper()
		if status, b, err := r.call(http.MethodPost, "/register", fmt.Sprintf(`{"serviceName":"web","serviceAddress":%q%s}`, address, more)); status != http.StatusOK {
			t.Fatalf("register %s: %d %s %v", address, status, b, err)
		}
	}
	begin := time.Now()
	seed(dead, "")
	seed(s.addr, "")
	seed("127.0.0.3", "")
	seed("127.0.0.4:9", `,"ttl":86400`)
	if !r.inDNS(t, "127.0.0.2") {
		t.Error("it is not in DNS at once")
	}
	r.stop(t)
	r = startRoster(t, dir)
	until(t, time.Minute, "the dead one has left", func() bool { return !r.inDNS(t, "127.0.0.2") })
	if after := time.Since(begin); after < 18*time.Second {
		t.Errorf("it left after %v, too early for three probes 10 s apart", after)
	}
	for _, address := range []string{"127.0.0.1", "127.0.0.3", "127.0.0.4"} {
		if !r.inDNS(t, address) {
			t.Errorf("%s has left as well", address)
		}
	}
	r.stop(t)
}
