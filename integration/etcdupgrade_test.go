package integration

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// startOnEtcd runs a server, on free ports, on a cluster of one member.
func startOnEtcd(t *testing.T) *upgradable {
	t.Helper()
	url := startEtcd(t)
	etcdClient(t, url)
	cmd := exec.Command(binary, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", "etcd://"+strings.TrimPrefix(url, "http://")+"/roster")
	cmd.Dir = t.TempDir()
	return startUpgradable(t, cmd)
}

// A server on etcd that hands over to a new process: every query is answered,
// what was registered stays, and the new process takes heartbeats.
func TestEtcdUpgrade(t *testing.T) {
	t.Parallel()
	u := startOnEtcd(t)
	services := []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"} // which the queries are for
	const body = `{"address":"10.0.0.1","port":80,"ttl":8}`
	var before uint64
	for _, service := range services {
		before = u.register(t, service, "a1", body).Revision
	}
	load := startQueries(t, u.dns, 500)
	for range 2 {
		t.Logf("upgraded: %s", u.upgrade(t))
		for _, service := range services {
			u.heartbeat(t, service, "a1")
		}
	}
	sent, answered, took := load.stop()
	t.Logf("%d queries in %v, %d answered", sent, took, answered)
	if answered != sent || sent == 0 {
		t.Errorf("%d of %d queries were not answered", sent-answered, sent)
	}
	if after := u.register(t, "s7", "a1", body).Revision; after != before {
		t.Errorf("after two upgrades the same registration has revision %d, and had %d", after, before)
	}
	u.stop(t)
}

// Each metric of a server on etcd is in the documentation's table, and each of
// etcd's that is in there is served. A backup is etcd's business.
func TestEtcdMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	u := startOnEtcd(t)
	u.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
	u.heartbeat(t, "web", "a1")
	_, _, body := get(t, "http://"+u.http+"/metrics")
	want, got := documented(t), served(body)
	for name := range got {
		if want[name] != got[name] {
			t.Errorf("%s is a %s, and docs/operations.md says %q", name, got[name], want[name])
		}
	}
	for name := range want {
		if got[name] == "" && strings.HasPrefix(name, "roster_etcd_") {
			t.Errorf("docs/operations.md has %s, which is not served", name)
		}
	}
	for _, line := range []string{"roster_etcd_cut_off 0", "roster_etcd_changes_total 1", "roster_etcd_renewals_total 1", "roster_etcd_other_servers 0"} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("there is no %q", line)
		}
	}
	status, _, body := get(t, "http://"+u.http+"/v1/backup")
	if status != http.StatusNotFound || !strings.Contains(body, "etcdctl snapshot save") {
		t.Errorf("a backup: %d %s", status, body)
	}
}
