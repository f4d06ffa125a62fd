package httpapi_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
)

// wantCheck compares the check in a reply.
func (r reply) wantCheck(t *testing.T, want map[string]any) {
	t.Helper()
	if got, _ := r.json["check"].(map[string]any); !reflect.DeepEqual(got, want) {
		t.Errorf("check is %v, want %v", got, want)
	}
}

func TestRegisterWithCheck(t *testing.T) {
	a := newAPI(t, store.Config{})
	defaults := map[string]any{"type": "http", "interval": 10.0, "timeout": 2.0, "path": "/", "port": 8080.0, "rise": 1.0, "fall": 3.0}
	r := a.want(t, 201, "PUT "+web+"a1", `{"address": "10.0.0.5", "port": 8080, "check": {"type": "http"}}`)
	r.wantCheck(t, defaults)
	r.same(t, "status", "starting")
	a.want(t, 200, "GET "+web+"a1", "").wantCheck(t, defaults)

	// What a reply says can be sent again, and changes nothing.
	r = a.want(t, 201, "PUT "+web+"a2", `{"address": "10.0.0.5", "check": {"fall": 2, "rise": 4, "port": 8081, "path": "/healthz?a=b",
		"timeout": 0.25, "interval": 1.5, "type": "http"}}`)
	full := map[string]any{"type": "http", "interval": 1.5, "timeout": 0.25, "path": "/healthz?a=b", "port": 8081.0, "rise": 4.0, "fall": 2.0}
	r.wantCheck(t, full)
	at := a.Revision()
	a.want(t, 200, "PUT "+web+"a2", `{"address": "10.0.0.5", "check": {"type":"http","interval":1.5,"timeout":0.250,"path":"/healthz?a=b","port":8081,"rise":4,"fall":2}}`)
	if a.Revision() != at {
		t.Error("the same check again moved the revision")
	}

	// A short interval has a short timeout, a check of TCP no path, and the
	// peer may have itself probed, wherever it is.
	r = a.want(t, 201, "PUT "+web+"a3", `{"port": 80, "check": {"type": "tcp", "interval": 1}}`)
	r.wantCheck(t, map[string]any{"type": "tcp", "interval": 1.0, "timeout": 0.5, "port": 80.0, "rise": 1.0, "fall": 3.0})
	r.same(t, "addresses", []any{"192.0.2.7"})
	m, _ := a.Service("web").ByLabel("a3", a.Now())
	if m.Check.Peer != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("the check was registered by %v", m.Check.Peer)
	}
	a.want(t, 200, "PUT "+web+"a3", `{"port": 80}`).wantCheck(t, nil)
}

// A heartbeat's word against a check's.
func TestHeartbeatWithCheck(t *testing.T) {
	a := newAPI(t, store.Config{})
	body := `{"address": "10.0.0.5", "port": 8080, "check": {"type": "grpc"}}`
	a.want(t, 201, "PUT "+web+"a1", body)
	for _, step := range []struct {
		says   string // by heartbeat, or
		passes bool   // the check
		want   string
	}{
		{says: "up", want: "starting"},
		{passes: true, want: "up"},
		{says: "draining", want: "draining"},
		{passes: true, want: "draining"},
		{says: "down", want: "down"},
		{passes: true, want: "down"},
		{says: "up", want: "starting"},
		{passes: true, want: "up"},
		{says: "up", want: "up"},
	} {
		if step.says != "" {
			a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"status": "`+step.says+`"}`)
		} else {
			m, _ := a.Service("web").ByLabel("a1", a.Now())
			if _, err := a.Checked(t.Context(), m, a.Age(), step.passes); err != nil {
				t.Fatal(err)
			}
		}
		r := a.want(t, 200, "PUT "+web+"a1", body) // keeps the status
		r.same(t, "status", step.want)
	}
}

// What the seed API registers is probed, unless it has a lease or no port.
func TestSeedCheck(t *testing.T) {
	a := newAPI(t, store.Config{})
	for address, probed := range map[string]bool{
		`"10.0.0.5:80"`: true, `"http://10.0.0.6"`: true, `"[2001:db8::1]:80"`: true, `"198.51.100.9:80"`: true,
		`"10.0.0.7"`: false, `"10.0.0.8:80", "ttl": 30`: false,
	} {
		a.want(t, 200, "POST /register", `{"serviceName": "web", "serviceAddress": `+address+`}`)
		found := false
		for m := range a.Service("web").Members(a.Now()) {
			if !strings.HasPrefix(address, `"`+m.Given+`"`) {
				continue
			}
			found = true
			if m.Status != store.Up {
				t.Errorf("%s is %s, want up at once", address, m.Status)
			}
			if (m.Check != nil) != probed {
				t.Errorf("%s: check %+v", address, m.Check)
			}
			if probed && (!m.Check.Removes || m.Check.Interval != 10*time.Second || m.Check.Fall != 3 || m.Check.Type != store.CheckTCP) {
				t.Errorf("%s: check %+v, want TCP every 10 s, and gone after 3", address, m.Check)
			}
		}
		if !found {
			t.Errorf("%s is not there", address)
		}
	}
}
