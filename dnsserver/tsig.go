package dnsserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// signature is how a query was signed, and so how its responses are (RFC 8945).
// A nil one is of a query that was not.
type signature struct {
	key   *TSIGKey // nil where the server does not have it
	asked *dns.TSIG
	err   uint16 // BADKEY, BADSIG or BADTIME; 0: the query is who it says it is
	mac   string // of the message before, which the next one's covers
	later bool   // not the first message of a response
}

// verify checks the signature of a query, if it has one.
func (s *Server) verify(packet []byte, req *dns.Msg) *signature {
	t := req.IsTsig()
	if t == nil || hollow(t) {
		return nil
	}
	sig := &signature{asked: t, key: s.keys[dns.CanonicalName(t.Hdr.Name)]}
	if sig.key == nil || dns.CanonicalName(t.Algorithm) != sig.key.Algorithm {
		sig.key, sig.err = nil, dns.RcodeBadKey
		return sig
	}
	switch err := dns.TsigVerify(packet, sig.key.secret, "", false); {
	case err == nil:
		sig.mac = t.MAC
	case errors.Is(err, dns.ErrTime):
		sig.mac, sig.err = t.MAC, dns.RcodeBadTime
	default:
		sig.err = dns.RcodeBadSig
	}
	return sig
}

// hollow reports whether the record has no data at all, which the library
// takes: nothing can be said to it.
func hollow(t *dns.TSIG) bool { return t.Algorithm == "" }

// good reports whether the query was signed, and with the key that it names.
func (sig *signature) good() bool { return sig != nil && sig.err == 0 }

// failed reports whether the query was signed, and wrongly.
func (sig *signature) failed() bool { return sig != nil && sig.err != 0 }

// size is how many octets the signature of a response takes.
func (sig *signature) size() int {
	if sig == nil {
		return 0
	}
	const macMost, fixed = 64, 10 + 16 + 6 // SHA-512's; the record's head, the numbers, the time of BADTIME
	return len(sig.asked.Hdr.Name) + len(sig.asked.Algorithm) + 2 + macMost + fixed
}

// pack brings a response into wire format, signed where the query was.
func (sig *signature) pack(m *dns.Msg) ([]byte, error) {
	if sig == nil {
		return m.Pack()
	}
	const fudge = 300 // seconds by which clocks may differ (RFC 8945 section 10)
	t := &dns.TSIG{
		Hdr:        dns.RR_Header{Name: sig.asked.Hdr.Name, Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm:  sig.asked.Algorithm,
		TimeSigned: uint64(time.Now().Unix()),
		Fudge:      fudge,
		OrigId:     m.Id,
		Error:      sig.err,
	}
	if sig.err == dns.RcodeBadKey || sig.err == dns.RcodeBadSig {
		// There is nothing to sign with. The library would say that it is 1970,
		// and clients that the clocks differ.
		m.Extra = append(m.Extra, t)
		return m.Pack()
	}
	if sig.err == dns.RcodeBadTime { // RFC 8945 section 5.2.3: the client's time is signed, ours is said
		t.OtherLen, t.OtherData = 6, time48(t.TimeSigned)
		t.TimeSigned = sig.asked.TimeSigned
	}
	m.Extra = append(m.Extra, t)
	b, mac, err := dns.TsigGenerate(m, sig.key.secret, sig.mac, sig.later)
	sig.mac, sig.later = mac, true
	return b, err
}

// time48 returns a time in 48 bits, in hexadecimal (RFC 8945 4.2).
func time48(unix uint64) string { return fmt.Sprintf("%012x", unix) }
