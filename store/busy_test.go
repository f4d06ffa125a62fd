package store_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
)

// stuck is a backend whose commits wait until they are let go.
type stuck struct {
	*store.Memory
	begun, letGo chan struct{}
}

func (b *stuck) Commit(ctx context.Context, events []store.Event) error {
	b.begun <- struct{}{}
	<-b.letGo
	return b.Memory.Commit(ctx, events)
}

// While the disk takes its time, so many registrations wait for it, and more
// are turned away; heartbeats, and registrations that change nothing, go on.
func TestBusy(t *testing.T) {
	t.Parallel()
	b := &stuck{store.NewMemory(), make(chan struct{}, 10), make(chan struct{})}
	r, err := store.Open(t.Context(), b, store.Config{MaxRegistering: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := func(id string) *store.Instance {
		return &store.Instance{Service: "web", ID: id, Port: 80, TTL: time.Minute, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	}
	done := make(chan error, 2)
	register := func(id string) { _, err := r.Register(t.Context(), in(id), false); done <- err }
	go register("a")
	<-b.begun
	b.letGo <- struct{}{}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	go register("b")
	go register("c")
	<-b.begun
	<-b.begun
	if _, err := r.Register(t.Context(), in("d"), false); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a third one: %v", err)
	}
	if _, err := r.Register(t.Context(), in("a"), false); err != nil {
		t.Errorf("one that changes nothing: %v", err)
	}
	if _, err := r.Heartbeat(t.Context(), "web", "a", store.Beat{}); err != nil {
		t.Errorf("a heartbeat: %v", err)
	}
	if n := r.Counts().Shed; n != 1 {
		t.Errorf("%d are counted as turned away, want 1", n)
	}
	close(b.letGo)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Register(t.Context(), in("d"), false); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}
