package etcdtest_test

import (
	"testing"
	"testing/synctest"

	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
)

func TestConforms(t *testing.T) {
	open := func(t *testing.T, test func(*testing.T, etcd.Client)) {
		c := etcdtest.NewCluster().Client()
		defer c.Close()
		test(t, c)
	}
	t.Run("Outside", func(t *testing.T) { etcdtest.Conform(t, open) })
	t.Run("Bubble", func(t *testing.T) {
		etcdtest.Conform(t, func(t *testing.T, test func(*testing.T, etcd.Client)) {
			synctest.Test(t, func(t *testing.T) { open(t, test) })
		})
	})
}

// The comparison itself: a cluster is like another one.
func TestCompare(t *testing.T) {
	c := etcdtest.NewCluster().Client()
	defer c.Close()
	etcdtest.Compare(t, c, 1, 300)
}
