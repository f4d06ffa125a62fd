package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// sockets are sockets that are bound already: systemd's socket activation has
// handed them over, or the server before this one has. They take the place of
// --dns, --dot, --http and --metrics. Whoever uses one makes a copy.
type sockets struct {
	dns, dot      []*os.File
	http, metrics *os.File // nil: none
}

// The names by which sockets are handed over (FileDescriptorName=); all others
// are for DNS.
const (
	socketHTTP    = "http"
	socketDoT     = "dot"
	socketMetrics = "metrics"
	socketDNS     = "dns"
)

// inherited takes what was handed over, once: programs that this one starts do
// not get it. Where a server hands over to this one, it also returns the way
// to talk to that.
func inherited() (s sockets, from *predecessor, err error) {
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if slices.Contains(names, handoverIn) && os.Getenv("LISTEN_PID") == "" {
		// It could not know our process ID.
		if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
			return s, nil, err
		}
	}
	var in, out *os.File
	for _, f := range activation.Files(true) {
		var only **os.File // where there may be but one of the name
		switch f.Name() {
		case socketHTTP:
			only = &s.http
		case socketMetrics:
			only = &s.metrics
		case handoverIn:
			only = &in
		case handoverOut:
			only = &out
		case socketDoT:
			s.dot = append(s.dot, f)
			continue
		default:
			s.dns = append(s.dns, f)
			continue
		}
		if *only != nil {
			err = errors.Join(err, fmt.Errorf("inherited socket %s: there are two of that name; it has one address", f.Name()))
		}
		*only = f
	}
	if in != nil && out != nil {
		from = newPredecessor(in, out)
	}
	return s, from, err
}

// files returns all of them, with their names.
func (s sockets) files() (files []*os.File, names []string) {
	add := func(name string, some ...*os.File) {
		for _, f := range some {
			if f != nil {
				files, names = append(files, f), append(names, name)
			}
		}
	}
	add(socketDNS, s.dns...)
	add(socketDoT, s.dot...)
	add(socketHTTP, s.http)
	add(socketMetrics, s.metrics)
	return files, names
}

// keepMode makes each of them one that can be given away as it is.
func (s *sockets) keepMode() error {
	all := []**os.File{&s.http, &s.metrics}
	for k := range s.dns {
		all = append(all, &s.dns[k])
	}
	for k := range s.dot {
		all = append(all, &s.dot[k])
	}
	for _, f := range all {
		if *f == nil {
			continue
		}
		var err error
		if *f, err = keepMode(*f); err != nil {
			return fmt.Errorf("copy a socket: %w", err)
		}
	}
	return nil
}

func (s sockets) close() {
	files, _ := s.files()
	for _, f := range files {
		_ = f.Close()
	}
}

// listener returns a listener on a copy of the socket, nil for none.
func listener(f *os.File) (net.Listener, error) {
	if f == nil {
		return nil, nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	return l, nil
}
