// Package dnsserver is the authoritative DNS server for one zone and the
// reverse zones of its addresses, answered from a [store.Registry] as it is at the moment of the query.
//
// The life of a query: the library unpacks it, handler.go turns away what gets
// no answer, names.go finds which instances the name stands for, answer.go
// says what there is to say to it with the records that records.go makes, and
// response.go fits that into a message.
//
// Most queries take a shortcut with the same answers: compile.go makes
// them ready when a service changes, wire.go reads the query in place, and
// fastpath.go fills in what differs from one to the next.
//
// It promises that no TTL outlives the lease behind it, that an answer is
// complete or says that it is not, and that what was acknowledged is answered.
package dnsserver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/rosterdns/roster/store"
)

// Config is what a [Server] needs to know.
type Config struct {
	// Registry is what is answered from. Required.
	Registry *store.Registry

	// Listen are the addresses, host:port, each for UDP and TCP. Port 0 takes
	// a free one, the same for both. Default 127.0.0.1:0, or none where there
	// are Sockets.
	Listen []string

	// TLS are the addresses for DNS over TLS (RFC 7858), and TLSConfig how it is
	// spoken; both or neither. Default: none.
	TLS       []string
	TLSConfig *tls.Config

	// Sockets are UDP and TCP sockets that are bound already, as systemd hands
	// them over. The server takes copies; the caller closes its own.
	Sockets []*os.File

	// TLSSockets are such TCP sockets for DNS over TLS, which needs TLSConfig.
	TLSSockets []*os.File

	// Zone is the zone's name as [Zone] returns it. Default "service.".
	Zone string

	// Reverse are the prefixes whose reverse names are served as well, as
	// [Reverse] returns them. The registry must find instances by these
	// addresses ([store.Config]).
	Reverse []netip.Prefix

	// NameServers are the zone's, the first of them the SOA's. Default: ns
	// below the zone, with the addresses that Listen gives.
	NameServers []NameServer

	// MaxTTL is the largest TTL of any record, in seconds. 0: records are not
	// to be cached at all. MaxTTL has no default here.
	MaxTTL uint32

	// NegativeTTL is for how many seconds caches may keep that a name or type
	// does not exist (RFC 2308).
	NegativeTTL uint32

	// Backend is what the registry is cut off from while it is stale, as answers
	// then name it ([store.Registry.Stale]). Default "the backend".
	Backend string

	// StaleFor is for how long the registry is answered from while it is stale,
	// with TTLs of 1 and an Extended DNS Error; then, and with 0 at once, the
	// answer is SERVFAIL. StaleFor has no default here.
	StaleFor time.Duration

	// EDNSSize is the largest message over UDP, in octets, whatever a client
	// offers; 4096 at most. Default 1232.
	EDNSSize uint16

	// MaxConns bounds the open TCP connections of each listener, and
	// MaxConnsPerClient those of one address among them: more are closed as
	// they come. Defaults 4096, and a quarter of MaxConns.
	MaxConns, MaxConnsPerClient int

	// Transfer says who may have the zone whole. Default: nobody.
	Transfer TransferACL

	// Notify are the secondaries that are told when the zone has changed.
	Notify []Secondary

	// Keys are the secrets shared with others. Default: none.
	Keys []TSIGKey

	// CookieSecret is the key of DNS cookies. Default: one of its own.
	CookieSecret CookieSecret

	// NSID is this server's identity, and Version what it runs, for those who
	// ask: by NSID (RFC 5001), and in class CHAOS. Each may have 255 octets; empty it is not told.
	NSID, Version string

	// RRL is how many responses of one kind a second clients of one /24 or
	// /56 get over UDP before the others say TC. Default: no limit.
	RRL uint16

	// Log gets what the operator should know. Default: the standard logger.
	Log logrus.FieldLogger
}

func (c Config) withDefaults() Config {
	if len(c.Listen) == 0 && len(c.Sockets) == 0 {
		c.Listen = []string{"127.0.0.1:0"}
	}
	if c.Zone == "" {
		c.Zone = "service."
	}
	if c.Backend == "" {
		c.Backend = "the backend"
	}
	if c.EDNSSize == 0 {
		c.EDNSSize = 1232
	}
	c.EDNSSize = min(c.EDNSSize, maxUDP)
	if c.MaxConns == 0 {
		c.MaxConns = 4096
	}
	if c.MaxConnsPerClient == 0 {
		c.MaxConnsPerClient = max(c.MaxConns/4, 1)
	}
	if c.CookieSecret == (CookieSecret{}) {
		_, _ = rand.Read(c.CookieSecret[:]) // it never fails
	}
	if c.Log == nil {
		c.Log = logrus.StandardLogger()
	}
	return c
}

// Server answers for the zone on all its listeners.
type Server struct {
	cfg      Config
	registry *store.Registry
	zone     *zone // of the services
	zones    zones // that one and the reverse ones
	addrs    []netip.AddrPort
	tlsAddrs []netip.AddrPort
	sockets  []net.PacketConn // UDP; Linux has one for each processor and address
	streams  []*streams
	shared   shared
	keys     map[string]*TSIGKey // by name
	ordinary *ordinary
	batches  sync.Pool     // of *streamBatch
	passing  chan struct{} // has an element for each transfer under way
	limiter  *limiter      // nil: no limit

	counts     [transports]counts // of the ordinary path, and of streams
	loopCounts []*counts          // of each UDP socket
}

// New binds every address, so that a port in use is known at once. Serve must
// follow, or Close.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := newServer(cfg)
	for _, address := range cfg.Listen {
		if err := s.listen(address); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	for _, address := range cfg.TLS {
		if err := s.listenTLS(address); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	for _, f := range cfg.Sockets {
		if err := s.inherit(f); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	for _, f := range cfg.TLSSockets {
		if err := s.inheritTLS(f); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	for range s.sockets {
		s.loopCounts = append(s.loopCounts, new(counts))
	}
	s.setZone()
	return s, nil
}

// newServer makes a server that listens nowhere yet.
func newServer(cfg Config) *Server {
	s := &Server{cfg: cfg, registry: cfg.Registry, limiter: newLimiter(cfg.RRL), keys: map[string]*TSIGKey{}, passing: make(chan struct{}, maxTransfers)}
	for _, k := range cfg.Keys {
		s.keys[k.Name] = &k
	}
	s.batches.New = s.newStreamBatch
	return s
}

// setZone makes the zones from the config and the addresses that are bound.
func (s *Server) setZone() {
	servers := s.cfg.NameServers
	if len(servers) == 0 {
		servers = []NameServer{{Name: "ns." + s.cfg.Zone}}
	}
	s.zone = &zone{
		name:     s.cfg.Zone,
		origin:   s.cfg.Zone,
		servers:  withGlue(servers, s.cfg.Zone, s.addrs),
		maxTTL:   s.cfg.MaxTTL,
		ownTTL:   s.cfg.MaxTTL,
		emptyTTL: s.cfg.NegativeTTL,
	}
	s.zones = zones{s.zone.name: s.zone}
	for _, p := range s.cfg.Reverse {
		z := s.zone.reverse(p)
		s.zones[z.name] = z
	}
}

// Addrs returns the addresses that the server listens on, Listen's first.
func (s *Server) Addrs() []netip.AddrPort { return s.addrs }

// TLSAddrs returns the addresses that it listens on for DNS over TLS.
func (s *Server) TLSAddrs() []netip.AddrPort { return s.tlsAddrs }

// listen binds UDP and TCP to one address and the same port.
func (s *Server) listen(address string) error {
	const tries = 20 // a free TCP port may be taken for UDP
	for try := 1; ; try++ {
		// TCP first: its sockets are exclusive, so that a second server on the
		// same port is found out.
		l, err := net.Listen(family("tcp", address), address)
		if err != nil {
			return fmt.Errorf("listen for DNS (--dns): %w", err)
		}
		bound := l.Addr().(*net.TCPAddr).AddrPort() //nolint:errcheck // what a TCP socket has
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		sockets, err := listenUDP(family("udp", address), net.JoinHostPort(host, strconv.Itoa(int(bound.Port()))))
		if err != nil {
			err = errors.Join(fmt.Errorf("listen for DNS (--dns): %w", err), l.Close())
			if _, port, _ := net.SplitHostPort(address); port == "0" && try < tries {
				continue
			}
			return err
		}
		s.listensOn(bound)
		s.sockets = append(s.sockets, sockets...)
		s.streams = append(s.streams, s.newStreams(l, overTCP))
		return nil
	}
}

// listenTLS binds an address for DNS over TLS.
func (s *Server) listenTLS(address string) error {
	l, err := net.Listen(family("tcp", address), address)
	if err != nil {
		return fmt.Errorf("listen for DNS over TLS (--dot): %w", err)
	}
	s.takeTLS(l)
	return nil
}

func (s *Server) takeTLS(l net.Listener) {
	bound := l.Addr().(*net.TCPAddr).AddrPort() //nolint:errcheck // what a TCP socket has
	s.tlsAddrs = append(s.tlsAddrs, netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()))
	s.streams = append(s.streams, s.newStreams(l, overTLS))
}

// inheritTLS takes a socket for DNS over TLS that is bound already.
func (s *Server) inheritTLS(f *os.File) error {
	if s.cfg.TLSConfig == nil {
		return fmt.Errorf("inherited socket %s: DNS over TLS needs a certificate; give --tls-cert and --tls-key", f.Name())
	}
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	if _, ok := l.Addr().(*net.TCPAddr); !ok {
		return errors.Join(fmt.Errorf("inherited socket %s is no TCP socket; DNS over TLS needs one", f.Name()), l.Close())
	}
	s.takeTLS(l)
	return nil
}

// inherit takes a socket that is bound already.
func (s *Server) inherit(f *os.File) error {
	if l, err := net.FileListener(f); err == nil {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			s.listensOn(a.AddrPort())
			s.streams = append(s.streams, s.newStreams(l, overTCP))
			return nil
		}
		return errors.Join(fmt.Errorf("inherited socket %s is neither UDP nor TCP; DNS needs one of them", f.Name()), l.Close())
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return errors.Join(fmt.Errorf("inherited socket %s is neither UDP nor TCP; DNS needs one of them", f.Name()), pc.Close())
	}
	if err := prepareInherited(conn); err != nil {
		return errors.Join(fmt.Errorf("inherited socket %s: %w", f.Name(), err), conn.Close())
	}
	s.listensOn(conn.LocalAddr().(*net.UDPAddr).AddrPort()) //nolint:errcheck // what a UDP socket has
	s.sockets = append(s.sockets, conn)
	return nil
}

// listensOn notes an address, which may have sockets of both transports.
func (s *Server) listensOn(a netip.AddrPort) {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if !slices.Contains(s.addrs, a) {
		s.addrs = append(s.addrs, a)
	}
}

// family makes a network of one address family where the address is of one.
// Without, Go listens on both for 0.0.0.0 and for [::], and the two could not
// be given together.
func family(network, address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return network // listening will say what is wrong
	}
	switch a, err := netip.ParseAddr(host); {
	case err != nil: // a host name, or none: every address
		return network
	case a.Is4():
		return network + "4"
	default:
		return network + "6"
	}
}

// Serve answers until ctx is done, then finishes the queries under way and
// returns when every goroutine it started has ended. An error is of a listener
// that failed.
func (s *Server) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.ordinary = newOrdinary(s)
	defer s.ordinary.stop()
	for k, socket := range s.sockets {
		g.Go(func() error { return s.serveUDP(ctx, socket, s.loopCounts[k]) })
	}
	for _, l := range s.streams {
		g.Go(func() error { return l.serve(ctx) })
	}
	for _, to := range s.cfg.Notify {
		for _, z := range s.zones {
			g.Go(func() error { s.notify(ctx, to, z); return nil })
		}
	}
	return g.Wait()
}

// Close releases the listeners of a server that was never served.
func (s *Server) Close() error {
	var errs []error
	for _, socket := range s.sockets {
		errs = append(errs, socket.Close())
	}
	for _, l := range s.streams {
		errs = append(errs, l.listener.Close())
	}
	return errors.Join(errs...)
}

// withGlue gives name servers inside the zone that have no addresses those
// that the server listens on.
func withGlue(servers []NameServer, zone string, listen []netip.AddrPort) []NameServer {
	out := make([]NameServer, len(servers))
	for k, s := range servers {
		out[k] = s
		if !dns.IsSubDomain(zone, s.Name) {
			out[k].Addrs = nil
		} else if len(s.Addrs) == 0 {
			out[k].Addrs = reachable(listen)
		}
	}
	return out
}

// reachable returns the addresses at which the listeners can be reached: for a
// wildcard those of the host's interfaces, without the loopback ones if there
// are others.
func reachable(listen []netip.AddrPort) []netip.Addr {
	var own, loopback []netip.Addr
	add := func(a netip.Addr) {
		switch {
		case a.IsLoopback():
			loopback = append(loopback, a)
		case !a.IsLinkLocalUnicast():
			own = append(own, a)
		}
	}
	for _, l := range listen {
		if !l.Addr().IsUnspecified() {
			add(l.Addr())
			continue
		}
		for _, a := range interfaceAddrs() {
			if l.Addr().Is6() || a.Is4() { // [::] takes both families
				add(a)
			}
		}
	}
	if len(own) == 0 {
		own = loopback
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own) // two listeners may share an address
}

func interfaceAddrs() []netip.Addr {
	var addrs []netip.Addr
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil // no glue then: the name server's address is found elsewhere
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}
