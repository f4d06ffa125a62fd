package httpapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	c := sign(t, authority{}, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	key, _ := c.PrivateKey.(*ecdsa.PrivateKey)
	return authority{c.Leaf, key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// sign makes a certificate by the template; without an authority it signs
// itself.
func sign(t *testing.T, a authority, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if a.cert == nil {
		a = authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func clientCert(t *testing.T, a authority, commonName string, names ...string) tls.Certificate {
	t.Helper()
	return sign(t, a, &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, DNSNames: names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// serveTLS runs a server with TLS and the team's rights until the test ends.
func serveTLS(t *testing.T, a authority, rights *httpapi.Rights) string {
	t.Helper()
	r, _ := storetest.Open(t, memory, store.Config{})
	log := logrus.New()
	log.SetOutput(io.Discard)
	s, err := httpapi.New(httpapi.Config{
		Registry: r, Name: func(*store.Instance) string { return "" }, Log: log,
		Rights: func() *httpapi.Rights { return rights },
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS12,
			Certificates: []tls.Certificate{sign(t, a, &x509.Certificate{
				IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: a.pool(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); g.Wait() })
	return s.Addr().String()
}

// ask sends one request over a connection of its own.
func ask(t *testing.T, cfg *tls.Config, method, url, token, body string) (*http.Response, string, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// Client certificates over real connections: taken where they are verified,
// matched by name, and not demanded.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	addr := serveTLS(t, ours, team(t, 0))
	for name, c := range map[string]struct {
		certs         []tls.Certificate
		token         string
		read, written int
	}{
		"none":                    {read: 401, written: 401},
		"a token and none":        {token: "all-token", read: 200, written: 201},
		"by SAN":                  {certs: []tls.Certificate{clientCert(t, ours, "all", "cert.example.org", "all")}, read: 200, written: 403},
		"by CN":                   {certs: []tls.Certificate{clientCert(t, ours, "all")}, read: 200, written: 201},
		"a stranger":              {certs: []tls.Certificate{clientCert(t, ours, "stranger")}, read: 403, written: 403},
		"a stranger with a token": {certs: []tls.Certificate{clientCert(t, ours, "stranger")}, token: "all-token", read: 200, written: 201},
		"with an unknown token":   {certs: []tls.Certificate{clientCert(t, ours, "all")}, token: "no", read: 401, written: 401},
		"of another authority":    {certs: []tls.Certificate{clientCert(t, theirs, "all")}},
		"signed by itself":        {certs: []tls.Certificate{clientCert(t, authority{}, "all")}},
		"of a server, not a client": {certs: []tls.Certificate{sign(t, ours, &x509.Certificate{
			Subject: pkix.Name{CommonName: "all"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				cfg := &tls.Config{RootCAs: ours.pool(), MaxVersion: version}
				if len(c.certs) > 0 { // whatever authorities the server names
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.certs[0], nil }
				}
				read, body, err := ask(t, cfg, http.MethodGet, "https://"+addr+"/v1/services", c.token, "")
				if c.read == 0 {
					if err == nil {
						t.Errorf("a certificate that cannot be verified was let in: %s %s", read.Status, body)
					}
					continue
				}
				if err != nil || read.StatusCode != c.read {
					t.Fatalf("read: %v %s %v, want %d", read, body, err, c.read)
				}
				if read.ProtoMajor != 2 || read.TLS.Version != version {
					t.Errorf("over %s and TLS %x", read.Proto, read.TLS.Version)
				}
				id := strings.NewReplacer(" ", "-", ",", "").Replace(name) + tls.VersionName(version)[4:]
				write, body, err := ask(t, cfg, http.MethodPut, "https://"+addr+"/v1/services/db/instances/"+id, c.token, "{}")
				if err != nil || write.StatusCode != c.written {
					t.Errorf("write: %v %s %v, want %d", write, body, err, c.written)
				}
			}
		})
	}
}

func TestOldTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	addr := serveTLS(t, ours, team(t, 0))
	old := &tls.Config{RootCAs: ours.pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if resp, _, err := ask(t, old, http.MethodGet, "https://"+addr+"/healthz", "", ""); err == nil {
		t.Errorf("TLS 1.1 got %s", resp.Status)
	}
	// HTTP in clear gets net/http's word for it.
	resp, body, err := ask(t, nil, http.MethodGet, "http://"+addr+"/healthz", "", "")
	if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "HTTP request to an HTTPS server") {
		t.Errorf("%v %s %v", resp, body, err)
	}
}
