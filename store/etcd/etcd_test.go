package etcd_test

import (
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// The suite for every backend, on an etcd in memory; integration has it on a
// real one.
func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Opener {
		var c *etcdtest.Cluster
		return func(*testing.T) store.Backend {
			if c == nil { // made where it is used: in a bubble or outside of one
				c = etcdtest.NewCluster()
			}
			return etcd.New(c.Client(), etcd.Config{Endpoints: []string{"fake"}})
		}
	}, true)
}
