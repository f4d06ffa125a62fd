package httpapi_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// A stream of all services has those that the token may read, and a change of
// rights ends it before anything more is said.
func TestWatchWithRights(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	var rights atomic.Pointer[httpapi.Rights]
	rights.Store(team(t, 0))
	s := serveWith(t, r, httpapi.Config{Rights: rights.Load})
	storetest.Register(t, r, storetest.Instance("db", "a0")) // what was before the server began is told in a reset
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	storetest.Register(t, r, storetest.Instance("db", "a1"))
	start := r.Revision() - 2
	open := func(path string) *stream {
		t.Helper()
		c, err := request(s.Addr().String(), path+"token=web-token", "", 200)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := open("/v1/events?")
	if data, _ := c.want(t, "reset"); fmt.Sprint(len(data["instances"].([]any))) != "1" {
		t.Errorf("the reset has %v", data["instances"])
	}
	storetest.Register(t, r, port("db", "a1", 1))
	storetest.Register(t, r, port("api-1", "a1", 1))
	if data, _ := c.want(t, "register"); data["service"] != "api-1" {
		t.Errorf("the first event is of %v", data["service"])
	}
	late, err := request(s.Addr().String(), "/v1/events?token=web-token", fmt.Sprint(uint64(start)), 200)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for _, service := range []string{"web", "api-1"} {
		if data, _ := late.want(t, "register"); data["service"] != service {
			t.Errorf("resumed, an event is of %v, want %s", data["service"], service)
		}
	}

	// Of what it may not read nothing ends a wait.
	waits, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	fmt.Fprintf(waits, "GET /v1/services?after=%d&wait=1m&token=web-token HTTP/1.1\r\nHost: x\r\n\r\n", r.Revision())
	eventually(t, "three watch", func() bool { return s.Watchers() == 3 })
	storetest.Register(t, r, storetest.Instance("db", "a2"))

	rights.Store(team(t, 0)) // the same, but read again
	storetest.Register(t, r, storetest.Instance("web", "a2"))
	for _, c := range []*stream{c, late} {
		if e, err := c.next(); err == nil {
			t.Errorf("after a change of rights there is an event: %+v", e)
		}
	}
	b, err := io.ReadAll(waits)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || !strings.Contains(string(b), "rights have changed") || !strings.Contains(string(b), "Retry-After: 1\r\n") {
		t.Errorf("the wait ended with %s, %v", b, err)
	}
	for path, status := range map[string]int{"/v1/events?service=db&": http.StatusForbidden, "/v1/events?service=web&": http.StatusOK} {
		c, err := request(s.Addr().String(), path+"token=web-token", "", status)
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}

// Who comes back after a change of rights gets all that it may read now, also
// what was registered long before.
func TestResumeAfterAChangeOfRights(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	var rights atomic.Pointer[httpapi.Rights]
	rights.Store(team(t, 0))
	s := serveWith(t, r, httpapi.Config{Rights: rights.Load})
	storetest.Register(t, r, storetest.Instance("db", "a1"))
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	resume := func(last store.Revision) *stream {
		t.Helper()
		c, err := request(s.Addr().String(), "/v1/events?token=web-token", fmt.Sprint(uint64(last)), 200)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	last := r.Revision() - 1
	resume(last).want(t, "register")

	last = r.Revision()
	wider, err := httpapi.NewRights(httpapi.RightsConfig{Grants: []httpapi.Grant{grant("web-team", "web-token", httpapi.Read, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	rights.Store(wider)
	data, _ := resume(last).want(t, "reset")
	if n := len(data["instances"].([]any)); n != 2 {
		t.Errorf("the reset has %d instances, want 2: db may be read now", n)
	}
	storetest.Register(t, r, storetest.Instance("db", "a2"))
	last = r.Revision()
	storetest.Register(t, r, storetest.Instance("db", "a3"))
	resume(last).want(t, "register") // by the same rights it goes on
}
