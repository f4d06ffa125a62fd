package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/rosterdns/roster/store"
)

// errOurs marks a probe that failed for want of something on this side: it says
// nothing about the instance.
var errOurs = errors.New("the server could not probe")

const (
	// maxAnswer bounds what is read of an answer. An HTTP body is not read at
	// all: the status says it.
	maxAnswer = 64 << 10
	// maxHops is how many redirects are followed, all to the same port of the
	// same address.
	maxHops = 3
	// maxInterim is how many 1xx answers may come before the real one.
	maxInterim = 5
)

// probe asks every address of the instance, one after the other, within ctx's
// deadline, and returns why one failed. Those to which this host has no route
// are left out; if none is left the error is errOurs.
func probe(ctx context.Context, i *store.Instance) error {
	asked := false
	var ours error
	for _, a := range i.Addresses {
		at := netip.AddrPortFrom(a, i.CheckPort())
		switch err := ask(ctx, i.Check, at); {
		case err == nil:
			asked = true
		case errors.Is(err, errOurs):
			ours = err
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%s %s: no answer within %v", i.Check.Type, at, i.Check.Timeout)
		default:
			return fmt.Errorf("%s %s: %w", i.Check.Type, at, err)
		}
	}
	if !asked {
		return ours
	}
	return nil
}

func ask(ctx context.Context, c *store.Check, at netip.AddrPort) error {
	switch c.Type {
	case store.CheckHTTP:
		return askHTTP(ctx, at, c.Path)
	case store.CheckGRPC:
		return askGRPC(ctx, at)
	}
	return askTCP(ctx, at)
}

// askTCP connects, and hangs up with a reset: that leaves no connection in
// TIME_WAIT, of which 500 checks a second would make 30,000.
func askTCP(ctx context.Context, at netip.AddrPort) error {
	conn, err := dial(ctx, at)
	if err != nil {
		return err
	}
	_ = conn.SetLinger(0)
	_ = conn.Close()
	return nil
}

// dial connects to exactly that address: no name is looked up, no other family
// is tried.
func dial(ctx context.Context, at netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1}
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, at)
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // no more sockets
		syscall.EADDRNOTAVAIL,                 // no more ports, or no address of that family
		syscall.ENETUNREACH, syscall.ENETDOWN, // no route from here
		syscall.EPERM, syscall.EACCES, // a firewall on this host
	} {
		if errors.Is(err, e) {
			return nil, fmt.Errorf("%w: %w", errOurs, err)
		}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // the caller knows the rest
	}
	return conn, err
}

// converse connects and lets talk have the connection, which is cut off when
// ctx is done.
func converse(ctx context.Context, at netip.AddrPort, talk func(net.Conn, *bufio.Reader) error) error {
	conn, err := dial(ctx, at)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return talk(conn, bufio.NewReader(io.LimitReader(conn, maxAnswer)))
}

// askHTTP wants 2xx. It does without [http.Client], which would keep
// connections and may follow a redirect anywhere.
func askHTTP(ctx context.Context, at netip.AddrPort, path string) error {
	for range 1 + maxHops {
		resp, err := get(ctx, at, path)
		if err != nil {
			return err
		}
		if resp.StatusCode/100 == 2 {
			return nil
		}
		location := resp.Header.Get("Location")
		if resp.StatusCode/100 != 3 || location == "" {
			return fmt.Errorf("GET %s: status %d", path, resp.StatusCode)
		}
		if path, err = follow(at, path, location); err != nil {
			return err
		}
	}
	return fmt.Errorf("over %d redirects", maxHops)
}

// get does one request and returns the head of the answer.
func get(ctx context.Context, at netip.AddrPort, path string) (resp *http.Response, err error) {
	err = converse(ctx, at, func(conn net.Conn, r *bufio.Reader) error {
		_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: roster-check\r\nAccept: */*\r\nConnection: close\r\n\r\n", path, at)
		if err != nil {
			return err
		}
		for range 1 + maxInterim {
			if resp, err = http.ReadResponse(r, nil); err != nil { // its body is the connection, which converse closes
				return fmt.Errorf("read the answer: %w", err)
			}
			if resp.StatusCode/100 != 1 {
				return nil
			}
		}
		return errors.New("nothing but interim answers")
	})
	return resp, err
}

// follow returns the path that a redirect leads to, which must be on the same
// port of the same address.
func follow(at netip.AddrPort, path, location string) (string, error) {
	base, err := url.Parse("http://" + at.String() + path)
	if err != nil {
		return "", err
	}
	to, err := base.Parse(location)
	if err != nil {
		return "", fmt.Errorf("redirected: %w", err)
	}
	host := to.Host
	if to.Port() == "" {
		host = net.JoinHostPort(to.Hostname(), "80")
	}
	if same, err := netip.ParseAddrPort(host); to.Scheme != "http" || err != nil || same != at {
		return "", fmt.Errorf("redirected to %.100q, which is not this address and port", location)
	}
	return to.RequestURI(), nil
}
