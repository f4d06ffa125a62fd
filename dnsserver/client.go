package dnsserver

import (
	"net/netip"
	"time"
)

// transport is the way a query came.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	overTLS
	overHTTPS
	transports // how many there are
)

// String returns the transport's name in metrics.
func (t transport) String() string { return [...]string{"udp", "tcp", "tls", "https"}[t] }

// stream reports whether messages come one after the other on a connection,
// so that a response may have 65,535 octets and there is nothing larger to
// turn to.
func (t transport) stream() bool { return t != overUDP }

// encrypted reports whether nobody on the way reads along, so that sizes are
// what there is left to hide (RFC 8467).
func (t transport) encrypted() bool { return t == overTLS || t == overHTTPS }

// client is who sent a query, and how.
type client struct {
	addr netip.Addr
	transport
	sig  *signature    // of the query, nil: none
	opt  *wireOPT      // of the query, nil: the client does not speak EDNS
	idle time.Duration // how long its connection may be without a query; 0 where that is not ours to say
}
