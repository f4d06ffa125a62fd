package integration

import (
	"fmt"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// The suite that every backend passes, on a real etcd. What takes time in it
// happens in bubbles, into which a bridge leads.
func TestEtcdStore(t *testing.T) {
	t.Parallel()
	url := startEtcd(t)
	hub := etcdtest.NewHub(etcdClient(t, url))
	defer hub.Close()
	n := 0
	storetest.Run(t, func(*testing.T) storetest.Opener {
		n++
		prefix := fmt.Sprintf("/suite-%d", n)
		return func(*testing.T) store.Backend {
			return etcd.New(hub.Client(), etcd.Config{Endpoints: []string{url}, Prefix: prefix})
		}
	}, true)
}
