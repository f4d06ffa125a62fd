//go:build !linux

package dnsserver

import (
	"context"
	"fmt"
	"net"
	"time"
)

// listenUDP binds one socket.
func listenUDP(network, address string) ([]net.PacketConn, error) {
	pc, err := net.ListenPacket(network, address)
	return []net.PacketConn{pc}, err
}

// serveUDP reads packets one by one until ctx is done: the portable loop. On a
// wildcard address the system chooses the source of the answers.
func (s *Server) serveUDP(ctx context.Context, pc net.PacketConn) error {
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { _ = pc.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	fast := s.newFastPath()
	in, out := make([]byte, maxUDP), make([]byte, 0, maxUDP)
	for {
		n, from, err := pc.ReadFrom(in)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve DNS over UDP: %w", err)
		}
		fast.begin()
		if b, ok := fast.answer(out[:0], in[:n]); ok {
			_, _ = pc.WriteTo(b, from) // a client that cannot be reached is not told so
			continue
		}
		s.ordinary.take(job{append([]byte(nil), in[:n]...), func(b []byte) {
			if b != nil {
				_, _ = pc.WriteTo(b, from)
			}
		}})
	}
}
