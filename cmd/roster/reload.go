package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/httpapi"
)

// reloadable are the files that SIGHUP has a running server read again: tokens
// and certificates.
type reloadable struct {
	tokens   string // the path; "" without --tokens
	clientCA bool
	rights   atomic.Pointer[httpapi.Rights] // nil where everybody may do everything
	certs    *certificates                  // nil without --tls-cert
	etcdCert *clientCertificate             // nil without --etcd-cert
}

// openReloadable reads the files for the first time.
func (f *serveFlags) openReloadable() (*reloadable, error) {
	l := &reloadable{tokens: f.tokens, clientCA: f.clientCA != ""}
	var err error
	if f.tlsCert != "" {
		if l.certs, err = openCertificates(f.tlsCert, f.tlsKey, f.clientCA); err != nil {
			return nil, err
		}
	}
	if f.etcd.cert != "" {
		if l.etcdCert, err = openClientCertificate(f.etcd.cert, f.etcd.key); err != nil {
			return nil, err
		}
	}
	return l, l.reloadRights()
}

// reloadRights reads the tokens file. Without one, client certificates allow
// everything where they are asked for.
func (l *reloadable) reloadRights() error {
	var rights *httpapi.Rights
	var err error
	switch {
	case l.tokens != "":
		rights, err = readTokens(l.tokens, l.clientCA)
	case l.clientCA:
		rights, err = httpapi.NewRights(httpapi.RightsConfig{Certificates: true, Certified: httpapi.Read | httpapi.Register})
	}
	if err == nil {
		l.rights.Store(rights)
	}
	return err
}

func readTokens(path string, clientCA bool) (*httpapi.Rights, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read --tokens: %w", err)
	}
	rights, err := parseTokens(b, clientCA)
	if err != nil {
		return nil, fmt.Errorf("--tokens %s: %w", path, err)
	}
	return rights, nil
}

// httpRights returns what [httpapi.Config] asks for rights, nil where there
// are none.
func (l *reloadable) httpRights() func() *httpapi.Rights {
	if l.rights.Load() == nil {
		return nil
	}
	return l.rights.Load
}

// dnsTLS returns the configuration of DNS over TLS, nil without certificates.
func (l *reloadable) dnsTLS() *tls.Config {
	if l.certs == nil {
		return nil
	}
	return l.certs.config(false, "dot")
}

// httpTLS returns the configuration of the HTTP address, nil for plain HTTP.
func (l *reloadable) httpTLS() *tls.Config {
	if l.certs == nil {
		return nil
	}
	return l.certs.config(true, "h2", "http/1.1")
}

// run reads the files again at each signal until ctx is done. What is bad
// changes nothing, and the log says so.
func (l *reloadable) run(ctx context.Context, signals <-chan os.Signal, log logrus.FieldLogger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			l.reload(log)
		}
	}
}

func (l *reloadable) reload(log logrus.FieldLogger) {
	if l.tokens == "" && l.certs == nil && l.etcdCert == nil {
		log.Info("SIGHUP: there is nothing to read again: none of --tokens, --tls-cert and --etcd-cert is given")
	}
	if l.tokens != "" {
		if err := l.reloadRights(); err != nil {
			log.WithError(err).Error("SIGHUP: the tokens file is bad as a whole; the old rights stay in force")
		} else {
			log.WithFields(logrus.Fields{"file": l.tokens, "tokens": l.rights.Load().Len()}).Info("SIGHUP: the tokens file was read again")
		}
	}
	if l.certs != nil {
		if err := l.certs.reload(); err != nil {
			log.WithError(err).Error("SIGHUP: the certificates cannot be used; the old ones stay in force")
		} else {
			log.WithFields(logrus.Fields{"file": l.certs.cert}).Info("SIGHUP: the certificates were read again")
		}
	}
	if l.etcdCert != nil {
		if err := l.etcdCert.reload(); err != nil {
			log.WithError(err).Error("SIGHUP: the certificate for etcd cannot be used; the old one stays in force")
		} else {
			log.WithFields(logrus.Fields{"file": l.etcdCert.cert}).Info("SIGHUP: the certificate for etcd was read again")
		}
	}
}

// checkAccess returns the first mistake in the flags that say who gets in.
func (f *serveFlags) checkAccess() error {
	switch {
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key: give both, or none for plain HTTP")
	case f.clientCA != "" && f.tlsCert == "":
		return errors.New("--client-ca: client certificates need TLS; give --tls-cert and --tls-key as well")
	case !f.open && f.tokens == "" && f.clientCA == "" && !isLoopback(f.http):
		return fmt.Errorf("--http %s: anybody who reaches this address could register; give --tokens FILE (roster token new makes one) "+
			"or --client-ca FILE, listen on 127.0.0.1, or say --open where the network is to be trusted", f.http)
	case !f.open && f.metrics != "" && !isLoopback(f.metrics):
		return fmt.Errorf("--metrics %s: no rights guard this address, and anybody who reaches it could read metrics and profiles; "+
			"listen on 127.0.0.1, leave it out for /metrics on --http, or say --open where the network is to be trusted", f.metrics)
	}
	return nil
}
