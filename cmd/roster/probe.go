package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// How a program that is run is checked.
const (
	firstProbe     = 20 * time.Millisecond // after the start
	lastProbe      = 500 * time.Millisecond
	probeTimeout   = 2 * time.Second
	failuresToDown = 3
)

// probe finds out whether a program answers; if not, the error says how.
type probe func(ctx context.Context) error

// newProbe reads --check; "" is for none.
func newProbe(text string) (probe, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err == nil && u.Host != "" {
		switch u.Scheme {
		case "http", "https":
			return request(u.String()), nil
		case "tcp":
			if _, _, err := net.SplitHostPort(u.Host); err == nil {
				return connection(u.Host), nil
			}
		}
	}
	return nil, fmt.Errorf("--check %s: write a URL such as http://127.0.0.1:8080/healthz or tcp://127.0.0.1:8080", text)
}

// connection is a probe that a connection is accepted.
func connection(address string) probe {
	return func(ctx context.Context) error {
		d := net.Dialer{Timeout: probeTimeout}
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// request is a probe that a GET is answered with 2xx. A certificate is not
// looked at: whose name it has is for clients to check.
func request(address string) probe {
	c := &http.Client{
		Timeout: probeTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("GET %s: status %d", address, resp.StatusCode)
		}
		return nil
	}
}
