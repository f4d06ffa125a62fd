package httpapi_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// dialer opens connections to a server, which serves until the test's end.
func dialer(t *testing.T, cfg httpapi.Config) func(from string) *client {
	t.Helper()
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serveWith(t, r, cfg)
	return func(from string) *client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &client{c, bufio.NewReader(c)}
	}
}

type client struct {
	net.Conn
	r *bufio.Reader
}

// get does a request, and returns the error of the connection.
func (c *client) get() error {
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	return c.answer()
}

func (c *client) answer() error {
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// work has a request under way that does not end by itself.
func (c *client) work(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c, "PUT /v1/services/web/instances/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := c.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func (c *client) finish(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c, "{}"); err != nil {
		t.Fatal(err)
	}
	if err := c.answer(); err != nil {
		t.Fatal(err)
	}
}

// gone reports whether the server has closed the connection.
func (c *client) gone() bool {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := c.r.ReadByte()
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// Where a client has too many connections, the one goes that has been waiting
// for a request for the longest, be it silent or idle; others keep theirs.
func TestConnectionsOfOneClient(t *testing.T) {
	t.Parallel()
	dial := dialer(t, httpapi.Config{MaxConns: 8, MaxConnsPerClient: 2})
	other := dial("127.0.0.2")
	if err := other.get(); err != nil {
		t.Fatal(err)
	}
	busy, silent := dial("127.0.0.1"), dial("127.0.0.1")
	busy.work(t)
	third := dial("127.0.0.1")
	if err := third.get(); err != nil {
		t.Errorf("the newcomer: %v", err)
	}
	if !silent.gone() {
		t.Error("the silent connection is still there")
	}
	third.work(t)
	if fourth := dial("127.0.0.1"); fourth.get() == nil {
		t.Error("a third connection beside two that are at work")
	}
	busy.finish(t)
	third.finish(t)
	if err := other.get(); err != nil {
		t.Errorf("another client's connection: %v", err)
	}
}

// Where all connections are at work, those of other clients wait.
func TestConnectionsInAll(t *testing.T) {
	t.Parallel()
	dial := dialer(t, httpapi.Config{MaxConns: 2, MaxConnsPerClient: 2})
	one, two := dial("127.0.0.1"), dial("127.0.0.1")
	one.work(t)
	two.work(t)
	waits := dial("127.0.0.2")
	answered := make(chan error)
	go func() { answered <- waits.get() }()
	select {
	case err := <-answered:
		t.Fatalf("served beside two that are at work: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	one.finish(t)
	if err := <-answered; err != nil {
		t.Errorf("after one was idle: %v", err)
	}
	if !one.gone() {
		t.Error("the idle connection is still there")
	}
	two.finish(t)
}
