package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// Who waits until the registry becomes stale, or no longer is, hears of it at
// once; nobody does of a backend that nobody shares.
func TestStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &storetest.Shared{Confirmed: 10 * time.Second}
		r, done := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
		defer done()
		begin := time.Now()
		await := func(want bool, after time.Duration) {
			t.Helper()
			stale, changed := r.Staleness()
			if stale == want {
				t.Fatalf("at %v stale is %t already", time.Since(begin), stale)
			}
			<-changed
			stale, _ = r.Staleness()
			if late := time.Since(begin) - after; stale != want || late < 0 || late > 20*time.Millisecond {
				t.Errorf("stale is %t after %v, want %t after %v", stale, time.Since(begin), want, after)
			}
		}
		await(true, 10*time.Second)
		time.AfterFunc(70*time.Second-time.Since(begin), func() { b.Confirm(r.Age() + time.Second) })
		await(false, 70*time.Second)
		await(true, 71*time.Second)
	})
	alone, _ := storetest.Open(t, func(*testing.T) store.Backend { return store.NewMemory() }, store.Config{})
	if stale, changed := alone.Staleness(); stale || changed != nil {
		t.Error("a registry that nobody shares may become stale")
	}
}
