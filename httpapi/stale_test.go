package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func newSharedAPI(t *testing.T, confirmed time.Duration) (*storetest.Shared, api) {
	t.Helper()
	b := &storetest.Shared{Confirmed: confirmed}
	r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	t.Cleanup(done)
	return b, api{r, httpapi.NewOfflineWith(r, httpapi.Config{Backend: "etcd"}).Handler()}
}

// says fails the test where a problem does not have a text in its detail.
func (r reply) says(t *testing.T, want string) {
	t.Helper()
	if detail, _ := r.json["detail"].(string); !strings.Contains(detail, want) {
		t.Errorf("the detail is %q, want %q in it", detail, want)
	}
}

func TestReadyWhileStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Second)
		a.want(t, 201, "PUT "+web+"a1", `{}`)
		a.want(t, 200, "GET /readyz", "")
		storetest.Advance(13500 * time.Millisecond)
		a.want(t, 503, "GET /readyz", "").says(t, "cut off from etcd for 12s")
		a.want(t, 200, "GET /healthz", "")
		a.want(t, 200, "GET /v1/services/web", "")
		b.Confirm(a.Age() + time.Second)
		a.want(t, 200, "GET /readyz", "")
	})
}

// The leases of a batch are made known together, and only who is there then is
// renewed.
func TestSharedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newSharedAPI(t, time.Hour)
		for _, id := range []string{"a1", "a2", "Host:80"} {
			a.want(t, 201, "PUT "+web+id, `{}`)
		}
		a.want(t, 201, "PUT "+web+"p", `{"permanent":true}`)
		storetest.Advance(10 * time.Second)
		var known [][]store.Renewal
		b.OnRenew = func(ctx context.Context, leases []store.Renewal) error {
			known = append(known, append([]store.Renewal(nil), leases...))
			storetest.Advance(5 * time.Second) // it takes its time
			_, err := a.Deregister(ctx, "web", "a2")
			return err
		}
		a.want(t, 200, "POST /v1/heartbeats", batchOf("a1", "a2", "nobody", "Host:80", "p")).
			same(t, "results", []any{"renewed", "unknown", "unknown", "renewed", "renewed"})
		if len(known) != 1 || len(known[0]) != 3 {
			t.Fatalf("made known was %v, want three leases at once", known)
		}
		for k, label := range []string{"a1", "a2"} {
			if l := known[0][k]; l.Service != "web" || l.Label != label || l.End != a.Now().Add(25*time.Second) {
				t.Errorf("made known was %v at %v", l, a.Now())
			}
		}
		// No lease lasts for longer here than the others know.
		for m := range a.Service("web").Members(a.Now()) {
			if end := m.Lease.End(); end != store.Never && end != known[0][0].End {
				t.Errorf("%s lasts until %v, known is %v", m.Label, end, known[0][0].End)
			}
		}
		// Who is unknown here may have been registered elsewhere just now.
		b.OnRenew = func(context.Context, []store.Renewal) error {
			storetest.Register(t, a.Registry, storetest.Instance("web", "new"))
			return nil
		}
		a.want(t, 200, "POST /v1/heartbeats", batchOf("new")).same(t, "results", []any{"renewed"})
		b.OnRenew = func(context.Context, []store.Renewal) error {
			return fmt.Errorf("etcd at 10.0.0.1:2379: %w", store.ErrNotDurable)
		}
		a.want(t, 503, "POST /v1/heartbeats", batchOf("a1")).says(t, "etcd at 10.0.0.1:2379: not stored durably; the leases may end: send the heartbeats again, here or to another server")
		a.want(t, 200, "POST /v1/heartbeats", batchOf())
	})
}

// Nobody is told that nothing has happened where that is not known.
func TestUnconfirmed(t *testing.T) {
	err := fmt.Errorf("register web/a1: etcd at 10.0.0.1:2379: %w", store.ErrUnconfirmed)
	if !errors.Is(err, store.ErrNotDurable) {
		t.Error("it is no ErrNotDurable")
	}
	status, detail := httpapi.ProblemOf(err)
	if status != 503 || strings.Contains(detail, "nothing") || !strings.Contains(detail, "here or at another server") {
		t.Errorf("got %d %s", status, detail)
	}
}
