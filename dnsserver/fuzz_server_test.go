package dnsserver_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/store"
)

// FuzzServer sends any packet to the whole server, over UDP and over a stream,
// without a rate limit and with one that all is over: no panic, no hang, no
// response to a response, none larger than the client takes, and each is of
// its query.
func FuzzServer(f *testing.F) {
	r, err := store.Open(f.Context(), store.NewMemory(), compiledConfig)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Close() })
	for _, c := range readCaptured(f) {
		f.Add(c.packet)
	}
	for _, b := range oddPackets {
		f.Add([]byte(b))
	}
	for _, c := range answers {
		b, err := query(c.question, 1232).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	cfg := townConfig(r)
	cfg.NSID = "node1"
	free := dnsserver.NewOffline(cfg)
	cfg.RRL = 1
	limited := dnsserver.NewOffline(cfg)
	fast, fastLimited := free.NewFast(), limited.NewFast()
	filled := false
	f.Fuzz(func(t *testing.T, b []byte) {
		if !filled { // needs a *testing.T
			filled = true
			town(t, r)
			capturedTown(t, r)
			crowdOf(t, r, "crowd", 20)
		}
		if len(b) > dns.MaxMsgSize {
			return
		}
		begin := time.Now()
		checkPacket(t, b, free.PacketFrom(fast, b, dnsserver.Client), false)
		var slipped []byte
		for range 4 { // a new second may begin in between
			slipped = limited.PacketFrom(fastLimited, b, dnsserver.Client)
			checkPacket(t, b, slipped, false)
			if isSlipped(slipped) {
				break
			}
		}
		checkSlipped(t, b, slipped)
		answer, ok := fast.Answer(make([]byte, 0, dns.MaxMsgSize), b, true)
		if !ok {
			answer = free.Ordinary(b, true)
		}
		checkPacket(t, b, answer, true)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%x took %v", b, took)
		}
	})
}

const oddHead = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01"

// oddPackets are what has been thought of: each is nearly a query.
var oddPackets = []string{
	"", "\x00", oddHead[:11], oddHead,
	oddHead + "\x03web\x07service\x00\x00\x01\x00\x01\x00\x00\x29\x02\x00\x00\x00\x00\x00\x00\x04\x00\x08\x00\x00", // an option without data
	oddHead + "\x03web\x07service\x00\x00\x01\x00\x01\x00\x00\x29\xff\xff\x00\x01\x00\x00\x00\x00",                 // version 1
	oddHead + "\x03web\x07service\x00\x00\x01\x00\x01\x00\x00\x29\xff\xff\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x20", // a cookie beyond the end
	oddHead + "\xc0\x0c\x00\x01\x00\x01",                                                               // a name that is itself
	oddHead + "\x03web\xc0\x04\x00\x01\x00\x01",                                                        // and one that goes on in the header
	oddHead + "\x03web\x07service\x00\x00\x01\x00\x01\xc0\x0c\x00\x29\x02\x00\x00\x00\x00\x00\x00\x00", // OPT of another name
	"\x12\x34\x81\x00" + oddHead[4:] + "\x03web\x07service\x00\x00\x01\x00\x01",                        // a response
	"\x12\x34\x28\x00" + oddHead[4:] + "\x03web\x07service\x00\x00\x06\x00\x01\x00\x00\x29\x02\x00\x00\x00\x00\x00\x00\x00",
	"\x12\x34\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff" + "\x03web\x07service\x00\x00\x01\x00\x01",
}

// checkPacket checks what holds of every response to every packet.
func checkPacket(t *testing.T, b, answer []byte, stream bool) {
	t.Helper()
	what := fmt.Sprintf("stream %v: %x gets %x", stream, b, answer)
	if answer == nil {
		checkUnanswered(t, b)
		return
	}
	if len(b) < 12 || header(b).Bits>>15 != 0 {
		t.Fatalf("%s: no query is answered", what)
	}
	var resp, req dns.Msg
	if err := resp.Unpack(answer); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	limit := dns.MaxMsgSize
	if !stream {
		limit = int(min(max(dnsserver.OPTSize(b), 512), 1232))
	}
	if len(answer) > limit {
		t.Errorf("%s: %d octets of %d", what, len(answer), limit)
	}
	h, a := header(b), header(answer)
	if a.Id != h.Id || a.Bits>>15 != 1 || a.Bits>>11&0xf != h.Bits>>11&0xf || a.Bits>>8&1 != h.Bits>>8&1 {
		t.Errorf("%s: bad header", what)
	}
	if err := req.Unpack(b); err == nil {
		o := req.IsEdns0()
		if o != nil && !stream && len(answer) > int(min(max(o.UDPSize(), 512), 1232)) {
			t.Errorf("%s: larger than the client takes", what)
		}
		if (o == nil) != (resp.IsEdns0() == nil) && h.Arcount == 1 && h.Ancount == 0 && h.Nscount == 0 {
			t.Errorf("%s: EDNS on one side only", what)
		}
	}
	if resp.Rcode != dns.RcodeFormatError && resp.Rcode != dns.RcodeNotImplemented {
		if len(resp.Question) != 1 || len(req.Question) != 1 || resp.Question[0] != req.Question[0] {
			t.Errorf("%s: not its question", what)
		}
	}
}

// checkUnanswered checks that a packet that gets nothing deserves it: it is no
// query, or has a name that the library cannot give back.
func checkUnanswered(t *testing.T, b []byte) {
	t.Helper()
	var req dns.Msg
	if len(b) < 12 || header(b).Bits>>15 != 0 {
		return
	}
	if req.Unpack(b) != nil {
		t.Errorf("%x gets nothing", b)
		return
	}
	_, err := (&dns.Msg{Question: req.Question}).Pack()
	if err == nil {
		t.Errorf("%x gets nothing", b)
	}
}

// isSlipped reports whether a response says TC or BADCOOKIE, with no records.
func isSlipped(answer []byte) bool {
	var resp dns.Msg
	return answer != nil && resp.Unpack(answer) == nil && (resp.Truncated || resp.Rcode == dns.RcodeBadCookie) && len(resp.Answer)+len(resp.Ns) == 0
}

// checkSlipped checks a response that is over the rate limit: next to nothing
// more comes back than was sent.
func checkSlipped(t *testing.T, b, answer []byte) {
	t.Helper()
	const room = 32 // the server's half of a cookie, and a name that was compressed
	if answer == nil || isSlipped(answer) && len(answer) <= len(b)+room {
		return
	}
	var resp dns.Msg
	if err := resp.Unpack(answer); err != nil {
		t.Fatalf("%x gets %x: %v", b, answer, err)
	}
	if o := resp.IsEdns0(); o != nil && len(o.Option) > 0 {
		if c, ok := o.Option[0].(*dns.EDNS0_COOKIE); ok && bytes.Contains(b, unhex(t, c.Cookie)) {
			return // it was a good cookie
		}
	}
	t.Errorf("%x is over the limit, and gets %x", b, answer)
}
