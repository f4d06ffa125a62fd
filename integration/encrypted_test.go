package integration

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// DNS over TLS and over HTTPS, as dig and kdig speak them; a certificate that
// is replaced holds for new connections.
func TestEncryptedDNS(t *testing.T) {
	t.Parallel()
	dig, kdig := tool(t, "dig"), tool(t, "kdig")
	dir := t.TempDir()
	ca := certificate(t, dir, "ca", nil)
	certificate(t, dir, "server1", ca)
	certificate(t, dir, "server2", ca)
	for _, ext := range []string{".pem", ".key"} {
		write(t, filepath.Join(dir, "server"+ext), read(t, dir, "server1"+ext))
	}
	r := startRoster(t, dir, "--store", "memory:", "--dot", "127.0.0.1:0", "--tls-cert", "server.pem", "--tls-key", "server.key")
	m := regexp.MustCompile(`127\.0\.0\.1:(\d+) \(TLS\)`).FindStringSubmatch(r.ready)
	if m == nil {
		t.Fatalf("the ready line says nothing of TLS: %s", r.ready)
	}
	dot := m[1]
	_, doh, _ := net.SplitHostPort(r.http)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	put(t, r, roots, "/v1/services/web/instances/a1", `{"address":"10.0.0.1","port":80}`)
	pem := filepath.Join(dir, "ca.pem")
	for name, args := range map[string][]string{
		"dig +tls":            {dig, "-p", dot, "+tls", "+tls-ca=" + pem},
		"dig +https":          {dig, "-p", doh, "+https", "+tls-ca=" + pem},
		"dig +https-get":      {dig, "-p", doh, "+https-get", "+tls-ca=" + pem},
		"dig +tls +keepopen":  {dig, "-p", dot, "+tls", "+keepopen", "+tls-ca=" + pem},
		"kdig +tls":           {kdig, "-p", dot, "+tls-ca=" + pem, "+tls-hostname=127.0.0.1"},
		"kdig +tls, padded":   {kdig, "-p", dot, "+tls-ca=" + pem, "+padding"},
		"kdig +https":         {kdig, "-p", doh, "+https=/dns-query", "+tls-ca=" + pem},
		"kdig +https-get":     {kdig, "-p", doh, "+https=/dns-query", "+https-get", "+tls-ca=" + pem},
		"dig, verify nothing": {dig, "-p", dot, "+tls"},
	} {
		out := run(t, exec.Command(args[0], append(args[1:], "@127.0.0.1", "+noall", "+answer", "SRV", "web.service.")...))
		if !strings.Contains(out, "10 10 80 a1.web.service.") {
			t.Errorf("%s:\n%s", name, out)
		}
	}

	subject := func() string {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+dot, &tls.Config{RootCAs: roots, NextProtos: []string{"dot"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if p := conn.ConnectionState().NegotiatedProtocol; p != "dot" {
			t.Errorf("ALPN is %q, want dot", p)
		}
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := subject(); got != "server1" {
		t.Errorf("the certificate is %s's", got)
	}
	for _, ext := range []string{".pem", ".key"} {
		write(t, filepath.Join(dir, "server"+ext), read(t, dir, "server2"+ext))
	}
	r.reload(t, "the certificates were read again")
	if got := subject(); got != "server2" {
		t.Errorf("after SIGHUP the certificate is %s's, want server2's", got)
	}
}

// put registers over HTTPS.
func put(t *testing.T, r *roster, roots *x509.CertPool, path, body string) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPut, "https://"+r.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("PUT %s: %s", path, resp.Status)
	}
}

// On plain loopback DNS over HTTPS is there as well, without TLS.
func TestPlainDNSOverHTTP(t *testing.T) {
	t.Parallel()
	dig := tool(t, "dig")
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	r.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
	_, port, _ := net.SplitHostPort(r.http)
	if out := run(t, exec.Command(dig, "@127.0.0.1", "-p", port, "+http-plain", "+short", "A", "web.service.")); out != "10.0.0.1\n" {
		t.Errorf("dig +http-plain says %q", out)
	}
}
