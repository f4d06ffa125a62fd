package etcd_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
	"github.com/rosterdns/roster/store/storetest"
)

// judges returns which of the servers judges each of many instances; each must
// have one.
func judges(t *testing.T, servers []*server) map[string]int {
	t.Helper()
	all := map[string]int{}
	for n := range 3000 {
		i := &store.Instance{Service: fmt.Sprint("service", n%30), Label: fmt.Sprint("10-0-0-", n)}
		judge := -1
		for k, s := range servers {
			if !s.Judges(i) {
				continue
			}
			if judge >= 0 {
				t.Fatalf("servers %d and %d judge %v", judge, k, i)
			}
			judge = k
		}
		if judge < 0 {
			t.Fatalf("nobody judges %v", i)
		}
		all[i.Service+"/"+i.Label] = judge
	}
	return all
}

// Each check is run by one server; all have about as many; and only those of a
// server that comes or goes change hands.
func TestJudges(t *testing.T) {
	bubble(t, func(t *testing.T, cluster *etcdtest.Cluster) {
		var servers []*server
		for k := range 3 {
			servers = append(servers, startAs(t, cluster, etcd.Config{}, store.Config{}, fmt.Sprintf("%016x", 0x1234567890abcdef+k)))
			storetest.Advance(time.Second)
		}
		shares := func(judge map[string]int, n int) {
			t.Helper()
			had := map[int]int{}
			for _, k := range judge {
				had[k]++
			}
			for k, share := range had {
				if share < 3000/n*8/10 || share > 3000/n*12/10 {
					t.Errorf("of 3000, server %d of %d judges %d", k, n, share)
				}
			}
			if len(had) != n {
				t.Errorf("%d servers judge, want %d", len(had), n)
			}
		}
		three := judges(t, servers)
		shares(three, 3)
		servers[2].close()
		storetest.Advance(time.Second)
		two := judges(t, servers[:2])
		shares(two, 2)
		for i, k := range three {
			if k != 2 && two[i] != k {
				t.Fatalf("%s went from %d to %d, both of which are up", i, k, two[i])
			}
		}
		servers[1].kill()
		storetest.Advance(12 * time.Second)
		for i, k := range judges(t, servers[:1]) {
			if k != 0 {
				t.Fatalf("%s is judged by %d", i, k)
			}
		}
		servers[1].client.Heal()
		storetest.Advance(2 * time.Second)
		for i, k := range judges(t, servers[:2]) {
			if k != two[i] {
				t.Fatalf("%s was judged by %d, and is by %d", i, two[i], k)
			}
		}
	})
}
