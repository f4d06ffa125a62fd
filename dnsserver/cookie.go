package dnsserver

import (
	"crypto/subtle"
	"encoding/binary"
	"net/netip"

	"github.com/dchest/siphash"
)

// CookieSecret is the key of the server's DNS cookies. Servers behind one
// address share it, and take each other's (RFC 9018).
type CookieSecret [16]byte

// The sizes of cookies in octets (RFC 7873 section 4, RFC 9018 section 4).
const (
	clientCookieSize = 8
	cookieSize       = clientCookieSize + 16
	cookieMost       = 40
)

// For how long a server cookie is good, how far its clock may be ahead, and at
// what age the client gets a new one, in seconds (RFC 9018 section 4.3).
const (
	cookieAge   = 3600
	cookieAhead = 300
	cookieFresh = 1800
)

// cookieLen reports whether a COOKIE option may have that many octets.
func cookieLen(n int) bool { return n == clientCookieSize || n >= 16 && n <= cookieMost }

// appendAnswer appends what the response to a client's cookie has: the
// server's own cookie while it is fresh, or a new one. Known is whether the
// client has shown a good one, and so that it is at its address.
func (secret *CookieSecret) appendAnswer(dst, cookie []byte, addr netip.Addr, unix uint32) (out []byte, known bool) {
	age, known := secret.age(cookie, addr, unix)
	if known && age <= cookieFresh {
		return append(dst, cookie...), true
	}
	at := len(dst)
	dst = appendCookie(dst, cookie[:clientCookieSize], unix)
	return binary.LittleEndian.AppendUint64(dst, secret.hash(dst[at:], addr)), known
}

// age returns how many seconds ago the server made the cookie for that
// address, and whether it did and the cookie is still good.
func (secret *CookieSecret) age(cookie []byte, addr netip.Addr, unix uint32) (seconds int32, good bool) {
	made, ok := cookieTime(cookie)
	if !ok {
		return 0, false
	}
	seconds = int32(unix - made) // serial number arithmetic
	if seconds > cookieAge || seconds < -cookieAhead {
		return 0, false
	}
	var want [8]byte
	head := len(cookie) - len(want)
	binary.LittleEndian.PutUint64(want[:], secret.hash(cookie[:head], addr))
	return seconds, subtle.ConstantTimeCompare(want[:], cookie[head:]) == 1
}

// hash is SipHash-2-4 over a cookie up to its hash, and the client's address.
func (secret *CookieSecret) hash(head []byte, addr netip.Addr) uint64 {
	var input [cookieSize - 8 + 16]byte
	n := copy(input[:], head)
	if addr.Is4() {
		ip := addr.As4()
		n += copy(input[n:], ip[:])
	} else {
		ip := addr.As16()
		n += copy(input[n:], ip[:])
	}
	return siphash.Hash(binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:]), input[:n])
}
