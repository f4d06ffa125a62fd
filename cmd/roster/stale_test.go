package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/httpapi/client"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// cutOff serves the API of a server that is cut off from the start.
func cutOff(t *testing.T) (url string) {
	t.Helper()
	b := &storetest.Shared{Confirmed: 1}
	r, _ := storetest.Open(t, func(*testing.T) store.Backend { return b }, store.Config{})
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	s, err := httpapi.New(httpapi.Config{Registry: r, Name: func(*store.Instance) string { return "" }, Backend: "etcd"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() { _ = s.Serve(ctx) }) // what it ends with is httpapi's to test
	t.Cleanup(func() { cancel(); g.Wait() })
	return "http://" + s.Addr().String()
}

// cutOffDNS answers each question as a server that is cut off.
func cutOffDNS(t *testing.T) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(10, 0, 0, 1)}}
		}
		m.SetEdns0(1232, false)
		o := m.IsEdns0()
		o.Option = append(o.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "cut off from etcd for 12s"})
		_ = w.WriteMsg(m) // the client says what it did not get
	})}
	ended := make(chan error)
	go func() { ended <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return conn.LocalAddr().String()
}

// What a server says that is cut off is shown, with one line of warning beside it,
// in each form.
func TestStaleWarning(t *testing.T) {
	t.Parallel()
	http, dns := cutOff(t), cutOffDNS(t)
	byHTTP := "roster: warning: " + http + " has been cut off from its store for 0s, and no other in --server knows better, so this may be out of date: name one that does, or ask again later\n"
	for command, want := range map[string][2]string{
		"services --server " + http:                           {"web ", byHTTP},
		"services --server 127.0.0.1:1," + http:               {"web ", byHTTP},
		"instances web --server " + http:                      {"a1 ", byHTTP},
		"instances web -o json --server " + http:              {`"id": "a1"`, byHTTP},
		"resolve web --dns-server " + dns:                     {"10.0.0.1", "roster: warning: " + dns + ": cut off from etcd for 12s, and this may be out of date: ask another server (--dns-server)\n"},
		"resolve web A -o yaml --dns-server " + dns:           {"10.0.0.1", "roster: warning: " + dns + ": cut off from etcd for 12s, and this may be out of date: ask another server (--dns-server)\n"},
		"deregister web nobody --server " + http + " -o wide": {"", "roster: deregister web/nobody: web/nobody: not registered (404 Not Found)\n"},
	} {
		var out, errors bytes.Buffer
		run(strings.Fields(command), &out, &errors)
		if !strings.Contains(out.String(), want[0]) || errors.String() != want[1] {
			t.Errorf("%s: it printed\n%s\nand\n%s\nwant %q and\n%s", command, out.String(), errors.String(), want[0], want[1])
		}
	}
}

// A watch says what becomes of it; on a terminal above the table, until something
// else happens.
func TestStaleWatchText(t *testing.T) {
	t.Parallel()
	const a, b = "http://a:8054", "http://b:8054"
	for text, s := range map[string]client.Stale{
		a + " is cut off from etcd; watching " + b: {Server: a, From: "etcd", Watching: b},
		a + " is cut off from etcd, and no other in --server is better: changes do not show until one is in touch again": {Server: a, From: "etcd", Watching: a, Since: time.Second},
		a + " is in touch with etcd again": {Server: a, From: "etcd", Watching: a, Over: true},
		"warning: " + a + " has been cut off from its store for 1m0s, and no other in --server knows better, so this may be out of date: name one that does, or ask again later": {Server: a, Since: time.Minute},
	} {
		if got := staleText(s); got != text {
			t.Errorf("it says %q, want %q", got, text)
		}
	}
	w := &watched{note: "cut off"}
	for _, want := range []string{"\x1b[2Jweb: 0 instances, 0 up\ncut off\n", "\x1b[2Jweb: 0 instances, 0 up\n\n"} {
		var out bytes.Buffer
		if err := w.draw(&out, "web", false, false, 24); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("it draws %q, %v; want %q", out.String(), err, want)
		}
		w.take(client.Event{Kind: client.Reset}, nil)
	}
}
