package integration

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/miekg/dns"
)

// Sockets that somebody else has bound and keeps, as systemd does: one server
// after the other answers on them.
func TestInheritedSockets(t *testing.T) {
	t.Parallel()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp := listenTCP(t)
	var files []*os.File
	for _, one := range []interface{ File() (*os.File, error) }{udp, tcp, listenTCP(t)} {
		f, err := one.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	for range 2 {
		r := startInherited(t, files, "dns:dns:http")
		r.register(t, "web", "a1", `{"address":"10.0.0.1","port":80}`)
		_, port, _ := net.SplitHostPort(udp.LocalAddr().String())
		for _, host := range []string{"127.0.0.1", "127.0.0.2"} { // the answer's source is where the query went
			resp, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("web.service.", dns.TypeA), net.JoinHostPort(host, port))
			if err != nil || len(resp.Answer) != 1 {
				t.Errorf("over UDP to %s: %v, %v", host, resp, err)
			}
		}
		resp, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion("web.service.", dns.TypeA), tcp.Addr().String())
		if err != nil || len(resp.Answer) != 1 {
			t.Errorf("over TCP: %v, %v", resp, err)
		}
		r.stop(t)
	}
}

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// startInherited runs roster serve with sockets as systemd hands them over.
func startInherited(t *testing.T, files []*os.File, names string) *roster {
	t.Helper()
	// LISTEN_PID is the server's own, which the shell has until it becomes it.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" serve --store memory:`, binary)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=3", "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	return startReady(t, cmd)
}
