package integration

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An etcd that wants certificates, or a password: the right ones do, and with
// wrong ones a start ends at once and says which.
func TestEtcdAuthentication(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, other := certificate(t, dir, "ca", nil), certificate(t, dir, "other", nil)
	certificate(t, dir, "etcd", ca)
	certificate(t, dir, "roster", ca)
	certificate(t, dir, "stranger", other)
	write(t, filepath.Join(dir, "good"), "secret2\n")
	write(t, filepath.Join(dir, "bad"), "secret3\n")
	secure := startUsers(t, dir, "https", "--client-cert-auth", "--trusted-ca-file", "ca.pem", "--cert-file", "etcd.pem", "--key-file", "etcd.key")
	clear := startUsers(t, dir, "http")
	shows := func(ca, cert string) []string {
		return []string{"--store", secure, "--etcd-ca", ca, "--etcd-cert", cert + ".pem", "--etcd-key", cert + ".key"}
	}
	is := func(user, file string) []string {
		return []string{"--store", clear, "--etcd-user", user, "--etcd-password-file", file}
	}
	for _, flags := range [][]string{
		shows("ca.pem", "roster"), // its common name is the user
		append(shows("ca.pem", "roster"), "--etcd-user", "roster", "--etcd-password-file", "good"),
		is("roster", "good"),
	} {
		r := startRoster(t, dir, flags...)
		r.register(t, "web", "a1", `{"address":"10.0.0.1"}`)
		r.heartbeat(t, "web", "a1")
		r.stop(t)
		slow := min(strings.Count(r.stderr.String(), "etcd does not answer yet"), 1) // on a busy machine: it takes long for a password
		if strings.Contains(r.ready, "members 127.") || strings.Count(r.stderr.String(), "warning") > slow {
			t.Errorf("%q:\n%s%s", flags, r.ready, r.stderr)
		}
	}
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{shows("other.pem", "roster"), "certificate signed by unknown authority"},
		{shows("ca.pem", "stranger"), "tls: bad certificate"},
		{[]string{"--store", secure, "--etcd-ca", "ca.pem"}, "tls: bad certificate"},
		{append(shows("other.pem", "roster"), "--etcd-user", "roster", "--etcd-password-file", "good"), "certificate signed by unknown authority"},
		{is("roster", "bad"), "invalid user ID or password"},
		{is("nobody", "good"), "invalid user ID or password"},
		{is("stranger", "good"), `does not let user "stranger"`},
		{[]string{"--store", clear}, "user name is empty"},
	} {
		fails(t, dir, 10*time.Second, c.flags, c.says)
	}
	if torture() { // what looks as if it was not there yet is waited for
		for _, flags := range [][]string{{"--store", secure}, append([]string{"--etcd-ca", "ca.pem"}, is("roster", "good")...)} {
			fails(t, dir, 40*time.Second, flags, "it may want TLS (--etcd-ca), or not have it")
		}
	}
}

// fails fails the test where roster serve does not end in time, with status 1 and
// an error that has a text in it.
func fails(t *testing.T, dir string, within time.Duration, flags []string, says string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(binary, append([]string{"serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"}, flags...)...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	late := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	begin := time.Now()
	err := cmd.Run()
	if took := time.Since(begin); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), says) {
		t.Errorf("%q: %v after %v, want status 1, and %q:\n%s", flags, err, took.Round(time.Millisecond), says, &stderr)
	}
	if strings.Contains(stderr.String(), "secret") {
		t.Errorf("%q: it shows a password:\n%s", flags, &stderr)
	}
}

// startUsers runs a cluster of one member that knows the user roster, who may
// work below /roster/, and another who may not. It returns what --store has
// for it.
func startUsers(t *testing.T, dir, scheme string, flags ...string) string {
	t.Helper()
	etcd, etcdctl := tool(t, "etcd"), tool(t, "etcdctl")
	ports := freePorts(t, 2)
	client, peer := scheme+"://"+ports[0], "http://"+ports[1]
	cmd := exec.Command(etcd, append([]string{
		"--name", "one", "--data-dir", t.TempDir(), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "one=" + peer, "--log-level", "error",
	}, flags...)...)
	cmd.Dir = dir
	start(t, cmd)
	ctl := func(command string) *exec.Cmd {
		args := []string{"--endpoints", client}
		if scheme == "https" {
			args = append(args, "--cacert", "ca.pem", "--cert", "roster.pem", "--key", "roster.key")
		}
		cmd := exec.Command(etcdctl, append(args, strings.Fields(command)...)...)
		cmd.Dir, cmd.Env = dir, append(cmd.Environ(), "ETCDCTL_API=3")
		return cmd
	}
	until(t, 20*time.Second, "etcd is healthy", func() bool { return ctl("endpoint health").Run() == nil })
	for _, command := range []string{
		"user add root:secret1", "user grant-role root root",
		"role add roster", "role grant-permission roster --prefix=true readwrite /roster/",
		"user add roster:secret2", "user grant-role roster roster", "user add stranger:secret2", "auth enable",
	} {
		run(t, ctl(command))
	}
	return "etcd://" + ports[0] + "/roster"
}

// An etcd that is not there: the log says that it is waited for, and why.
func TestEtcdAbsent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "password"), "secret2\n")
	nobody := freePorts(t, 1)[0]
	for _, flags := range [][]string{nil, {"--etcd-user", "roster", "--etcd-password-file", "password"}} {
		cmd := exec.Command(binary, append([]string{"serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", "etcd://" + nobody}, flags...)...)
		cmd.Dir = dir
		stderr := start(t, cmd).stderr
		until(t, 10*time.Second, "it says that it waits", func() bool {
			return strings.Contains(stderr.String(), "the start waits for it") && strings.Contains(stderr.String(), nobody+": connect: connection refused")
		})
		if strings.Count(stderr.String(), "waits") != 1 {
			t.Errorf("%q:\n%s", flags, stderr)
		}
	}
}
