package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newToken makes a token and its entry with the program itself.
func newToken(t *testing.T, flags ...string) (token, entry string) {
	t.Helper()
	token, entry, ok := strings.Cut(run(t, exec.Command(binary, append([]string{"token", "new"}, flags...)...)), "\n")
	if !ok {
		t.Fatalf("roster token new printed %q", token)
	}
	return token, entry
}

// write writes a file in one step, as an operator's tool does.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// reload sends SIGHUP and waits until the log says what has to come of it.
func (r *roster) reload(t *testing.T, says string) {
	t.Helper()
	before := strings.Count(r.stderr.String(), says)
	if err := r.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "the log says "+says, func() bool { return strings.Count(r.stderr.String(), says) > before })
}

// with does a request with a token.
func (r *roster) with(t *testing.T, token, method, url string) int {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// SIGHUP: a bad tokens file keeps the old rights and says so, a good one takes
// effect at once, and no token is ever printed.
func TestReloadTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "tokens.yaml")
	web, webEntry := newToken(t, "--name", "web-team", "--service", "web")
	db, dbEntry := newToken(t, "--name", "db-team", "--service", "db")
	write(t, file, "tokens:\n"+webEntry)
	r := startRoster(t, dir, "--store", "memory:", "--tokens", file, "--log-level", "debug")
	url := "http://" + r.http + "/v1/services/"
	want := func(when string, cells map[string]int) {
		t.Helper()
		for cell, want := range cells {
			token, service, _ := strings.Cut(cell, " ")
			token = map[string]string{"web": web, "db": db}[token]
			got := r.with(t, token, http.MethodPut, url+service+"/instances/a1")
			if got == http.StatusCreated { // the first time
				got = http.StatusOK
			}
			if got != want {
				t.Errorf("%s, %s: %d, want %d", when, cell, got, want)
			}
		}
	}
	old := map[string]int{"web web": 200, "web db": 403, "db db": 401, "none web": 401}
	want("at the start", old)

	write(t, file, "anonymous: [register]\ntokens:\n"+dbEntry+"  - name: pasted\n    sha256: "+web+"\n")
	r.reload(t, "the old rights stay in force")
	if log := r.stderr.String(); !strings.Contains(log, file) || !strings.Contains(log, "sha256: it is no SHA-256") {
		t.Errorf("the log does not name the file and the field:\n%s", log)
	}
	want("after a bad file", old)

	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	r.reload(t, "the old rights stay in force")
	want("without a file", old)

	write(t, file, "tokens:\n"+dbEntry)
	r.reload(t, "the tokens file was read again")
	want("after a good file", map[string]int{"web web": 401, "web db": 401, "db db": 200, "db web": 403, "none db": 401})

	for _, path := range []string{"web?token=" + db, "none?token=" + web, "nowhere/x/y?a=1&token=" + db} {
		r.with(t, "", http.MethodGet, url+path)
	}
	r.stop(t)
	log := r.stderr.String()
	if strings.Contains(log, web) || strings.Contains(log, db) {
		t.Errorf("a token is in the log:\n%s", log)
	}
	if !strings.Contains(log, "msg=request") || !strings.Contains(log, "token=db-team") {
		t.Errorf("no access log at debug level:\n%s", log)
	}
}

// A server without such files takes SIGHUP and goes on.
func TestReloadNothing(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.reload(t, "there is nothing to read again")
	r.register(t, "web", "a1", "{}")
	r.stop(t)
}

// certificate makes a certificate and its key as PEM files in dir; it is
// signed by the issuer, or by itself.
func certificate(t *testing.T, dir, name string, issuer *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: issuer == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// --client-ca without --tokens: who has a certificate may do everything,
// nobody else anything. SIGHUP brings a new certificate and a new authority to
// new connections, and bad files change nothing.
func TestReloadCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := x509.NewCertPool()
	first, second := certificate(t, dir, "ca1", nil), certificate(t, dir, "ca2", nil)
	roots.AddCert(first.Leaf)
	roots.AddCert(second.Leaf)
	certificate(t, dir, "server1", first)
	certificate(t, dir, "server2", second)
	for _, ext := range []string{".pem", ".key"} {
		write(t, filepath.Join(dir, "server"+ext), read(t, dir, "server1"+ext))
	}
	write(t, filepath.Join(dir, "ca.pem"), read(t, dir, "ca1.pem"))
	clients := map[string]*tls.Certificate{"none": nil, "of ca1": certificate(t, dir, "client1", first), "of ca2": certificate(t, dir, "client2", second)}
	r := startRoster(t, dir, "--store", "memory:", "--tls-cert", "server.pem", "--tls-key", "server.key", "--client-ca", "ca.pem")

	// ask says who the server is, and what it answers; 0 where it does not
	// take the client's certificate.
	ask := func(c *http.Client, method, path string) (server string, status int) {
		req, err := http.NewRequest(method, "https://"+r.http+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return "", 0
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].Subject.CommonName, resp.StatusCode
	}
	connect := func(cert *tls.Certificate) *http.Client {
		cfg := &tls.Config{RootCAs: roots}
		if cert != nil {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	want := func(when, server string, cells map[string]int) {
		t.Helper()
		for who, want := range cells {
			c := connect(clients[who])
			by, status := ask(c, http.MethodPut, "/v1/services/web/instances/a1")
			if status == http.StatusCreated {
				status = http.StatusOK
			}
			if status != want || status != 0 && by != server {
				t.Errorf("%s, client %s: %d from %q, want %d from %q", when, who, status, by, want, server)
			}
			if by, status := ask(c, http.MethodGet, "/readyz"); want != 0 && status != http.StatusOK {
				t.Errorf("%s, client %s: readyz %d from %q", when, who, status, by)
			}
		}
	}
	before := map[string]int{"none": 401, "of ca1": 200, "of ca2": 0}
	want("at the start", "server1", before)
	open := connect(clients["of ca1"])
	ask(open, http.MethodGet, "/v1/services")

	write(t, filepath.Join(dir, "server.pem"), read(t, dir, "server2.pem")) // the key is still the first one's
	r.reload(t, "the certificates cannot be used; the old ones stay in force")
	want("after a pair that does not fit", "server1", before)

	write(t, filepath.Join(dir, "server.key"), read(t, dir, "server2.key"))
	write(t, filepath.Join(dir, "ca.pem"), "nothing")
	r.reload(t, "the certificates cannot be used; the old ones stay in force")
	want("after a bad authority", "server1", before)

	write(t, filepath.Join(dir, "ca.pem"), read(t, dir, "ca2.pem"))
	r.reload(t, "the certificates were read again")
	want("after good files", "server2", map[string]int{"none": 401, "of ca1": 0, "of ca2": 200})
	if by, status := ask(open, http.MethodGet, "/v1/services"); by != "server1" || status != http.StatusOK {
		t.Errorf("the connection from before: %d from %q, want it to go on", status, by)
	}
	r.stop(t)
}

// A token and a certificate side by side, as curl sends them.
func TestCurlWithRights(t *testing.T) {
	t.Parallel()
	curl := tool(t, "curl")
	dir := t.TempDir()
	ca := certificate(t, dir, "ca", nil)
	certificate(t, dir, "server", ca)
	certificate(t, dir, "web-team", ca)
	token, entry := newToken(t, "--name", "web-team", "--service", "web", "--address", "10.0.0.0/8")
	write(t, filepath.Join(dir, "tokens.yaml"), "tokens:\n"+entry)
	r := startRoster(t, dir, "--store", "memory:", "--tls-cert", "server.pem", "--tls-key", "server.key", "--client-ca", "ca.pem", "--tokens", "tokens.yaml")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-H", "Authorization: Bearer " + token}, "201 2"},
		{[]string{"-H", "X-Consul-Token: " + token, "--http1.1"}, "200 1.1"},
		{[]string{"--cert", "web-team.pem", "--key", "web-team.key", "--tls-max", "1.2"}, "200 2"},
		{nil, "401 2"},
	} {
		args := append([]string{"-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "--cacert", "ca.pem", "-X", "PUT", "--json", `{"address":"10.0.0.5"}`}, c.args...)
		cmd := exec.Command(curl, append(args, fmt.Sprintf("https://%s/v1/services/web/instances/a1", r.http))...)
		cmd.Dir = dir
		if got := run(t, cmd); got != c.want {
			t.Errorf("curl %q: %s, want %s", c.args, got, c.want)
		}
	}
}
