package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A disk that is full, read-only, or fails its syncs: registrations and
// deregistrations get 503, everything else goes on, and when it is mended they
// are taken again, without a restart. After one there is exactly what was
// acknowledged.
func TestDiskTrouble(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		fault fault
		says  string // in the 503
	}{
		"full":         {always(syscall.ENOSPC, "write", "resize"), "no space left on device; make room on its file system"},
		"read-only":    {always(syscall.EROFS, "write", "resize", "sync"), "read-only file system; make its file system writable again"},
		"failed fsync": {always(syscall.EIO, "sync"), "input/output error; look at its disk (dmesg)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := mountDisk(t)
			testTrouble(t, trouble{
				dir:   d.dir,
				says:  fault.says,
				begin: func() { d.breakWith(fault.fault) },
				end:   func() { d.breakWith(nil) },
			})
		})
	}
}

// The same on a small tmpfs that something else fills.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	needsMount(t, syscall.Mount("roster", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	filler := filepath.Join(dir, "filler")
	testTrouble(t, trouble{
		dir:  dir,
		says: "no space left on device; make room on its file system",
		begin: func() {
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
		},
		end: func() {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// trouble is a disk that something befalls.
type trouble struct {
	dir        string
	says       string // in the detail of the 503
	begin, end func()
}

func testTrouble(t *testing.T, d trouble) {
	t.Helper()
	r := startRoster(t, t.TempDir(), "--store", "bolt:"+filepath.Join(d.dir, "roster.db"))
	const large = `{"port":80,"ttl":3600,"meta":{"a":"%s"}}`
	pad := strings.Repeat("x", 250)
	for k := range 20 {
		r.register(t, "web", fmt.Sprintf("a%d", k), fmt.Sprintf(large, pad))
	}
	r.register(t, "live", "one", `{"address":"10.1.0.1","port":80,"ttl":10}`)
	r.register(t, "live", "two", `{"address":"10.1.0.2","port":80,"ttl":10}`)
	r.register(t, "live", "three", `{"address":"10.1.0.3","port":80,"ttl":10}`)
	r.register(t, "dying", "one", `{"address":"10.2.0.1","port":80,"ttl":2}`)

	d.begin()
	// On a full disk what fits into the file's free pages still goes.
	acked := 20
	var status int
	var body []byte
	for k := range 100 {
		var header http.Header
		status, header, body = r.put(t, fmt.Sprintf("/v1/services/web/instances/b%d", k), fmt.Sprintf(large, pad))
		if status == http.StatusServiceUnavailable {
			if header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("the 503 has the headers %v", header)
			}
			break
		}
		acked++
	}
	var problem struct{ Detail string }
	if err := json.Unmarshal(body, &problem); err != nil || status != http.StatusServiceUnavailable {
		t.Fatalf("got %d %s, want 503", status, body)
	}
	for _, want := range []string{d.says, "roster.db", "nothing was changed: try again"} {
		if !strings.Contains(problem.Detail, want) {
			t.Errorf("the 503 says %q, and not %q", problem.Detail, want)
		}
	}

	// Three forms of a heartbeat keep theirs alive, nobody those of dying.
	began := time.Now()
	until(t, 10*time.Second, "the end of a lease in DNS", func() bool {
		r.heartbeat(t, "live", "one")
		r.must(t, http.MethodPost, "/v1/heartbeats", `{"instances":[{"service":"live","id":"two"}]}`)
		r.register(t, "live", "three", `{"address":"10.1.0.3","port":80,"ttl":10}`)
		addrs, _, err := addresses(r.dns, "live.service.")
		if err != nil || len(addrs) != 3 {
			t.Fatalf("after %v live has %v, %v", time.Since(began), addrs, err)
		}
		dead, _, _ := addresses(r.dns, "dying.service.")
		return len(dead) == 0
	})
	if status, _, _ := r.call(http.MethodGet, "/readyz", ""); status != http.StatusOK {
		t.Errorf("/readyz is %d: DNS and heartbeats go on, and so should traffic", status)
	}
	if got := r.metric(t, "roster_store_writable"); got != "0" {
		t.Errorf("roster_store_writable is %s", got)
	}

	d.end()
	acked++
	r.register(t, "web", "after", fmt.Sprintf(large, pad))
	until(t, 20*time.Second, "the end of the trouble", func() bool {
		r.heartbeat(t, "live", "one")
		r.heartbeat(t, "live", "two")
		r.heartbeat(t, "live", "three")
		return r.metric(t, "roster_store_writable") == "1"
	})
	log := r.stderr.String()
	for _, line := range []string{"the store cannot be written", "the store can be written again"} {
		if n := strings.Count(log, line); n != 1 {
			t.Errorf("the log says %d times %q\n%s", n, line, log)
		}
	}
	if err := r.end(t, syscall.SIGKILL, 10*time.Second); err == nil {
		t.Fatal("kill -9 ended it without an error")
	}
	r = startRoster(t, t.TempDir(), "--store", "bolt:"+filepath.Join(d.dir, "roster.db"))
	if listed := r.listed(t); len(listed) != acked {
		t.Errorf("after the restart there are %d, want %d", len(listed), acked)
	}
	if addrs, _, err := addresses(r.dns, "live.service."); err != nil || len(addrs) != 3 {
		t.Errorf("after the restart live has %v, %v", addrs, err)
	}
	r.stop(t)
}

// put returns the headers as well.
func (r *roster) put(t *testing.T, path, body string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+r.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b.Bytes()
}

// metric returns the value of a series without labels.
func (r *roster) metric(t *testing.T, name string) string {
	t.Helper()
	_, b, err := r.call(http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
