package check_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/rosterdns/roster/httpapi/check"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// at returns an instance with a check, at a listener's address.
func at(t *testing.T, a net.Addr, kind store.CheckType) *store.Instance {
	t.Helper()
	ap := netip.MustParseAddrPort(a.String())
	i := storetest.Instance("web", "a1")
	i.Addresses, i.Port = []netip.Addr{ap.Addr()}, ap.Port()
	i.Check = storetest.Check(kind)
	return i
}

// ask probes the instance once, for up to the timeout.
func ask(t *testing.T, i *store.Instance, timeout time.Duration) error {
	t.Helper()
	i.Check.Timeout = timeout
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return check.Probe(ctx, i)
}

// passes and fails probe with time to spare, hangs with a short timeout.
func passes(t *testing.T, i *store.Instance) {
	t.Helper()
	if err := ask(t, i, time.Minute); err != nil {
		t.Errorf("%v", err)
	}
}

func fails(t *testing.T, i *store.Instance, want string) {
	t.Helper()
	err := ask(t, i, time.Minute)
	if err == nil || errors.Is(err, check.ErrOurs) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want a failure with %q", err, want)
	}
}

func hangs(t *testing.T, i *store.Instance) {
	t.Helper()
	begin := time.Now()
	err := ask(t, i, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("got %v, want no answer", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a timeout of 50 ms took %v", took)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// again listens where l did.
func again(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Skipf("the port was taken in between: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// raw answers each connection with the octets, once something was read, and
// holds it open until the test's end.
func raw(t *testing.T, answer string) net.Addr {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				_, _ = c.Read(make([]byte, 1024))
				_, _ = c.Write([]byte(answer))
			}()
		}
	}()
	return l.Addr()
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l := listen(t)
	i := at(t, l.Addr(), store.CheckTCP)
	passes(t, i) // also where nobody accepts: the kernel does
	l.Close()
	fails(t, i, "tcp "+l.Addr().String()+": connect: connection refused")
	again(t, l)
	passes(t, i)
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	var path atomic.Value
	status.Store(200)
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path.Store(r.Method + " " + r.URL.String() + " " + r.Host)
		if status.Load() == 0 {
			<-hang
			return
		}
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(s.Close)
	i := at(t, s.Listener.Addr(), store.CheckHTTP)
	i.Check.Path = "/healthz?full=1"
	passes(t, i)
	if got, want := path.Load(), "GET /healthz?full=1 "+s.Listener.Addr().String(); got != want {
		t.Errorf("it was asked %q, want %q", got, want)
	}
	for _, good := range []int32{204, 299} {
		status.Store(good)
		passes(t, i)
	}
	for _, bad := range []int32{304, 400, 404, 429, 500, 503} {
		status.Store(bad)
		fails(t, i, fmt.Sprintf("GET /healthz?full=1: status %d", bad))
	}
	status.Store(0)
	hangs(t, i)
	close(hang)
	status.Store(200)
	passes(t, i)
	s.Close()
	fails(t, i, "refused")
}

// The check's port, where it has one, and all of the instance's addresses.
func TestPortAndAddresses(t *testing.T) {
	t.Parallel()
	l := listen(t)
	i := at(t, l.Addr(), store.CheckTCP)
	i.Check.Port, i.Port = i.Port, 1
	passes(t, i)
	i.Addresses = append(i.Addresses, netip.MustParseAddr("127.0.0.2"))
	fails(t, i, "127.0.0.2:")
	// No route from here, as for IPv6 on many a host: it says nothing, so the
	// other address decides.
	unreachable := netip.MustParseAddr("2001:db8::1")
	alone := at(t, l.Addr(), store.CheckTCP)
	alone.Addresses = []netip.Addr{unreachable}
	if err := ask(t, alone, time.Second); !errors.Is(err, check.ErrOurs) {
		t.Skipf("this host has a route to %s: %v", unreachable, err)
	}
	i.Addresses[1] = unreachable
	passes(t, i)
}

// A redirect is followed on the same address and port, and nowhere else.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	var self string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/relative":
			http.Redirect(w, r, "ok/", http.StatusMovedPermanently)
		case "/absolute":
			http.Redirect(w, r, self+"/relative", http.StatusTemporaryRedirect)
		case "/slashes":
			w.Header().Set("Location", "//"+strings.TrimPrefix(self, "http://")+"/ok/")
			w.WriteHeader(http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/elsewhere":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "/name":
			http.Redirect(w, r, "http://localhost:"+r.Host[strings.LastIndex(r.Host, ":")+1:]+"/ok/", http.StatusFound)
		case "/tls":
			http.Redirect(w, r, strings.Replace(self, "http", "https", 1), http.StatusFound)
		case "/user":
			w.Header().Set("Location", "http://"+r.Host+"@"+strings.TrimPrefix(elsewhere.URL, "http://")+"/")
			w.WriteHeader(http.StatusFound)
		case "/broken":
			w.Header().Set("Location", "http://[::1")
			w.WriteHeader(http.StatusFound)
		case "/nowhere":
			w.WriteHeader(http.StatusFound)
		}
	}))
	t.Cleanup(s.Close)
	self = s.URL
	i := at(t, s.Listener.Addr(), store.CheckHTTP)
	for _, path := range []string{"/relative", "/absolute", "/slashes"} {
		i.Check.Path = path
		passes(t, i)
	}
	for path, want := range map[string]string{
		"/loop":      "over 3 redirects",
		"/elsewhere": "which is not this address and port",
		"/name":      "which is not this address and port",
		"/tls":       "which is not this address and port",
		"/user":      "which is not this address and port",
		"/broken":    "redirected: ",
		"/nowhere":   "status 302",
	} {
		i.Check.Path = path
		fails(t, i, want)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("another server was asked %d times", n)
	}
}

// Answers that are none, do not end, or are too long.
func TestHTTPOddAnswers(t *testing.T) {
	t.Parallel()
	i := func(answer string) *store.Instance { return at(t, raw(t, answer), store.CheckHTTP) }
	passes(t, i("HTTP/1.0 200\r\n\r\n"))
	passes(t, i("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
	passes(t, i("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nabc")) // the body is nobody's business
	fails(t, i("SSH-2.0-OpenSSH_10.0\r\n"), "read the answer: malformed HTTP")
	fails(t, i(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10)), "interim")
	fails(t, i("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 70<<10)), "read the answer: unexpected EOF")
	hangs(t, i("HTTP/1.1 200 OK\r\n"))
	hangs(t, i(""))
}

// The real health server of grpc-go.
func TestGRPC(t *testing.T) {
	t.Parallel()
	l := listen(t)
	serve := func(l net.Listener) (*grpc.Server, *health.Server) {
		s, h := grpc.NewServer(), health.NewServer()
		healthpb.RegisterHealthServer(s, h)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		return s, h
	}
	s, h := serve(l)
	i := at(t, l.Addr(), store.CheckGRPC)
	passes(t, i)
	for status, want := range map[healthpb.HealthCheckResponse_ServingStatus]string{
		healthpb.HealthCheckResponse_NOT_SERVING:     "says NOT_SERVING",
		healthpb.HealthCheckResponse_UNKNOWN:         "says UNKNOWN",
		healthpb.HealthCheckResponse_SERVICE_UNKNOWN: "says SERVICE_UNKNOWN",
		7: "says status 7",
	} {
		h.SetServingStatus("", status)
		fails(t, i, want)
	}
	h.Resume()
	passes(t, i)
	s.Stop()
	fails(t, i, "refused")

	// Without the health service, and with one that never answers.
	l = again(t, l)
	s = grpc.NewServer()
	go func() { _ = s.Serve(l) }()
	fails(t, i, `grpc-status "12"`)
	s.Stop()
	l = again(t, l)
	s = grpc.NewServer()
	healthpb.RegisterHealthServer(s, hanging{})
	go func() { _ = s.Serve(l) }()
	hangs(t, i)
	s.Stop()
	serve(again(t, l))
	passes(t, i)
}

// hanging is a health server that never answers.
type hanging struct {
	healthpb.UnimplementedHealthServer
}

func (hanging) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestGRPCOddAnswers(t *testing.T) {
	t.Parallel()
	i := func(answer string) *store.Instance { return at(t, raw(t, answer), store.CheckGRPC) }
	fails(t, i("HTTP/1.1 400 Bad Request\r\n\r\n"), "read the answer")
	fails(t, i(strings.Repeat("\x00", 70<<10)), "read the answer") // DATA on stream 0
	fails(t, i("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b"), "hangs up: ENHANCE_YOUR_CALM")
	goAway := func(last string) string {
		return "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00" + last + "\x00\x00\x00\x00"
	}
	fails(t, i(goAway("\x00")), "hangs up: NO_ERROR")
	hangs(t, i(goAway("\x01"))) // the call is still to be answered
	fails(t, i("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x07"), "breaks off the call: REFUSED_STREAM")
	fails(t, i(strings.Repeat("\x00\x04\x00\x00\x00\x00\x00\x00\x01"+strings.Repeat("x", 1024), 2)), "over 1024 octets")
	hangs(t, i("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	hangs(t, i(""))
}

func TestParseHealth(t *testing.T) {
	for b, want := range map[string]int{ // -1: none
		"":                                 0,
		"\x08\x01":                         1,
		"\x08\x02":                         2,
		"\x08\x80\x01":                     128,
		"\x08\x02\x08\x01":                 1, // the last counts
		"\x12\x03abc\x08\x01\x19ABCDEFGH":  1,
		"\x1dABCD\x08\x01":                 1,
		"\x18\x05\x08\x01":                 1,
		"\x08":                             -1,
		"\x08\x80":                         -1,
		"\x80":                             -1,
		"\x0b":                             -1,
		"\x12\x04abc":                      -1,
		"\x12\xff\xff\xff\xff\xff\xff\x7f": -1,
		"\x1dABC":                          -1,
	} {
		prefixed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b)))
		got, ok := check.ParseHealth(append(prefixed, b...))
		if ok != (want >= 0) || ok && int(got) != want {
			t.Errorf("%x: %d, %v; want %d", b, got, ok, want)
		}
	}
	for _, bad := range []string{"", "\x00\x00\x00\x00", "\x01\x00\x00\x00\x00", "\x00\x00\x00\x00\x01", "\x00\x00\x00\x00\x00\x08"} {
		if _, ok := check.ParseHealth([]byte(bad)); ok {
			t.Errorf("%x was taken", bad)
		}
	}
}

func FuzzParseHealth(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x08\x01"))
	f.Add([]byte("\x00\x00\x00\x00\x07\x12\x03abc\x08\x01"))
	f.Fuzz(func(_ *testing.T, b []byte) { check.ParseHealth(b) })
}

func TestAllow(t *testing.T) {
	for _, c := range []struct {
		allow      []string
		addr, peer string
		want       bool
	}{
		{nil, "10.1.2.3", "", true},
		{nil, "172.16.0.1", "192.0.2.1", true},
		{nil, "192.168.0.1", "192.0.2.1", true},
		{nil, "fd00::1", "192.0.2.1", true},
		{nil, "192.0.2.1", "192.0.2.1", true},
		{nil, "192.0.2.2", "192.0.2.1", false},
		{nil, "192.0.2.2", "", false},
		{nil, "2001:db8::1", "2001:db8::1", true},
		{nil, "169.254.169.254", "10.0.0.1", false}, // a cloud's own service
		{nil, "100.64.0.1", "10.0.0.1", false},
		{nil, "fe80::1", "10.0.0.1", false},
		{nil, "127.0.0.1", "10.0.0.1", false}, // ours, not the peer's
		{nil, "127.0.0.1", "", false},
		{nil, "127.0.0.2", "127.0.0.1", true},
		{nil, "::1", "127.0.0.1", true},
		{[]string{"192.0.2.0/24"}, "192.0.2.2", "", true},
		{[]string{"192.0.2.77/24"}, "192.0.2.2", "", true},
		{[]string{"192.0.2.2"}, "192.0.2.2", "", true},
		{[]string{"192.0.2.2"}, "192.0.2.3", "", false},
		{[]string{"192.0.2.0/24"}, "10.0.0.1", "10.0.0.1", false}, // instead of the default
		{[]string{"192.0.2.0/24", "::/0"}, "2001:db8::1", "", true},
	} {
		a, err := check.ParseAllow(c.allow)
		if err != nil {
			t.Fatal(err)
		}
		peer := netip.Addr{}
		if c.peer != "" {
			peer = netip.MustParseAddr(c.peer)
		}
		if got := a.Permits(netip.MustParseAddr(c.addr), peer); got != c.want {
			t.Errorf("%q permits %s for %s: %v, want %v", c.allow, c.addr, c.peer, got, c.want)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "web", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if _, err := check.ParseAllow([]string{bad}); err == nil || !strings.Contains(err.Error(), "is no network; write") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
