package integration

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/etcd/etcdtest"
)

// startEtcd runs a cluster of one member, and returns its client URL.
func startEtcd(t *testing.T) string {
	t.Helper()
	url, _ := runEtcd(t)
	return url
}

// runEtcd is startEtcd for who wants to do something to the member.
func runEtcd(t *testing.T) (url string, member *process) {
	t.Helper()
	path := tool(t, "etcd")
	ports := freePorts(t, 2)
	clients, peers := "http://"+ports[0], "http://"+ports[1]
	cmd := exec.Command(path, "--name", "one", "--data-dir", t.TempDir(), "--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "one="+peers, "--log-level", "error")
	return clients, start(t, cmd)
}

// freePorts returns addresses on which nothing listens.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all
}

// etcdClient returns a client that has reached the member.
func etcdClient(t *testing.T, url string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Get(ctx, "k"); err != nil {
		t.Fatalf("etcd at %s does not answer: %v", url, err)
	}
	return c
}

// The etcd that the tests of store/etcd use, in memory, does what a real one
// does; so does a real one through a bridge into a bubble.
func TestEtcdFakeIsLikeEtcd(t *testing.T) {
	t.Parallel()
	url := startEtcd(t)
	t.Run("Real", func(t *testing.T) {
		etcdtest.Conform(t, func(t *testing.T, test func(*testing.T, etcd.Client)) {
			t.Helper()
			test(t, etcdClient(t, url))
		})
	})
	t.Run("Random", func(t *testing.T) { etcdtest.Compare(t, etcdClient(t, url), 7, 1000) })

	hub := etcdtest.NewHub(etcdClient(t, url))
	defer hub.Close()
	inBubble := func(t *testing.T, test func(*testing.T, etcd.Client)) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			b := hub.Client()
			defer b.Close()
			test(t, b)
		})
	}
	t.Run("Bridge", func(t *testing.T) { etcdtest.Conform(t, inBubble) })
	t.Run("BridgeTime", func(t *testing.T) { inBubble(t, testBridgeTime) })
	t.Run("BridgeRandom", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c etcd.Client) { etcdtest.Compare(t, c, 8, 1000) })
	})
}

// Time goes on in the bubble while a watch waits, stands during a request, and
// what another bridge writes is brought before it goes on.
func testBridgeTime(t *testing.T, c etcd.Client) {
	t.Helper()
	w := c.Watch(t.Context(), "time/", clientv3.WithPrefix())
	begin := time.Now()
	for i := range 100 {
		timer := time.NewTimer(time.Minute)
		<-timer.C
		if _, err := c.Put(t.Context(), "other", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), "time/k", ""); err != nil {
			t.Fatal(err)
		}
		if r := <-w; len(r.Events) != 1 || r.Events[0].Kv.Version != int64(i+1) {
			t.Fatalf("put %d, the watch brings %+v", i, r)
		}
	}
	if took := time.Since(begin); took != 100*time.Minute {
		t.Errorf("it took %v, want 1h40m", took)
	}
}
