package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

type group struct {
	Targets []string
	Labels  map[string]string
}

// groups asks for targets, as a caller with the token, "" for none.
func (a api) groups(t *testing.T, query, token string) []group {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/v1/prometheus"+query, nil)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, req)
	var list []group
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK || list == nil {
		t.Fatalf("%s: %d %v %s", query, w.Code, err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" { // Prometheus takes no other
		t.Errorf("Content-Type %s", got)
	}
	return list
}

func targetsOf(list []group) []string {
	all := []string{}
	for _, g := range list {
		all = append(all, g.Targets...)
	}
	return all
}

func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t, store.Config{})
		for target, body := range map[string]string{
			"web/a1": `{"addresses":["2001:db8::1","10.0.0.1"],"port":80,"ports":{"metrics":9090,"a-b":1,"a_b":2},"tags":["v2","eu"],
				"meta":{"build":"1234","build.x":"dot","build_x":"under","ümlaut":"no"}}`,
			"web/a2": `{"address":"10.0.0.2","port":80,"tags":["v2"],"ttl":5}`,
			"web/a3": `{"address":"10.0.0.3","port":80}`,
			"db/v6":  `{"address":"2001:db8::5","port":5432,"protocol":"udp","meta":{"städte":"x"}}`,
			"db/no":  `{"address":"10.0.0.4"}`,
		} {
			service, id := target[:len(target)-3], target[len(target)-2:]
			a.do(t, "PUT /v1/services/"+service+"/instances/"+id, body)
		}
		a.want(t, 404, "GET "+web+"a1", "") // ü is no key of meta
		a.want(t, 201, "PUT "+web+"a1", `{"addresses":["2001:db8::1","10.0.0.1"],"port":80,"ports":{"metrics":9090,"a-b":1,"a_b":2},
			"tags":["v2","eu"],"meta":{"build":"1234","build.x":"dot","build_x":"under"}}`)
		a.want(t, 201, "PUT /v1/services/db/instances/v6", `{"address":"2001:db8::5","port":5432,"protocol":"udp"}`)
		a.want(t, 200, "PUT "+web+"a3/heartbeat", `{"status":"down"}`)

		for query, want := range map[string][]string{
			"":                                 {"[2001:db8::5]:5432", "10.0.0.1:80", "10.0.0.2:80"},
			"?service=web":                     {"10.0.0.1:80", "10.0.0.2:80"},
			"?service=WEB&service=web":         {"10.0.0.1:80", "10.0.0.2:80"},
			"?service=db&service=web&tag=eu":   {"10.0.0.1:80"},
			"?service=nobody":                  {},
			"?tag=v2":                          {"10.0.0.1:80", "10.0.0.2:80"},
			"?tag=v2&tag=eu":                   {"10.0.0.1:80"},
			"?port=metrics":                    {"10.0.0.1:9090"},
			"?port=Metrics&service=web":        {"10.0.0.1:9090"},
			"?status=down":                     {"10.0.0.3:80"},
			"?status=draining":                 {},
			"?port=nothing":                    {},
			"?service=db&status=up&port=x&tag": {},
		} {
			if got := targetsOf(a.groups(t, query, "")); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		want := map[string]string{
			"__meta_roster_service": "web", "__meta_roster_instance": "a1", "__meta_roster_dns_name": "a1.web.service.",
			"__meta_roster_protocol": "tcp", "__meta_roster_status": "up", "__meta_roster_tags": ",eu,v2,",
			"__meta_roster_addresses": ",10.0.0.1,2001:db8::1,", "__meta_roster_port": "80", "__meta_roster_port_metrics": "9090",
			"__meta_roster_port_a_b": "1", "__meta_roster_meta_build": "1234", "__meta_roster_meta_build_x": "dot",
		}
		if got := a.groups(t, "?tag=eu", "")[0].Labels; !reflect.DeepEqual(got, want) {
			t.Errorf("labels %v, want %v", got, want)
		}
		for _, query := range []string{"?x=1", "?port=", "?port=a&port=b", "?status=gone", "?status=up&status=down"} {
			a.want(t, 400, "GET /v1/prometheus"+query, "")
		}
		storetest.Advance(5 * time.Second)
		if got := targetsOf(a.groups(t, "?service=web", "")); !reflect.DeepEqual(got, []string{"10.0.0.1:80"}) {
			t.Errorf("a lease has ended: %q", got)
		}
	})
}

// A token sees the targets of its services only, and is told so where it asks
// for another's.
func TestTargetsWithRights(t *testing.T) {
	t.Parallel()
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	rights, err := httpapi.NewRights(httpapi.RightsConfig{Grants: []httpapi.Grant{
		grant("all", "all-token", both, nil), grant("web", "web-token", httpapi.Read, []string{"web"}), grant("writer", "writer-token", httpapi.Register, nil),
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := api{r, httpapi.NewOfflineWith(r, httpapi.Config{Rights: func() *httpapi.Rights { return rights }}).Handler()}
	for _, service := range []string{"web", "db"} {
		a.want(t, 201, "PUT /v1/services/"+service+"/instances/a1", `{"address":"10.0.0.1","port":80}`, "Authorization: Bearer all-token")
	}
	if got := a.groups(t, "", "all-token"); len(got) != 2 {
		t.Errorf("who may read all gets %v", got)
	}
	if got := a.groups(t, "", "web-token"); len(got) != 1 || got[0].Labels["__meta_roster_service"] != "web" {
		t.Errorf("who may read web gets %v", got)
	}
	a.want(t, 403, "GET /v1/prometheus?service=db", "", "Authorization: Bearer web-token")
	a.want(t, 403, "GET /v1/prometheus", "", "Authorization: Bearer writer-token")
	a.want(t, 401, "GET /v1/prometheus", "")
	a.want(t, 200, "GET /openapi.yaml", "")
	a.want(t, 401, "GET /metrics", "")
	a.want(t, 403, "GET /metrics", "", "Authorization: Bearer writer-token")
	a.want(t, 404, "GET /metrics", "", "Authorization: Bearer web-token") // they are elsewhere
}
