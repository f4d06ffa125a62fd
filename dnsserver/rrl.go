package dnsserver

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// Response rate limiting: somebody who sends queries with a victim's address
// is not to have us send the answers there. Of the responses of one kind to
// one network only so many a second are given; what is over that is slipped: a
// header and the question, no larger than the query, with TC, so that a client
// that is really there asks again over TCP. One that has sent a cookie gets
// BADCOOKIE in place of TC and asks again over UDP, with the cookie that it
// got; who shows a good cookie is at its address and is not limited, and
// neither is who signs with a key of ours, who asks over TCP, or from the same
// host.
//
// Of one kind are answers to the same question, all NXDOMAIN of one zone, and
// all errors: what an attacker can make up names for is not counted by name.

// limiter counts responses in a table of fixed size, a set of buckets for each
// line of the cache. It is for concurrent use, and takes no lock: two that
// count at the same time may count one too few.
type limiter struct {
	most uint32
	seed maphash.Seed // nobody else knows which kinds share a set
	sets [limiterSets][limiterWays]atomic.Uint64
}

const (
	limiterSets = 1 << 13
	limiterWays = 8 // and so 512 KiB
)

// A bucket is a kind's tag, the second that it counts, and the count.
const (
	bucketSecondBits = 20
	bucketCountBits  = 20
	bucketTag        = math.MaxUint64 &^ (1<<(bucketSecondBits+bucketCountBits) - 1)
	bucketCount      = 1<<bucketCountBits - 1
)

// The networks that count as one client: what one holder of addresses has.
const (
	limitIPv4 = 24
	limitIPv6 = 56
)

// kindMost is how long the key of a kind may be: network, response code, and
// question.
const kindMost = 8 + 1 + maxName + 4

// newLimiter returns a limiter to so many a second; nil, none, for 0.
func newLimiter(most uint16) *limiter {
	if most == 0 {
		return nil
	}
	return &limiter{most: uint32(most), seed: maphash.MakeSeed()}
}

// limits reports whether responses to the client are limited.
func (l *limiter) limits(from client, known bool) bool {
	return l != nil && from.transport == overUDP && !known && !from.addr.IsLoopback()
}

// over counts a response, and reports whether it is one too many. The key has
// room for kindMost and is overwritten.
func (l *limiter) over(key []byte, addr netip.Addr, response, zone []byte, age time.Duration) bool {
	key = appendKind(appendNetwork(key[:0], addr), response, zone)
	return l.count(maphash.Bytes(l.seed, key), age) > l.most
}

// appendNetwork appends the network that an address counts for.
func appendNetwork(dst []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		b := addr.As4()
		return append(dst, b[:limitIPv4/8]...)
	}
	b := addr.As16()
	return append(dst, b[:limitIPv6/8]...)
}

// count counts one more of a kind in this second and returns how many there
// have been. Where the kind has no bucket it takes the one that is of another
// second, or has the fewest.
func (l *limiter) count(hash uint64, age time.Duration) uint32 {
	set := &l.sets[hash%limiterSets]
	second := uint64(age/time.Second) & (1<<bucketSecondBits - 1) << bucketCountBits
	mine := hash&bucketTag | second
	for {
		b, old := bucketOf(set, mine)
		n := uint64(0)
		if old&^bucketCount == mine {
			n = old & bucketCount
		}
		if n == bucketCount {
			return bucketCount
		}
		if b.CompareAndSwap(old, mine|(n+1)) { // otherwise somebody else counts here: look again
			return uint32(n + 1)
		}
	}
}

// bucketOf returns the bucket in a set that a kind has, or is to have, and what
// is in it.
func bucketOf(set *[limiterWays]atomic.Uint64, mine uint64) (bucket *atomic.Uint64, holds uint64) {
	fewest := uint64(math.MaxUint64)
	for k := range set {
		b := set[k].Load()
		if b&^bucketCount == mine {
			return &set[k], b
		}
		n := b & bucketCount
		if (b^mine)&^(bucketTag|bucketCount) != 0 {
			n = 0 // of another second
		}
		if n < fewest {
			bucket, holds, fewest = &set[k], b, n
		}
	}
	return bucket, holds
}

// limited returns a response of the ordinary path, or what stands for it where
// it is one too many.
func (s *Server) limited(b []byte, r *response, from client) []byte {
	if !s.limiter.limits(from, r.asks.known || from.sig.good()) {
		return b
	}
	if !s.limiter.over(make([]byte, 0, kindMost), from.addr, b, []byte(r.zone), s.registry.Age()) {
		return b
	}
	s.counts[from.transport].limited.Add(1)
	b = slip(b)
	switch {
	case r.opt == nil:
		return b
	case r.asks.cookie != nil:
		return appendBadCookie(b, s.cfg.EDNSSize, r.opt.Do(), r.asks.cookie)
	}
	return appendSlipOPT(b, s.cfg.EDNSSize, r.opt.Do())
}

// limited does the same on the fast path.
func (f *fastPath) limited(b []byte, from client) []byte {
	if !f.limiter.limits(from, f.known) || !f.limiter.over(f.kind[:0], from.addr, b, f.zoneName, f.registry.Age()) {
		return b
	}
	f.counts.limited.Add(1)
	b = slip(b)
	switch {
	case !f.q.edns:
		return b
	case f.cookie != nil:
		return appendBadCookie(b, f.size, f.q.do, f.cookie)
	}
	return appendSlipOPT(b, f.size, f.q.do)
}
