package httpapi

import (
	"net/netip"
	"sync"
	"time"
)

// How many unknown tokens an address may send: so many at once, and then one
// in each interval.
const (
	attemptsAtOnce  = 10
	attemptInterval = time.Second
	attemptsTable   = 4096 // addresses that are counted apart; the others share one count
)

// attempts counts the unknown tokens that come from each client. A client is
// an IPv4 address, or an IPv6 network of 64 bits, since a single host has all
// of that.
type attempts struct {
	mu    sync.Mutex
	by    map[netip.Prefix]tally // guarded by mu; the zero prefix is for all that have no room
	swept time.Duration          // guarded by mu
	count uint64                 // guarded by mu: of all, ever
}

// tally is one client's count, as the registry's age by which what it sent would
// have come one in each interval.
type tally struct {
	until   time.Duration
	refused bool // one was one too many, since all its attempts were free
}

// fail counts one more unknown token. wait is how long the client has to wait
// before the next, 0 where this one is not one too many; first says that it is
// the first of these since the client was last quiet for so long that all of
// its attempts were free again.
func (a *attempts) fail(peer netip.Addr, now time.Duration) (wait time.Duration, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	client := a.placeLocked(clientOf(peer), now)
	t := a.by[client]
	refused := t.refused && t.until > now
	next := max(t.until, now) + attemptInterval
	if over := next - now - attemptsAtOnce*attemptInterval; over > 0 {
		a.by[client] = tally{t.until, true}
		return over, !refused
	}
	a.by[client] = tally{next, refused}
	return 0, false
}

// placeLocked returns where to count a client: at its own place, if need be
// after a sweep, or at the one that all share who find no room.
func (a *attempts) placeLocked(client netip.Prefix, now time.Duration) netip.Prefix {
	if a.by == nil {
		a.by = map[netip.Prefix]tally{}
	}
	if _, known := a.by[client]; known || len(a.by) < attemptsTable {
		return client
	}
	if now-a.swept >= attemptInterval {
		a.swept = now
		for c, t := range a.by {
			if t.until <= now {
				delete(a.by, c)
			}
		}
		if len(a.by) < attemptsTable {
			return client
		}
	}
	return netip.Prefix{}
}

func clientOf(peer netip.Addr) netip.Prefix {
	bits := peer.BitLen()
	if peer.Is6() {
		bits = 64
	}
	client, err := peer.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address at all
	}
	return client
}

// UnknownTokens returns how many requests came with a token that is not known.
func (s *Server) UnknownTokens() uint64 {
	s.attempts.mu.Lock()
	defer s.attempts.mu.Unlock()
	return s.attempts.count
}
