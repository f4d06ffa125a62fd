package httpapi_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// While lists under way take all the room there is, a large one gets 503 after
// a while; small ones and heartbeats go on.
func TestListsShareRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		t.Cleanup(done)
		server := httpapi.NewOffline(r)
		a := api{r, server.Handler()}
		for k := range 65 {
			a.want(t, 201, fmt.Sprintf("PUT /v1/services/large/instances/a%d", k), `{"ttl":3600}`)
		}
		a.want(t, 201, "PUT "+web+"a1", `{"ttl":3600}`)
		status := func(want int, paths ...string) {
			t.Helper()
			for _, path := range paths {
				if r := a.do(t, "GET "+path, ""); r.status != want || want == 503 && r.header.Get("Retry-After") == "" {
					t.Errorf("%s: %d %v %s, want %d", path, r.status, r.header, r.text, want)
				}
			}
		}
		large := []string{"/v1/services/large", "/v1/services", "/services", "/v1/services/large?after=0&wait=1s"}
		status(200, large...)
		leave := httpapi.TakeAllRoom(server)
		status(503, large...)
		status(200, "/v1/services/web")
		a.want(t, 200, "PUT "+web+"a1/heartbeat", "")
		leave()
		status(200, large...)
	})
}
