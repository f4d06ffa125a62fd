package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// certificates are the server's certificate and the authorities whose clients
// it believes, as their files were when they were last read. Every listener
// with TLS takes its configuration from here, and so follows when they are
// read again.
type certificates struct {
	cert, key, clientCA string // paths; clientCA may be ""
	current             atomic.Pointer[loaded]
}

// loaded is what was in the files. It is replaced, never changed.
type loaded struct {
	cert      tls.Certificate
	clientCAs *x509.CertPool // nil without --client-ca
}

// openCertificates reads the files of --tls-cert, --tls-key and --client-ca.
func openCertificates(cert, key, clientCA string) (*certificates, error) {
	c := &certificates{cert: cert, key: key, clientCA: clientCA}
	return c, c.reload()
}

// reload reads the files again. Where one is bad, all stay as they were.
func (c *certificates) reload() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read --tls-cert %s and --tls-key %s: %w", c.cert, c.key, err)
	}
	l := &loaded{cert: pair}
	if c.clientCA != "" {
		if l.clientCAs, err = readPool(c.clientCA); err != nil {
			return fmt.Errorf("read --client-ca %s: %w", c.clientCA, err)
		}
	}
	c.current.Store(l)
	return nil
}

func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("there is no certificate in it; it has to be PEM")
	}
	return pool, nil
}

// config returns the configuration of a listener that speaks the given
// protocols (ALPN). clients is whether it asks for client certificates; they
// are verified where they come, and not demanded. Each new connection meets
// the files as they were last read.
func (c *certificates) config(clients bool, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			l := c.current.Load()
			cfg := &tls.Config{
				MinVersion:   tls.VersionTLS12,
				NextProtos:   protocols,
				Certificates: []tls.Certificate{l.cert},
			}
			if clients && l.clientCAs != nil {
				cfg.ClientAuth, cfg.ClientCAs = tls.VerifyClientCertIfGiven, l.clientCAs
			}
			return cfg, nil
		},
	}
}

// clientCertificate is the certificate that etcd is shown, as its files were
// when they were last read.
type clientCertificate struct {
	cert, key string // paths
	current   atomic.Pointer[tls.Certificate]
}

// openClientCertificate reads the files of --etcd-cert and --etcd-key.
func openClientCertificate(cert, key string) (*clientCertificate, error) {
	c := &clientCertificate{cert: cert, key: key}
	return c, c.reload()
}

// reload reads the files again. Where one is bad, both stay as they were.
func (c *clientCertificate) reload() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read --etcd-cert %s and --etcd-key %s: %w", c.cert, c.key, err)
	}
	c.current.Store(&pair)
	return nil
}
