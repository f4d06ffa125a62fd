//go:build !linux

package dnsserver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// listenUDP binds one socket.
func listenUDP(network, address string) ([]net.PacketConn, error) {
	pc, err := net.ListenPacket(network, address)
	return []net.PacketConn{pc}, err
}

// prepareInherited has nothing to do here.
func prepareInherited(*net.UDPConn) error { return nil }

// serveUDP reads packets one by one until ctx is done: the portable loop. On a
// wildcard address the system chooses the source of the answers.
func (s *Server) serveUDP(ctx context.Context, pc net.PacketConn, c *counts) error {
	var left sync.WaitGroup // packets left to the ordinary path, which writes to pc
	defer func() {
		left.Wait()
		_ = pc.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = pc.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	fast := s.newFastPath(c)
	in, out := make([]byte, maxUDP), make([]byte, 0, maxUDP)
	for {
		n, peer, err := pc.ReadFrom(in)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve DNS over UDP: %w", err)
		}
		fast.begin()
		from := client{addr: udpAddr(peer), transport: overUDP}
		if b, ok := fast.answer(out[:0], in[:n], from); ok {
			_, _ = pc.WriteTo(b, peer) // a client that cannot be reached is not told so
			continue
		}
		left.Add(1)
		taken := s.ordinary.take(job{append([]byte(nil), in[:n]...), from, func(b []byte) {
			defer left.Done()
			if b != nil {
				_, _ = pc.WriteTo(b, peer)
			}
		}})
		if !taken {
			left.Done()
		}
	}
}

func udpAddr(a net.Addr) netip.Addr {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return u.AddrPort().Addr().Unmap()
}
