package httpapi_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
)

// settings counts how often a connection's deadlines are set.
type settings struct {
	net.Conn
	n int
}

func (s *settings) SetReadDeadline(t time.Time) error  { s.n++; return s.Conn.SetReadDeadline(t) }
func (s *settings) SetWriteDeadline(t time.Time) error { s.n++; return s.Conn.SetWriteDeadline(t) }

// Deadlines that are put off hold all the same.
func TestThriftyDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		under := &settings{Conn: near}
		c := httpapi.Thrifty(under)
		defer c.Close()
		ended := func(what string, f func([]byte) (int, error), after time.Duration) {
			t.Helper()
			begin := time.Now()
			if _, err := f(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != after {
				t.Errorf("%s: %v after %v, want its deadline after %v", what, err, time.Since(begin), after)
			}
		}
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }
		for range 100 {
			_ = c.SetReadDeadline(in(time.Second))
			_ = c.SetReadDeadline(time.Time{})
			_ = c.SetReadDeadline(in(time.Minute))
			_ = c.SetReadDeadline(in(5 * time.Second))
		}
		if under.n != 0 {
			t.Errorf("deadlines were set %d times, and nobody reads", under.n)
		}
		ended("a read", c.Read, 5*time.Second)
		ended("a read after the deadline", c.Read, 0)

		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		ended("a read under way", c.Read, time.Hour)
		_ = c.SetReadDeadline(in(time.Minute))
		time.AfterFunc(time.Second, func() { _ = c.SetReadDeadline(in(5 * time.Minute)) })
		ended("a read that gets more time", c.Read, time.Second+5*time.Minute)

		_ = c.SetDeadline(in(30 * time.Second))
		ended("a write", c.Write, 30*time.Second)
		_ = c.SetWriteDeadline(in(30 * time.Second))
		time.AfterFunc(time.Second, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
		ended("a write under way", c.Write, time.Second)

		_ = c.SetWriteDeadline(in(30 * time.Second))
		go func() {
			for b := make([]byte, 100); ; {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		under.n = 0
		for range 100 {
			_ = c.SetWriteDeadline(in(30*time.Second + 900*time.Millisecond))
			if _, err := c.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		if under.n != 0 {
			t.Errorf("a write's deadline was set %d times within a second", under.n)
		}
	})
}
