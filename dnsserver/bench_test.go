package dnsserver_test

import (
	"fmt"
	"testing"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
)

// benchServer is a server with ten instances of crowd.
func benchServer(b *testing.B) (*store.Registry, dnsserver.Offline) {
	b.Helper()
	r, err := store.Open(b.Context(), store.NewMemory(), compiledConfig)
	if err != nil {
		b.Fatal(err)
	}
	for k := range 10 {
		if _, err := r.Register(b.Context(), instance("crowd", fmt.Sprintf("i%d", k), fmt.Sprintf("10.2.0.%d", k+1)), false); err != nil {
			b.Fatal(err)
		}
	}
	return r, dnsserver.NewOffline(townConfig(r))
}
