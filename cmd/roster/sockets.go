package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// sockets are those that systemd's socket activation has handed over: the one
// whose FileDescriptorName= is http is for the HTTP API, all others are for DNS.
// They take the place of --http and --dns.
type sockets struct {
	dns  []*os.File
	http net.Listener // nil: none
}

// inherited takes what was handed over, once: programs that this one starts do
// not get it.
func inherited() (sockets, error) {
	var s sockets
	for _, f := range activation.Files(true) {
		if f.Name() != "http" {
			s.dns = append(s.dns, f)
			continue
		}
		l, err := net.FileListener(f)
		if err == nil && s.http != nil {
			err = errors.New("there are two of that name; the API has one address")
		}
		if err != nil {
			return s, fmt.Errorf("inherited socket http: %w", err)
		}
		s.http = l
		_ = f.Close() // the listener has a copy
	}
	return s, nil
}

// close releases what the DNS server has made copies of.
func (s sockets) close() {
	for _, f := range s.dns {
		_ = f.Close()
	}
}
