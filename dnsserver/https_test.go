package dnsserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store/storetest"
)

// certificate returns one for 127.0.0.1 that signs itself.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// The whole table over TLS, on one kept connection.
func TestAnswersOverTLS(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	cert, pool := certificate(t)
	cfg := townConfig(r)
	cfg.TLS, cfg.TLSConfig = []string{"127.0.0.1:0"}, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s := serve(t, cfg)
	conn, err := dns.DialWithTLS("tcp", s.TLSAddrs()[0].String(), &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range answers {
		if err := conn.WriteMsg(query(c.question, 1232)); err != nil {
			t.Fatal(err)
		}
		resp, err := conn.ReadMsg()
		if err != nil {
			t.Fatalf("%s: %v", c.question, err)
		}
		if resp.Rcode != c.rcode {
			t.Errorf("%s: %s, want %s", c.question, dns.RcodeToString[resp.Rcode], dns.RcodeToString[c.rcode])
		}
		checkSection(t, c.question, resp.Answer, c.answer, uint32(r.Revision()))
	}
	for _, n := range s.Counts() {
		if n.Transport != "tls" {
			t.Errorf("counted as %+v", n)
		}
	}
}

// A client that speaks no TLS gets nothing, and the others go on.
func TestNoTLSOnTLSPort(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	cert, _ := certificate(t)
	cfg := townConfig(r)
	cfg.TLS, cfg.TLSConfig = []string{"127.0.0.1:0"}, &tls.Config{Certificates: []tls.Certificate{cert}}
	s := serve(t, cfg)
	c := dns.Client{Net: "tcp"}
	if resp, _, err := c.Exchange(query("service. SOA", 0), s.TLSAddrs()[0].String()); err == nil {
		t.Errorf("answered in the clear: %v", resp)
	}
}

// Over HTTPS: whichever path, with how long caches may keep the response.
func TestExchangeHTTPS(t *testing.T) {
	r, _ := storetest.Open(t, memory, compiledConfig)
	town(t, r)
	crowdOf(t, r, "city", 300)
	storetest.Register(t, r, instance("brief", "b1", "10.0.8.1", lease(8*time.Second)))
	s, err := dnsserver.New(townConfig(r))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for question, c := range map[string]struct{ records, ttl int }{
		"web.service. A":      {3, 30},
		"web.service. SRV":    {3, 30},
		"a1.web.service. TXT": {1, 30},
		"brief.service. A":    {1, 6},
		"city.service. A":     {300, 30},
		"nope.service. A":     {0, 1},
		"example.com. A":      {0, 0},
		"service. AXFR":       {0, 0},
	} {
		b, err := query(question, 1232).Pack()
		if err != nil {
			t.Fatal(err)
		}
		response, ttl := s.ExchangeHTTPS(b, dnsserver.Client)
		var m dns.Msg
		if err := m.Unpack(response); err != nil {
			t.Fatalf("%s: %v", question, err)
		}
		if len(m.Answer) != c.records && question != "city.service. A" || len(m.Answer) < c.records/2 || m.Truncated || int(ttl) > c.ttl || int(ttl) < c.ttl-1 {
			t.Errorf("%s: %d records, TC %v, for %d s; want %d for %d s", question, len(m.Answer), m.Truncated, ttl, c.records, c.ttl)
		}
	}
	if response, _ := s.ExchangeHTTPS([]byte("no message"), dnsserver.Client); response != nil {
		t.Errorf("no message is answered: %x", response)
	}
}
