package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Open returns a store on the etcd that is to be found at the endpoints. With a
// user it logs in, and waits until it can, or ctx is done, for 30 seconds at most.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	begin, cfg := time.Now(), cfg.withDefaults()
	for told := false; ; told = true {
		c, err := dial(cfg)
		if err == nil {
			if told {
				cfg.Waiting = nil
			}
			return New(c, cfg), nil
		}
		if isAbsent(err) && !told {
			cfg.Waiting(err)
		}
		if !isAbsent(err) || time.Since(begin) > reachTime || !pause(ctx, tickTime) {
			return nil, fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
		}
	}
}

func dial(cfg Config) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.User,
		Password:             cfg.Password,
		DialTimeout:          txnTime,
		DialKeepAliveTime:    5 * time.Second, // etcd ends connections that ask more often
		DialKeepAliveTimeout: txnTime,         // and what a peer does not acknowledge for so long ends it
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: txnTime,
		})},
		BackoffWaitBetween:    50 * time.Millisecond,
		BackoffJitterFraction: 0.5,
		Logger:                zap.NewNop(), // errors come back to us
	})
	return c, explain(cfg, err)
}

// isAbsent reports whether an error says no more than that nobody has answered.
func isAbsent(err error) bool {
	code := status.Code(err)
	return errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded || code == codes.Unavailable
}

// errTLS is a member with which TLS does not work as it is to be.
var errTLS = errors.New("TLS does not work: see to --etcd-ca, --etcd-cert and --etcd-key")

// explain returns, for an error of etcd's client, why TLS with the members does not
// work, or which do not take connections: the client says only that time has run
// out.
func explain(cfg Config, err error) error {
	if err == nil || !isAbsent(err) {
		return err
	}
	for _, endpoint := range cfg.Endpoints {
		why := handshake(endpoint, cfg.TLS)
		if why == nil {
			return err
		}
		if isTLS(why) {
			return fmt.Errorf("%s: %w (%w)", endpoint, errTLS, why)
		}
		if errors.Is(why, io.EOF) || errors.Is(why, syscall.ECONNRESET) { // or it is a relay whose member is not there
			why = fmt.Errorf("%s takes connections and ends them: it may want TLS (--etcd-ca), or not have it", endpoint)
		}
		err = fmt.Errorf("%w; %w", err, why)
	}
	return err
}

// isTLS reports whether an error is of TLS, and not of a member that is not there.
func isTLS(err error) bool {
	var unverified *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var op *net.OpError
	return errors.As(err, &unverified) || errors.As(err, &header) || errors.Is(err, errClear) ||
		errors.As(err, &op) && op.Op == "remote error"
}

// handshake makes a connection to a member. Where it asks for a certificate and
// does not take ours, it says so only after the handshake.
func handshake(endpoint string, cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), txnTime)
	defer cancel()
	if cfg == nil {
		return handshakeClear(ctx, endpoint)
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(txnTime / 4))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

var errClear = errors.New("the member wants TLS")

// handshakeClear begins HTTP/2 in the clear: what comes first is then the length
// of a short frame, and with TLS an alert.
func handshakeClear(ctx context.Context, endpoint string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(txnTime / 4))
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		return err
	}
	first := make([]byte, 1)
	switch n, err := conn.Read(first); {
	case n == 1 && first[0] != 0:
		return errClear
	case n == 0 && !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return nil
}
