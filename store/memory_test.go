package store_test

import (
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Opener {
		return func(*testing.T) store.Backend { return store.NewMemory() }
	}, false)
}
