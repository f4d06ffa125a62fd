package httpapi_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// guarded is an API with rights, and what it logs.
type guarded struct {
	api
	server *httpapi.Server
	logged bytes.Buffer
}

func newGuarded(t *testing.T, rights *httpapi.Rights, level logrus.Level) *guarded {
	t.Helper()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	g := &guarded{}
	log := logrus.New()
	log.SetOutput(&g.logged)
	log.SetLevel(level)
	g.server = httpapi.NewOfflineWith(r, httpapi.Config{Rights: func() *httpapi.Rights { return rights }, Log: log})
	g.api = api{r, g.server.Handler()}
	return g
}

// register puts an instance a1 there without asking the API.
func (g *guarded) register(t *testing.T, service string) {
	t.Helper()
	i := &store.Instance{Service: service, ID: "a1", Addresses: addresses("10.1.0.1"), TTL: store.DefaultTTL}
	if _, err := g.Register(t.Context(), i, false); err != nil {
		t.Fatal(err)
	}
}

// as sends a request of a caller's from an address.
func (g *guarded) as(c caller, from, request, body string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(request, " ")
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.RemoteAddr = from
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.cert != nil {
		req.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c.cert}}}
	}
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, req)
	return w
}

// Every caller with every request: what is allowed succeeds, all else is 401
// where nobody known asks and 403 where somebody does, and changes nothing.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	const inside, outside = `"10.1.2.3:80"`, `"10.2.2.3:80"`
	cells := []struct{ letters, request, body string }{
		{"r", "GET /v1/services", ""},
		{"r", "HEAD /v1/services", ""},
		{"r", "GET /services", ""},
		{"r", "GET /v1/services/web", ""},
		{"r", "GET /v1/services/WEB", ""},
		{"r", "GET /v1/services/web/instances/a1", ""},
		{"R", "GET /v1/services/db", ""},
		{"R", "GET /v1/services/db/instances/a1", ""},
		{"R", "GET /v1/services/db?after=0&wait=1s", ""},
		{"r", "GET /v1/services?after=0&wait=1s", ""},
		{"r", "HEAD /v1/events", ""},
		{"r", "HEAD /v1/events?service=Web", ""},
		{"R", "HEAD /v1/events?service=db", ""},
		{"w", "POST /v1/heartbeats", `{"instances":[{"service":"Web","id":"a1"}]}`},
		{"wW", "POST /v1/heartbeats", `{"instances":[{"service":"web","id":"a1"},{"service":"db","id":"a1"}]}`},
		{"w", "DELETE /v1/services/web/instances/a1?drain=true", ""},
		{"W", "DELETE /v1/services/db/instances/a1?drain=true", ""},
		{"w", "PUT /v1/services/web/instances/a1/heartbeat", ""},
		{"w", "DELETE /v1/services/web/instances/a1", ""},
		{"W", "PUT /v1/services/db/instances/a1/heartbeat", ""},
		{"W", "PUT /v1/services/d%62/instances/a1/heartbeat", ""},
		{"W", "DELETE /v1/services/db/instances/a1", ""},
		{"wd", "PUT /v1/services/web/instances/a1", `{"address":"10.1.2.3"}`},
		{"wD", "PUT /v1/services/web/instances/a1", `{"address":"10.2.2.3"}`},
		{"wdD", "PUT /v1/services/web/instances/a1", `{"addresses":["10.1.2.3","10.2.2.3"]}`},
		{"wd", "POST /v1/services/web/instances", `{"address":"10.1.2.3"}`},
		{"wD", "POST /v1/services/web/instances", `{"address":"10.2.2.3"}`},
		{"wD", "PUT /v1/services/web/instances/peer", `{}`}, // it comes from there
		{"Wd", "PUT /v1/services/db/instances/a1", `{"address":"10.1.2.3"}`},
		{"wd", "POST /register", `{"serviceName":"web","serviceAddress":` + inside + `}`},
		{"wD", "POST /register", `{"serviceName":"Web","serviceAddress":` + outside + `}`},
		{"Wd", "POST /register", `{"serviceName":"db","serviceAddress":` + inside + `}`},
		{"w", "POST /deregister", `{"serviceName":"web","serviceAddress":` + inside + `}`},
		{"W", "POST /deregister", `{"serviceName":"DB","serviceAddress":` + inside + `}`},
		{"", "GET /healthz", ""},
		{"", "GET /readyz", ""},
	}
	for name, c := range callers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for k, cell := range cells {
				g := newGuarded(t, team(t, c.anonymous), logrus.ErrorLevel)
				g.register(t, "web")
				g.register(t, "db")
				at := g.Revision()
				w := g.as(c.caller, "10.2.2.3:4711", cell.request, cell.body)
				allowed := true
				for _, letter := range cell.letters {
					allowed = allowed && strings.ContainsRune(c.may, letter)
				}
				want := http.StatusForbidden
				switch {
				case allowed && !c.unknown || cell.letters == "":
					want = w.Code
					if w.Code >= 300 {
						t.Errorf("%d: %s %s: %d %s, want it done", k, cell.request, cell.body, w.Code, w.Body)
					}
				case c.unknown, c.token == "" && c.cert == nil:
					want = http.StatusUnauthorized
				}
				if w.Code != want {
					t.Errorf("%d: %s %s: %d %s, want %d", k, cell.request, cell.body, w.Code, w.Body, want)
				}
				if challenge := w.Header().Get("WWW-Authenticate"); (challenge == "Bearer") != (w.Code == 401) {
					t.Errorf("%d: WWW-Authenticate %q with %d", k, challenge, w.Code)
				}
				if w.Code >= 400 && g.Revision() != at {
					t.Errorf("%d: %s %s: %d, but something has changed", k, cell.request, cell.body, w.Code)
				}
			}
		})
	}
}

// An error says which right is missing.
func TestMissingRight(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, team(t, 0), logrus.ErrorLevel)
	for _, c := range []struct{ token, request, body, want string }{
		{"", "GET /v1/services", "", `this needs the right \"read\": send a token as Authorization: Bearer TOKEN, or present a client certificate`},
		{"x", "GET /v1/services", "", "this token is not known here"},
		{"reader-token", "PUT " + web + "a1", "{}", `reader lacks the right \"register\": it may read`},
		{"web-token", "PUT /v1/services/db/instances/a1", "{}", `web lacks the right \"register\" for service db: its services are web, api-*`},
		{"web-token", "PUT " + web + "a1", `{"address":"10.7.0.1"}`, "web may not register the address 10.7.0.1: its addresses are 10.1.0.0/16, 2001:db8::/32"},
	} {
		w := g.as(caller{token: c.token}, "10.2.2.3:4711", c.request, c.body)
		if !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %s, want %q in it", c.request, w.Body, c.want)
		}
	}
}

// The lists show what the caller may read, and a part has no ETag that could
// outlive the rights.
func TestListsAreLimited(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, team(t, 0), logrus.ErrorLevel)
	for _, service := range []string{"web", "db", "api-x"} {
		g.register(t, service)
	}
	for token, want := range map[string][]string{"all-token": {"api-x", "db", "web"}, "web-token": {"api-x", "web"}} {
		r := g.want(t, 200, "GET /v1/services", "", "Authorization: Bearer "+token)
		if got := r.ids("services", "name"); !slices.Equal(got, want) {
			t.Errorf("%s: services %q, want %q", token, got, want)
		}
		if etag := r.header.Get("ETag"); (etag != "") != (token == "all-token") {
			t.Errorf("%s: ETag %q", token, etag)
		}
		if cache := r.header.Get("Cache-Control"); cache != "private" {
			t.Errorf("%s: Cache-Control %q", token, cache)
		}
		r = g.want(t, 200, "GET /services", "", "Authorization: Bearer "+token)
		if got := slices.Sorted(maps.Keys(r.json)); !slices.Equal(got, want) {
			t.Errorf("%s: the seed's services %q, want %q", token, got, want)
		}
	}
}

// A token may come in three places; the URL goes first.
func TestTokenPlaces(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, team(t, 0), logrus.ErrorLevel)
	g.register(t, "web")
	for _, c := range []struct {
		path    string
		headers []string
		status  int
	}{
		{"/v1/services/web", []string{"Authorization: Bearer reader-token"}, 200},
		{"/v1/services/web", []string{"Authorization: bearer  reader-token "}, 200},
		{"/v1/services/web", []string{"Authorization: Basic reader-token"}, 401},
		{"/v1/services/web", []string{"Authorization: reader-token"}, 401},
		{"/v1/services/web", []string{"Authorization: Bearer reader-token x"}, 401},
		{"/v1/services/web", []string{"Authorization: Bearer "}, 401},
		{"/v1/services/web", []string{"X-Consul-Token: reader-token"}, 200},
		{"/v1/services/web?token=reader-token", nil, 200},
		{"/services?token=reader-token", nil, 200},
		{"/v1/services/web?tag=x&token=reader-token&status=up", nil, 200},
		{"/v1/services/web?%74oken=reader%2Dtoken", nil, 200},
		{"/v1/services/web?token=", []string{"Authorization: Bearer reader-token"}, 200},
		{"/v1/services/web?token=reader-token", []string{"X-Consul-Token: no", "Authorization: Bearer no"}, 200},
		{"/v1/services/web", []string{"X-Consul-Token: reader-token", "Authorization: Bearer no"}, 200},
		{"/v1/services/web?token=no", []string{"Authorization: Bearer reader-token"}, 401},
		{"/v1/services/web?token=reader-token&other=1", nil, 400},
	} {
		g.want(t, c.status, "GET "+c.path, "", c.headers...)
	}
	// Without rights a token is taken and not looked at.
	newAPI(t, store.Config{}).want(t, 200, "GET /v1/services?token=anything", "", "Authorization: Bearer anything")
}

// Unknown tokens are limited for each client, and disturb nobody who is known.
func TestUnknownTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t, team(t, httpapi.Read), logrus.WarnLevel)
		g.register(t, "web")
		try := func(from, token string) *httptest.ResponseRecorder {
			return g.as(caller{token: token}, from, "GET /v1/services/web", "")
		}
		const mallory, other = "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"
		for k := range 30 {
			w := try(fmt.Sprintf("[2001:db8:1:2::%x]:%d", k+1, k+1), fmt.Sprint("guess", k)) // one network, one client
			switch {
			case k < 10 && w.Code != 401, k >= 10 && w.Code != 429:
				t.Fatalf("guess %d: %d", k, w.Code)
			case k >= 10 && w.Header().Get("Retry-After") != "1":
				t.Errorf("guess %d: Retry-After %q", k, w.Header().Get("Retry-After"))
			}
		}
		for _, token := range []string{"", "reader-token"} {
			if w := try(mallory, token); w.Code != 200 {
				t.Errorf("%q from the same address: %d", token, w.Code)
			}
		}
		if w := try(other, "guess"); w.Code != 401 {
			t.Errorf("from another network: %d", w.Code)
		}
		logged := func(want int) {
			t.Helper()
			if n := strings.Count(g.logged.String(), "too many unknown tokens"); n != want {
				t.Errorf("it was logged %d times, want %d\n%s", n, want, g.logged.String())
			}
		}
		logged(1)
		storetest.Advance(2 * time.Second)
		for k, want := range []int{401, 401, 429} {
			if w := try(mallory, "guess"); w.Code != want {
				t.Errorf("guess %d after 2 s: %d, want %d", k, w.Code, want)
			}
		}
		if n := g.server.UnknownTokens(); n != 30+1+3 {
			t.Errorf("%d were counted", n)
		}
		logged(1) // it has gone on all the time
		storetest.Advance(10 * time.Second)
		for range 11 {
			try(mallory, "guess")
		}
		logged(2) // it had been quiet
	})
}

// However many addresses send unknown tokens, the table of them has an end,
// and those that find no room in it are limited together.
func TestAttemptsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t, team(t, 0), logrus.ErrorLevel)
		refused := 0
		for k := range 6000 {
			w := g.as(caller{token: "guess"}, fmt.Sprintf("10.%d.%d.1:1", k/256, k%256), "GET /v1/services", "")
			if w.Code == 429 {
				refused++
			}
		}
		if n := g.server.CountedClients(); n > 4097 {
			t.Errorf("%d clients are counted", n)
		}
		if refused != 6000-4096-10 {
			t.Errorf("%d were refused, want all that shared a count but its first ten", refused)
		}
		storetest.Advance(time.Minute)
		if w := g.as(caller{token: "guess"}, "192.0.2.1:1", "GET /v1/services", ""); w.Code != 401 || g.server.CountedClients() > 1 {
			t.Errorf("a minute later: %d, %d clients counted", w.Code, g.server.CountedClients())
		}
	})
}

// A token is in no log, error or URL that is printed, wherever it came from.
func TestTokensAreNotShown(t *testing.T) {
	t.Parallel()
	const marker = "MARKER-7b1f"
	rights, err := httpapi.NewRights(httpapi.RightsConfig{Grants: []httpapi.Grant{
		grant("known", marker, both, []string{"web"}, "10.1.0.0/16"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{true, false} {
		token := marker
		if !known {
			token += "-unknown"
		}
		g := newGuarded(t, rights, logrus.TraceLevel)
		g.register(t, "web")
		queries := []string{"", "?token=" + token, "?a=1&token=" + token, "?%74%6Fken=" + token, "?TOKEN=" + token, "?a=1;token=" + token,
			"?a=%zz&token=" + token, "?%zztoken=" + token, "?token=" + url.QueryEscape(token) + "&token=" + token, "?;;token=" + token + "&&"}
		for _, request := range []string{
			"GET /v1/services", "GET /v1/services/web", "GET /v1/services/none", "GET /v1/services/db", "PATCH /v1/services",
			"GET /nowhere", "PUT " + web + "a1", "PUT " + web + "a1/heartbeat", "DELETE " + web + "a9", "GET /services",
			"POST /register", "GET /v1/services/%zz", "GET /healthz", "POST /healthz",
		} {
			for _, query := range queries {
				method, path, _ := strings.Cut(request, " ")
				req := httptest.NewRequest(method, "/x", strings.NewReader("{}"))
				req.RequestURI = path + query
				u, err := url.ParseRequestURI(path + query)
				if err != nil {
					continue // net/http answers this
				}
				req.URL = u
				if query == "" {
					req.Header.Set("Authorization", "Bearer "+token)
					req.Header.Set("X-Consul-Token", token)
				}
				w := httptest.NewRecorder()
				g.handler.ServeHTTP(w, req)
				if all := w.Body.String() + fmt.Sprint(w.Result().Header); strings.Contains(all, marker) {
					t.Errorf("%s%s: the answer shows the token: %s", request, query, all)
				}
			}
		}
		logged := g.logged.String()
		if strings.Contains(logged, marker) {
			t.Errorf("the log shows the token:\n%s", logged)
		}
		if n := strings.Count(logged, "msg=request"); n < 100 || known != strings.Contains(logged, "token=known") {
			t.Errorf("%d requests in the log, want them all\n%s", n, logged)
		}
	}
}

// What came by no guard may do nothing.
func TestUnguardedIsNothing(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, team(t, both), logrus.ErrorLevel)
	if httpapi.GrantOf(g.server, httptest.NewRequest(http.MethodGet, "/", nil)).May(httpapi.Read, "") {
		t.Error("a request that never came by the guard may read")
	}
}
