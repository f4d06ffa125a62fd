package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		ids := []string{"a1", "A1", "host:80", "-", "a_b", "10.0.0.1-x/y"}
		for _, id := range ids {
			storetest.Register(t, r, storetest.Instance("web", id))
		}
		for range 5 {
			storetest.Advance(20 * time.Second)
			for _, id := range ids {
				if !r.Renew([]byte("Web"), []byte(id)) {
					t.Errorf("%s is not there", id)
				}
			}
		}
		for _, c := range [][2]string{{"web", "a2"}, {"we", "a1"}, {"", "a1"}, {"web", ""}, {"web", store.Label("A1")},
			{string(make([]byte, 64)), "a1"}, {"web", string(make([]byte, 3000))}} {
			if r.Renew([]byte(c[0]), []byte(c[1])) {
				t.Errorf("%q is there", c)
			}
		}
		storetest.Advance(30 * time.Second)
		if r.Renew([]byte("web"), []byte("a1")) {
			t.Error("a lease that has ended was renewed")
		}
	})
}

func TestRenewAllocatesNothing(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	storetest.Register(t, r, storetest.Instance("web", "Host:80"))
	service := []byte("Web")
	for _, id := range []string{"a1", "Host:80", "nobody"} {
		b := []byte(id)
		if n := testing.AllocsPerRun(100, func() { r.Renew(service, b) }); n > 0 {
			t.Errorf("%s: %v allocations", id, n)
		}
	}
}
