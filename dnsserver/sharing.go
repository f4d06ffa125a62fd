package dnsserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
)

// This file is for handing the sockets over to another process, which then
// reads from them as this one does: each packet and each connection is read by
// one of the two.

// shared are the UDP sockets that loops have taken out of Go's hands: how each
// is copied.
type shared struct {
	mu   sync.Mutex
	copy map[net.PacketConn]func() (*os.File, error) // guarded by mu
}

// share notes how a socket is copied that take takes out of Go's hands, until
// unshare is called, after which it may be closed.
func (s *shared) share(conn net.PacketConn, take func() (copied func() (*os.File, error), err error)) (unshare func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied, err := take()
	if err != nil {
		return nil, err
	}
	if s.copy == nil {
		s.copy = map[net.PacketConn]func() (*os.File, error){}
	}
	s.copy[conn] = copied
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.copy, conn)
	}, nil
}

// file returns a copy of a UDP socket.
func (s *shared) file(conn net.PacketConn) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if copy, ok := s.copy[conn]; ok {
		return copy()
	}
	return fileOf(conn)
}

// fileOf returns a copy of what a net.Listener or net.PacketConn has.
func fileOf(socket any) (*os.File, error) {
	s, ok := socket.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("a %T has no file to be copied", socket)
	}
	return s.File()
}

// Sockets returns copies of the sockets that the server listens on, in plain
// text and over TLS, for [Config.Sockets] and [Config.TLSSockets] of another
// server; the caller closes them. It works until Serve returns.
func (s *Server) Sockets() (plain, tls []*os.File, err error) {
	for _, conn := range s.sockets {
		f, e := s.shared.file(conn)
		if e == nil {
			plain = append(plain, f)
		}
		err = errors.Join(err, e)
	}
	for _, l := range s.streams {
		f, e := fileOf(l.listener)
		switch {
		case e != nil:
			err = errors.Join(err, e)
		case l.client == overTLS:
			tls = append(tls, f)
		default:
			plain = append(plain, f)
		}
	}
	if err != nil {
		for _, f := range append(plain, tls...) {
			_ = f.Close()
		}
		return nil, nil, fmt.Errorf("copy the sockets of DNS: %w", err)
	}
	return plain, tls, nil
}
