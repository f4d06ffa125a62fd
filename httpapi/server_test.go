package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func memory(*testing.T) store.Backend { return store.NewMemory() }

// api is a registry and its API without a socket.
type api struct {
	*store.Registry
	handler http.Handler
}

func newAPI(t *testing.T, cfg store.Config) api {
	t.Helper()
	r, done := storetest.Open(t, memory, cfg)
	t.Cleanup(done)
	return api{r, httpapi.NewOffline(r).Handler()}
}

// reply is what came back, with the body decoded where it is JSON.
type reply struct {
	status int
	header http.Header
	text   string
	json   map[string]any
}

// do sends a request: a method and a path, a body ("" for none), and headers
// as "Name: value".
func (a api) do(t *testing.T, request, body string, headers ...string) reply {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.RemoteAddr = "192.0.2.7:4711"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, req)
	r := reply{status: w.Code, header: w.Result().Header, text: w.Body.String()}
	if r.text != "" && strings.Contains(r.header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(w.Body.Bytes(), &r.json); err != nil {
			t.Fatalf("%s: the reply is no JSON object: %v\n%s", request, err, r.text)
		}
	}
	return r
}

// want does a request that must have the given status.
func (a api) want(t *testing.T, status int, request, body string, headers ...string) reply {
	t.Helper()
	r := a.do(t, request, body, headers...)
	if r.status != status {
		t.Errorf("%s %s: %d, want %d\n%s", request, body, r.status, status, r.text)
	}
	return r
}

// same compares a reply's field with a value as JSON has it.
func (r reply) same(t *testing.T, field string, want any) {
	t.Helper()
	if got := r.json[field]; !reflect.DeepEqual(got, want) {
		t.Errorf("%s is %v (%[2]T), want %v (%[3]T)", field, got, want)
	}
}

const web = "/v1/services/web/instances/"

func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		body := `{"addresses": ["10.0.0.5", "2001:db8::5"], "port": 8080, "ports": {"metrics": 9090}, "protocol": "udp",
			"priority": 0, "weight": 20, "ttl": 15, "tags": ["v2", "eu"], "meta": {"build": "1234"}}`
		r := a.want(t, 201, "PUT "+web+"a1", body, "Content-Type: application/json; charset=utf-8")
		for field, want := range map[string]any{
			"service": "web", "id": "a1", "addresses": []any{"10.0.0.5", "2001:db8::5"}, "port": 8080.0,
			"ports": map[string]any{"metrics": 9090.0}, "protocol": "udp", "priority": 0.0, "weight": 20.0, "ttl": 15.0,
			"tags": []any{"eu", "v2"}, "meta": map[string]any{"build": "1234"}, "status": "up", "dns_name": "a1.web.service.",
			"revision": float64(a.Revision()), "permanent": nil, "warnings": nil,
			"expires": time.Now().Add(15 * time.Second).UTC().Format("2006-01-02T15:04:05.000000000Z07:00"),
		} {
			r.same(t, field, want)
		}
		// The same again is a heartbeat.
		at := a.Revision()
		storetest.Advance(10 * time.Second)
		again := a.want(t, 200, "PUT "+web+"a1", body)
		again.same(t, "revision", float64(at))
		if again.json["expires"] == r.json["expires"] {
			t.Error("the same registration again did not renew the lease")
		}
		if a.Revision() != at {
			t.Error("the same registration again moved the revision")
		}
		a.want(t, 200, "PUT "+web+"a1", `{"port": 8081}`).same(t, "revision", float64(at+1))
		// What is left out has the default again: a PUT says what the instance is.
		r = a.want(t, 200, "GET "+web+"a1", "")
		r.same(t, "priority", 10.0)
		r.same(t, "ttl", 30.0)
		r.same(t, "addresses", []any{"192.0.2.7"})

		a.want(t, 201, "PUT "+web+"p", `{"permanent": true, "address": "10.0.0.9"}`)
		r = a.want(t, 200, "GET "+web+"p", "")
		r.same(t, "permanent", true)
		r.same(t, "expires", nil)
		a.want(t, 201, "PUT "+web+"local", `{"address": "127.0.0.1"}`)
		if w, ok := a.want(t, 200, "PUT "+web+"local", `{"address": "127.0.0.1"}`).json["warnings"].([]any); !ok || len(w) != 1 {
			t.Errorf("a loopback address: warnings %v, want one", w)
		}
	})
}

func TestRegisterUnnamed(t *testing.T) {
	a := newAPI(t, store.Config{})
	r := a.want(t, 201, "POST /v1/services/web/instances", `{"address": "10.0.0.5", "port": 80}`)
	r.same(t, "id", "10-0-0-5-80")
	at := r.header.Get("Location")
	a.want(t, 200, "GET "+at, "").same(t, "id", "10-0-0-5-80")
	a.want(t, 200, "POST /v1/services/web/instances", `{"address": "10.0.0.5", "port": 80}`)
	a.want(t, 201, "POST /v1/services/web/instances", `{"port": 80}`).same(t, "id", "192-0-2-7-80")
	a.want(t, 200, "PUT "+at+"/heartbeat", "")
	for _, addrs := range []string{`["10.0.0.7", "10.0.0.6"]`, `["10.0.0.6", "10.0.0.7"]`} {
		a.do(t, "POST /v1/services/web/instances", `{"addresses": `+addrs+`}`).same(t, "id", "10-0-0-6-0")
	}
	if r := a.want(t, 400, "POST /v1/services/we.b/instances", `{}`); r.header.Get("Location") != "" {
		t.Error("a refused registration has a Location")
	}
}

// Every mistake in a body has an answer that names the field and says what is
// allowed, and nothing is stored.
func TestRegisterRefuses(t *testing.T) {
	a := newAPI(t, store.Config{Reserved: map[string]string{"ns": "the zone's name server ns.service. (--ns)"}})
	a.want(t, 201, "PUT "+web+"A1", `{}`)
	label := store.Label("A1")
	at, n := a.Revision(), a.Len()
	for _, c := range []struct {
		request, body string
		status        int
		field, detail string
		headers       []string
	}{
		{body: `{"port": 70000}`, field: "port", detail: "70000 is not allowed; allowed: a whole number from 0 to 65535"},
		{body: `{"port": "80"}`, field: "port", detail: `"80" is not allowed`},
		{body: `{"port": 80.5}`, field: "port"},
		{body: `{"port": -1}`, field: "port"},
		{body: `{"port": null}`, field: "port", detail: "null is not allowed"},
		{body: `{"priority": 65536}`, field: "priority"},
		{body: `{"weight": true}`, field: "weight"},
		{body: `{"ttl": 0}`, field: "ttl", detail: "0 is not allowed; allowed: a whole number from 1 to 86400"},
		{body: `{"ttl": 86401}`, field: "ttl"},
		{body: `{"ttl": 1e2}`, field: "ttl"},
		{body: `{"ttl": 30, "permanent": true}`, field: "permanent", detail: "together with ttl"},
		{body: `{"permanent": false}`, field: "permanent"},
		{body: `{"protocol": "sctp"}`, field: "protocol", detail: "allowed: tcp, udp"},
		{body: `{"protocol": 6}`, field: "protocol"},
		{body: `{"address": "web.example.org"}`, field: "address"},
		{body: `{"address": "10.0.0.5:80"}`, field: "address", detail: "without a port"},
		{body: `{"address": "0.0.0.0"}`, field: "addresses"},
		{body: `{"address": "10.0.0.5", "addresses": []}`, field: "addresses", detail: "together with address"},
		{body: `{"addresses": "10.0.0.5"}`, field: "addresses", detail: "an array"},
		{body: `{"addresses": ["10.0.0.5", 7]}`, field: "addresses"},
		{body: `{"tags": "v2"}`, field: "tags"},
		{body: `{"tags": ["v2", null]}`, field: "tags"},
		{body: `{"tags": [""]}`, field: "tags"},
		{body: `{"ports": {"metrics": 0}}`, field: "ports.metrics"},
		{body: `{"ports": {"a b": 1}}`, field: "ports"},
		{body: `{"ports": [9090]}`, field: "ports"},
		{body: `{"meta": {"build": 1234}}`, field: "meta.build", detail: "a string"},
		{body: `{"meta": {"a=b": "c"}}`, field: "meta"},
		{body: `{"meta": {"long": "` + strings.Repeat("x", 251) + `"}}`, field: "meta.long", detail: "255 octets"},
		{body: `{"port": 1, "port": 2}`, field: "port", detail: "twice"},
		{body: `{"Port": 80}`, field: "Port", detail: "no such field"},
		{body: `{"prot": "tcp"}`, field: "prot", detail: "allowed: address, addresses, check, meta"},
		{body: `{"status": "up"}`, field: "status", detail: "by heartbeat"},
		{body: `{"check": true}`, field: "check", detail: "a JSON object"},
		{body: `{"check": null}`, field: "check", detail: "a JSON object"},
		{body: `{"port": 80, "check": {}}`, field: "check.type", detail: "missing"},
		{body: `{"port": 80, "check": {"type": "icmp"}}`, field: "check.type", detail: "http, tcp, grpc"},
		{body: `{"port": 80, "check": {"type": 1}}`, field: "check.type"},
		{body: `{"check": {"type": "tcp"}}`, field: "check.port", detail: "say which one"},
		{body: `{"check": {"type": "tcp", "port": 0}}`, field: "check.port", detail: "from 1 to 65535"},
		{body: `{"port": 80, "check": {"type": "tcp", "path": "/"}}`, field: "check.path", detail: "only an http check"},
		{body: `{"port": 80, "check": {"type": "http", "path": "healthz"}}`, field: "check.path", detail: "the first a /"},
		{body: `{"port": 80, "check": {"type": "http", "path": 1}}`, field: "check.path"},
		{body: `{"port": 80, "check": {"type": "http", "interval": 0.9}}`, field: "check.interval", detail: "from 1 to 3600"},
		{body: `{"port": 80, "check": {"type": "http", "interval": "10s"}}`, field: "check.interval"},
		{body: `{"port": 80, "check": {"type": "http", "interval": 1.2345}}`, field: "check.interval", detail: "three decimals"},
		{body: `{"port": 80, "check": {"type": "http", "timeout": 61}}`, field: "check.timeout", detail: "from 0.1 to 60"},
		{body: `{"port": 80, "check": {"timeout": 2, "type": "http", "interval": 2}}`, field: "check.timeout", detail: "not below the interval"},
		{body: `{"port": 80, "check": {"type": "http", "rise": 0}}`, field: "check.rise", detail: "from 1 to 100"},
		{body: `{"port": 80, "check": {"type": "http", "fall": 256}}`, field: "check.fall"},
		{body: `{"port": 80, "check": {"type": "http", "retries": 1}}`, field: "check.retries", detail: "allowed: fall, interval"},
		{body: `{"port": 80, "check": {"type": "http", "type": "tcp"}}`, field: "type", detail: "twice"},
		{body: `{"port": 80, "address": "127.0.0.1", "check": {"type": "tcp"}}`, field: "check", detail: "--check-allow"},
		{body: `{"port": 80, "addresses": ["10.0.0.5", "198.51.100.9"], "check": {"type": "tcp"}}`, field: "check", detail: "198.51.100.9"},
		{body: `{"id": "a2"}`, field: "id", detail: "in the path"},
		{body: `{"expires": "x"}`, field: "expires"},
		{body: ``, detail: "{} for an instance with all defaults"},
		{body: `null`, detail: "a JSON object"},
		{body: `[]`, detail: "a JSON object"},
		{body: `7`, detail: "a JSON object"},
		{body: `{`, detail: "not JSON"},
		{body: `{"port": 80,}`, detail: "not JSON"},
		{body: `{} {}`, detail: "goes on"},
		{body: `{} x`, detail: "goes on"},
		{body: "\xff", detail: "not JSON"},
		{body: "{\"tags\": [\"\xff\"]}", detail: "not UTF-8"},
		{request: "PUT /v1/services/we.b/instances/a2", body: `{}`, field: "service"},
		{request: "PUT /v1/services/web/instances/a%20b", body: `{}`, field: "id", detail: `"a b"`},
		{request: "PUT " + web + "a2?ttl=3", body: `{}`, detail: `"ttl"`},
		{request: "PUT " + web + label, body: `{}`, status: 409, detail: "web/A1"},
		{request: "PUT " + web + label, body: `{}`, status: 409, detail: "web/" + label},
		{request: "PUT /v1/services/NS/instances/a2", body: `{}`, status: 409, detail: "--ns"},
		{request: "PUT " + web + "A1", body: `{"port": 1}`, status: 412, headers: []string{"If-None-Match: *"}},
		{body: `{}`, detail: "If-None-Match", headers: []string{`If-None-Match: "7"`}},
		{body: `{}`, detail: "If-Match", headers: []string{`If-Match: *`}},
		{body: `{}`, status: 415, detail: "application/json", headers: []string{"Content-Type: text/plain"}},
		{body: `{}`, status: 415, headers: []string{"Content-Type: application/x-www-form-urlencoded"}},
		{body: `{}`, status: 415, headers: []string{"Content-Type: ;"}},
		{body: `{"meta": {"k": "` + strings.Repeat("x", 64<<10) + `"}}`, status: 413, detail: "65536 octets"},
		{body: `{}`, status: 403, headers: []string{"Sec-Fetch-Site: cross-site"}},
	} {
		if c.request == "" {
			c.request = "PUT " + web + "a2"
		}
		if c.status == 0 {
			c.status = 400
		}
		r := a.want(t, c.status, c.request, c.body, c.headers...)
		if got := r.header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s %.80s: Content-Type %q", c.request, c.body, got)
		}
		r.same(t, "status", float64(c.status))
		r.same(t, "title", http.StatusText(c.status))
		if c.field != "" {
			r.same(t, "field", c.field)
		}
		detail, _ := r.json["detail"].(string)
		if detail == "" || !strings.Contains(detail, c.detail) || !strings.Contains(detail, c.field) {
			t.Errorf("%s %.80s: detail %q, want %q in it", c.request, c.body, detail, c.detail)
		}
		if a.Revision() != at || a.Len() != n {
			t.Fatalf("%s %.80s: something was stored", c.request, c.body)
		}
	}
}

func TestCreateOnly(t *testing.T) {
	a := newAPI(t, store.Config{})
	a.want(t, 201, "PUT "+web+"a1", `{}`, "If-None-Match: *")
	a.want(t, 412, "PUT "+web+"a1", `{}`, "If-None-Match: *")
	a.want(t, 200, "PUT "+web+"a1", `{}`)
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		a.want(t, 201, "PUT "+web+"a1", `{}`)
		at := a.Revision()
		storetest.Advance(29 * time.Second)
		r := a.want(t, 200, "PUT "+web+"a1/heartbeat", "")
		r.same(t, "ttl", 30.0)
		r.same(t, "revision", float64(at))
		r.same(t, "expires", time.Now().Add(30*time.Second).UTC().Format("2006-01-02T15:04:05.000000000Z07:00"))
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{}`).same(t, "revision", float64(at))
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"weight": 20, "ttl": 15, "status": "draining"}`).same(t, "revision", float64(at+1))
		r = a.want(t, 200, "GET "+web+"a1", "")
		r.same(t, "weight", 20.0)
		r.same(t, "ttl", 15.0)
		r.same(t, "status", "draining")
		// A registration does not set the status.
		a.want(t, 200, "PUT "+web+"a1", `{"port": 80}`).same(t, "status", "draining")
		a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"status": "up"}`)
		for body, field := range map[string]string{
			`{"ttl": 0}`: "ttl", `{"weight": 65536}`: "weight", `{"status": "starting"}`: "status", `{"status": 1}`: "status",
			`{"port": 80}`: "port", `{"weight": null}`: "weight",
		} {
			a.want(t, 400, "PUT "+web+"a1/heartbeat", body).same(t, "field", field)
		}
		a.want(t, 400, "PUT "+web+"a1/heartbeat", `[]`)
		a.want(t, 404, "PUT "+web+"a2/heartbeat", "").same(t, "detail", "web/a2: not registered: register again")
		storetest.Advance(30 * time.Second)
		a.want(t, 404, "PUT "+web+"a1/heartbeat", "")
		a.want(t, 404, "GET "+web+"a1", "")
		a.want(t, 404, "DELETE "+web+"a1", "")

		a.want(t, 201, "PUT "+web+"p", `{"permanent": true}`)
		r = a.want(t, 200, "PUT "+web+"p/heartbeat", "")
		r.same(t, "permanent", true)
		r.same(t, "expires", nil)
		a.want(t, 400, "PUT "+web+"p/heartbeat?ttl=5", "")
	})
}

func TestDeregister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		a.want(t, 201, "PUT "+web+"a1", `{}`)
		v := a.Service("web")
		if !v.HandOut(a.Now().Add(11 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		r := a.want(t, 200, "DELETE "+web+"a1", "")
		r.same(t, "revision", float64(a.Revision()))
		r.same(t, "safe_after", time.Now().Add(11*time.Second).UTC().Format("2006-01-02T15:04:05.000000000Z07:00"))
		a.want(t, 404, "DELETE "+web+"a1", "").same(t, "detail", "web/a1: not registered")
		a.want(t, 404, "DELETE "+web+"a1?drain=true", "")
		a.want(t, 400, "DELETE "+web+"a1?drain=maybe", "").same(t, "field", "drain")
		a.want(t, 400, "DELETE "+web+"a1?drian=true", "")
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		a.want(t, 201, "PUT "+web+"a1", `{"permanent": true}`)
		if !a.Service("web").HandOut(a.Now().Add(11 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		safe := time.Now().Add(11 * time.Second).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
		for range 2 {
			r := a.want(t, 200, "DELETE "+web+"a1?drain=true", "")
			r.same(t, "revision", float64(a.Revision()))
			r.same(t, "safe_after", safe)
		}
		r := a.want(t, 200, "GET "+web+"a1", "")
		r.same(t, "status", "draining")
		r.same(t, "expires", safe)
		a.want(t, 200, "PUT "+web+"a1/heartbeat", "").same(t, "expires", safe)
		a.want(t, 409, "PUT "+web+"a1/heartbeat", `{"status": "up"}`).same(t, "detail", "web/a1: is being drained: register it again to bring it back")
		if got := a.want(t, 200, "GET /v1/services/web?status=draining", "").ids("instances", "id"); len(got) != 1 {
			t.Errorf("draining are %q", got)
		}
		storetest.Advance(11*time.Second - 1)
		a.want(t, 200, "GET "+web+"a1", "")
		storetest.Advance(1)
		a.want(t, 404, "GET "+web+"a1", "")

		// Registered again meanwhile, it stays.
		a.want(t, 201, "PUT "+web+"a1", `{"permanent": true}`)
		if !a.Service("web").HandOut(a.Now().Add(11 * time.Second)) {
			t.Fatal("the view is not the present one")
		}
		a.want(t, 200, "DELETE "+web+"a1?drain=true", "")
		a.want(t, 200, "PUT "+web+"a1", `{"permanent": true}`).same(t, "status", "up")
		storetest.Advance(time.Hour)
		a.want(t, 200, "GET "+web+"a1", "").same(t, "status", "up")
		a.want(t, 200, "DELETE "+web+"a1?drain=false", "")
		a.want(t, 404, "GET "+web+"a1", "")
	})
}

// IDs are any printable ASCII: those that a path cannot hold come escaped.
func TestOddIDs(t *testing.T) {
	a := newAPI(t, store.Config{})
	for _, id := range []string{"host:container:80", "a%2Fb", "%2E%2E", "%25", "%3F%23", "a+b", "..%2F..%2Fx", "heartbeat", "%7E"} {
		r := a.want(t, 201, "PUT "+web+id, `{}`)
		a.want(t, 200, "PUT "+web+id+"/heartbeat", "")
		a.want(t, 200, "GET "+web+id, "").same(t, "id", r.json["id"])
		if label, _ := r.json["dns_name"].(string); strings.Count(label, ".") != 3 {
			t.Errorf("%s: dns_name %q", id, label)
		}
		a.want(t, 200, "DELETE "+web+id, "")
	}
}

// ids returns the IDs, or names, in a list.
func (r reply) ids(list, key string) []string {
	var ids []string
	items, _ := r.json[list].([]any)
	for _, item := range items {
		id, _ := item.(map[string]any)[key].(string)
		ids = append(ids, id)
	}
	return ids
}

func TestLists(t *testing.T) {
	a := newAPI(t, store.Config{})
	empty := a.want(t, 200, "GET /v1/services", "")
	empty.same(t, "services", []any{})
	for _, id := range []string{"b", "A", "c"} { // A's label sorts elsewhere
		a.want(t, 201, "PUT "+web+id, `{"tags": ["v2", "`+strings.ToLower(id)+`x"]}`)
	}
	a.want(t, 201, "PUT /v1/services/api/instances/x", `{"tags": ["not a label"]}`)
	a.want(t, 200, "PUT "+web+"b/heartbeat", `{"status": "down"}`)
	all := a.want(t, 200, "GET /v1/services", "")
	all.same(t, "revision", float64(a.Revision()))
	all.same(t, "services", []any{
		map[string]any{"name": "api", "instances": 1.0, "up": 1.0, "tags": []any{"not a label"}},
		map[string]any{"name": "web", "instances": 3.0, "up": 2.0, "down": 1.0, "tags": []any{"ax", "bx", "cx", "v2"}},
	})
	for path, want := range map[string][]string{
		"":                    {"A", "b", "c"},
		"?tag=v2":             {"A", "b", "c"},
		"?tag=v2&tag=cx":      {"c"},
		"?tag=none":           nil,
		"?status=up":          {"A", "c"},
		"?status=down&tag=v2": {"b"},
		"?status=draining":    nil,
	} {
		if got := a.want(t, 200, "GET /v1/services/Web"+path, "").ids("instances", "id"); !slices.Equal(got, want) {
			t.Errorf("web%s: got %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string][]string{"?status=down": {"web"}, "?tag=not%20a%20label": {"api"}, "?tag=x": nil} {
		if got := a.want(t, 200, "GET /v1/services"+path, "").ids("services", "name"); !slices.Equal(got, want) {
			t.Errorf("services%s: got %q, want %q", path, got, want)
		}
	}
	a.want(t, 404, "GET /v1/services/nope", "")
	a.want(t, 400, "GET /v1/services/web?status=sick", "").same(t, "field", "status")
	a.want(t, 400, "GET /v1/services/web?status=up&status=down", "")
	a.want(t, 400, "GET /v1/services?tags=v2", "")
	a.want(t, 400, "GET /v1/services?tag=%zz", "")
}

func TestETag(t *testing.T) {
	a := newAPI(t, store.Config{})
	a.want(t, 201, "PUT "+web+"a1", `{}`)
	for _, path := range []string{"/v1/services", "/v1/services/web", web + "a1", "/v1/services/web?tag=x"} {
		tag := a.want(t, 200, "GET "+path, "").header.Get("ETag")
		if tag != fmt.Sprintf(`W/"%d"`, a.Revision()) {
			t.Errorf("%s: ETag %s at revision %d", path, tag, a.Revision())
		}
		for _, have := range []string{tag, strings.TrimPrefix(tag, "W/"), `"1", ` + tag, "*"} {
			r := a.want(t, 304, "GET "+path, "", "If-None-Match: "+have)
			if r.text != "" || r.header.Get("ETag") != tag {
				t.Errorf("%s: 304 with body %q, ETag %s", path, r.text, r.header.Get("ETag"))
			}
		}
		a.want(t, 200, "GET "+path, "", `If-None-Match: "1"`)
	}
	tag := a.want(t, 200, "GET /v1/services/web", "").header.Get("ETag")
	a.want(t, 200, "PUT "+web+"a1/heartbeat", "")
	a.want(t, 304, "GET /v1/services/web", "", "If-None-Match: "+tag)
	a.want(t, 201, "PUT /v1/services/other/instances/a1", `{}`)
	a.want(t, 304, "GET /v1/services/web", "", "If-None-Match: "+tag)
	a.want(t, 200, "GET /v1/services", "", "If-None-Match: "+tag)
	a.want(t, 200, "PUT "+web+"a1/heartbeat", `{"weight": 1}`)
	a.want(t, 200, "GET /v1/services/web", "", "If-None-Match: "+tag)
}

// Where a lease has ended and its removal is not durable yet, nobody is told
// that nothing has changed.
func TestNoETagWhileUnsettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := store.Open(t.Context(), store.NewMemory(), store.Config{}) // nobody sweeps it
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		a := api{r, httpapi.NewOffline(r).Handler()}
		a.want(t, 201, "PUT "+web+"a1", `{"ttl": 5}`)
		a.want(t, 201, "PUT "+web+"a2", `{}`)
		tag := a.want(t, 200, "GET /v1/services/web", "").header.Get("ETag")
		storetest.Advance(5 * time.Second)
		for _, path := range []string{"/v1/services/web", "/v1/services"} {
			a.want(t, 200, "GET "+path, "", "If-None-Match: "+tag)
		}
		if got := a.want(t, 200, "GET /v1/services/web", "").ids("instances", "id"); len(got) != 1 {
			t.Errorf("live are %q, want a2", got)
		}
	})
}

func TestPathsAndMethods(t *testing.T) {
	a := newAPI(t, store.Config{})
	a.want(t, 404, "GET /", "")
	a.want(t, 404, "GET /v1/services/", "")
	a.want(t, 404, "GET /v2/services", "").same(t, "detail", "there is no /v2/services here; docs/api.md has the paths")
	for request, allow := range map[string]string{
		"POST /v1/services":           "GET, HEAD",
		"PATCH " + web + "a1":         "DELETE, GET, HEAD, PUT",
		"GET " + web + "a1/heartbeat": "PUT",
		"GET /register":               "POST",
		"DELETE /healthz":             "GET, HEAD",
	} {
		if got := a.want(t, 405, request, "").header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", request, got, allow)
		}
	}
	a.want(t, 200, "GET /healthz", "")
	a.want(t, 200, "HEAD /readyz", "")
	if r := a.want(t, 404, "HEAD /v1/services/nope", ""); r.text != "" {
		t.Errorf("HEAD has a body: %q", r.text)
	}
}

// full is a backend without room.
type full struct{ *store.Memory }

func (full) Commit(context.Context, []store.Event) error {
	return fmt.Errorf("write store: %w: no space left on device", store.ErrNotDurable)
}

func TestNotDurable(t *testing.T) {
	r, err := store.Open(t.Context(), full{store.NewMemory()}, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a := api{r, httpapi.NewOffline(r).Handler()}
	reply := a.want(t, 503, "PUT "+web+"a1", `{}`)
	if d, _ := reply.json["detail"].(string); !strings.Contains(d, "no space left") || reply.header.Get("Retry-After") == "" {
		t.Errorf("got %v, Retry-After %q", reply.json, reply.header.Get("Retry-After"))
	}
	a.want(t, 404, "GET "+web+"a1", "")
	a.want(t, 503, "POST /register", `{"serviceName":"web","serviceAddress":"10.0.0.1:80"}`)
}

func TestSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{Reserved: map[string]string{"ns": "--ns"}})
		text := func(request, body string, status int, want string) {
			t.Helper()
			if r := a.want(t, status, request, body); r.text != want {
				t.Errorf("%s %s: %q, want %q", request, body, r.text, want)
			}
		}
		given := []string{"10.0.0.1:8080", "[2001:db8::1]:8080", "10.0.0.2", "http://10.0.0.3:8080/x", "https://[2001:db8::4]", "2001:db8::5"}
		for _, addr := range given {
			text("POST /register", `{"serviceName":"Web","serviceAddress":"`+addr+`"}`, 200, "Service Web registered.")
		}
		a.want(t, 201, "PUT "+web+"a1", `{"addresses":["10.0.0.9","2001:db8::9"],"port":1,"permanent":true}`)
		a.want(t, 201, "PUT /v1/services/api/instances/a1", `{"permanent":true}`)
		want := append(slices.Clone(given), "10.0.0.9:1", "[2001:db8::9]:1")
		slices.Sort(want)
		var list []any
		for _, w := range want {
			list = append(list, w)
		}
		storetest.Advance(time.Hour) // they are permanent
		r := a.want(t, 200, "GET /services", "")
		r.same(t, "web", list)
		r.same(t, "api", []any{"192.0.2.7"})
		for id, port := range map[string]float64{"10-0-0-1-8080": 8080, "10-0-0-2-0": 0, "10-0-0-3-8080": 8080, "2001-0db8-0000-0000-0000-0000-0000-0004-443": 443} {
			a.want(t, 200, "GET "+web+id, "").same(t, "port", port)
		}

		text("POST /register", `{"serviceName":"short","serviceAddress":"10.0.0.1:80","ttl":5,"other":1}`, 200, "Service short registered.")
		storetest.Advance(5 * time.Second)
		a.want(t, 404, "GET /v1/services/short", "")

		text("POST /deregister", `{"serviceName":"web","serviceAddress":"10.0.0.1:8080"}`, 200, "Service web deregistered.")
		text("POST /deregister", `{"serviceName":"web","serviceAddress":"10.0.0.1:8080"}`, 200, "Service web deregistered.")
		text("POST /deregister", `{"serviceName":"nobody","serviceAddress":"10.0.0.1:8080"}`, 200, "Service nobody deregistered.")
		a.want(t, 404, "GET "+web+"10-0-0-1-8080", "")

		for _, body := range []string{
			``, `null`, `[]`, `{`, `{} x`, `{"serviceName":7}`, `{"serviceName":"web"}`, `{"serviceAddress":"10.0.0.1:80"}`,
			`{"serviceName":"web","serviceAddress":"web.example.org:80"}`, `{"serviceName":"web","serviceAddress":"10.0.0.1:0"}`,
			`{"serviceName":"web","serviceAddress":"10.0.0.1:70000"}`, `{"serviceName":"web","serviceAddress":"0.0.0.0:80"}`,
			`{"serviceName":"web","serviceAddress":"http://web/"}`, `{"serviceName":"a.b","serviceAddress":"10.0.0.1:80"}`,
			`{"serviceName":"web","serviceAddress":"10.0.0.1:80","ttl":0}`, `{"serviceName":"ns","serviceAddress":"10.0.0.1:80"}`,
			`{"serviceName":"` + strings.Repeat("x", 65<<10) + `"}`,
		} {
			text("POST /register", body, 400, "Invalid request data\n")
		}
	})
}

// serve runs a server on a socket until the test ends.
func serve(t *testing.T, r *store.Registry) *httpapi.Server {
	t.Helper()
	return serveWith(t, r, httpapi.Config{})
}

func serveWith(t *testing.T, r *store.Registry, cfg httpapi.Config) *httpapi.Server {
	t.Helper()
	cfg.Registry, cfg.Name = r, func(*store.Instance) string { return "" }
	s, err := httpapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); g.Wait() })
	return s
}

func TestSocket(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serve(t, r)
	url := "http://" + s.Addr().String()
	if _, err := httpapi.New(httpapi.Config{Registry: r, Listen: s.Addr().String()}); err == nil ||
		!strings.Contains(err.Error(), "--http") || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("a port in use: %v", err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+web+"a1", strings.NewReader(`{"port": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusCreated || !bytes.Contains(b, []byte(`"addresses":["127.0.0.1"]`)) {
		t.Errorf("%s %s %v", resp.Status, b, err)
	}

	req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 64 KiB: %s", resp.Status)
	}
}

// A store that has no backup says what to do instead.
func TestNoBackup(t *testing.T) {
	t.Parallel()
	r, done := storetest.Open(t, memory, store.Config{})
	defer done()
	for config, want := range map[string]string{"": "keeps nothing", "use etcdctl": "use etcdctl"} {
		a := api{r, httpapi.NewOfflineWith(r, httpapi.Config{NoBackup: config}).Handler()}
		a.want(t, 404, "GET /v1/backup", "").says(t, want)
	}
}
