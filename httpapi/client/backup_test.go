package client_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rosterdns/roster/httpapi/client"
)

// A backup comes from the first server that gives one; what one has cut off no
// other goes on with.
func TestBackup(t *testing.T) {
	t.Parallel()
	server := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	refuses := server(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	cuts := server(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
	})
	gives := server(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Method + r.URL.Path)) })
	for _, c := range []struct {
		servers   []string
		want, err string
	}{
		{[]string{refuses, gives, cuts}, "GET/v1/backup", ""},
		{[]string{refuses, cuts, gives}, "half", "the server " + cuts + " cut it off: unexpected EOF; try again"},
		{[]string{refuses}, "", "503"},
	} {
		var b bytes.Buffer
		err := (&client.Client{Servers: c.servers}).Backup(t.Context(), &b)
		if b.String() != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: %q, %v; want %q, %q", c.servers, b.String(), err, c.want, c.err)
		}
	}
}

// full takes nothing.
type full struct{}

// Write implements [io.Writer].
func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// That there is no room for a backup is not put down to the server.
func TestBackupWithoutRoom(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("all")) }))
	defer s.Close()
	if err := (&client.Client{Servers: []string{s.URL}}).Backup(t.Context(), full{}); err == nil || err.Error() != "no space left" {
		t.Errorf("it ended with %v", err)
	}
}
