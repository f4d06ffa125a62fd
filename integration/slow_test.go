package integration

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Clients that send slowly are cut off: 5 s for the headers, 15 s for all of a
// request.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--store", "memory:")
	for name, c := range map[string]struct {
		sent   string
		within time.Duration
		answer string
	}{
		"headers without an end": {"PUT /v1/services/web/instances/a1 HTTP/1.1\r\nHost: localhost\r\n", 5 * time.Second, ""},
		"a body without an end": {
			"PUT /v1/services/web/instances/a1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 15 * time.Second, "400 Bad Request",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", r.http)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			begin := time.Now()
			if _, err := io.WriteString(conn, c.sent); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(begin.Add(c.within + 5*time.Second)); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(conn)
			if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // what a connection returns
				t.Fatalf("not cut off after %v", time.Since(begin))
			}
			if took := time.Since(begin); took < c.within-time.Second {
				t.Errorf("cut off after %v already, want %v", took, c.within)
			}
			if !strings.Contains(string(b), c.answer) {
				t.Errorf("answered %q, want %q in it", b, c.answer)
			}
		})
	}
}
