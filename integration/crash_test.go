package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// kill -9 while 32 clients register, heartbeat and deregister: after the
// restart everything acknowledged is there, and nothing that was deregistered.
func TestKilledWhileRegistering(t *testing.T) {
	t.Parallel()
	const clients = 32
	rounds := 5
	if torture() {
		rounds = 50
	}
	dir := t.TempDir()
	var mu sync.Mutex
	var beats atomic.Int64
	there, gone := map[string]bool{}, map[string]bool{} // acknowledged; guarded by mu
	var revision uint64
	for round := range rounds {
		r := startRoster(t, dir, "--store", "bolt:roster.db")
		listed := r.listed(t)
		for id := range there {
			if _, ok := listed[id]; !ok {
				t.Fatalf("round %d: %s was acknowledged and is gone", round, id)
			}
		}
		for id := range gone {
			if _, ok := listed[id]; ok {
				t.Fatalf("round %d: %s was deregistered and is back", round, id)
			}
		}
		next := r.register(t, "other", fmt.Sprintf("r%d", round), `{"ttl":3600}`).Revision
		if next <= revision {
			t.Fatalf("round %d: the revision went from %d to %d", round, revision, next)
		}

		var acked atomic.Int64
		var stop atomic.Bool
		enough := make(chan struct{})
		var g sync.WaitGroup
		for c := range clients {
			g.Go(func() {
				for k := 0; !stop.Load(); k++ {
					id := fmt.Sprintf("r%d-c%d-%d", round, c, k)
					path := "/v1/services/web/instances/" + id
					if status, _, _ := r.call(http.MethodPut, path, `{"port":80,"ttl":3600}`); status != http.StatusCreated {
						continue
					}
					mu.Lock()
					there[id] = true
					mu.Unlock()
					if status, b, err := r.call(http.MethodPut, path+"/heartbeat", ""); err == nil && status != http.StatusOK {
						t.Errorf("round %d: a heartbeat of %s: %d %s", round, id, status, b)
					} else if err == nil {
						beats.Add(1)
					}
					if k%4 == 3 {
						mu.Lock()
						delete(there, id) // unknown until it is answered
						mu.Unlock()
						if status, _, _ := r.call(http.MethodDelete, path, ""); status == http.StatusOK {
							mu.Lock()
							gone[id] = true
							mu.Unlock()
						}
					}
					if acked.Add(1) == 1000 {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(30 * time.Second):
			t.Fatal("1000 registrations took over 30 s")
		}
		if err := r.end(t, syscall.SIGKILL, 10*time.Second); err == nil {
			t.Fatal("kill -9 ended it without an error")
		}
		stop.Store(true)
		g.Wait()
		revision = next
	}
	r := startRoster(t, dir, "--store", "bolt:roster.db")
	listed := r.listed(t)
	for id := range there {
		if _, ok := listed[id]; !ok {
			t.Errorf("at the end: %s was acknowledged and is gone", id)
		}
	}
	t.Logf("%d acknowledged registrations and %d removals outlasted %d kills, beside %d heartbeats", len(there), len(gone), rounds, beats.Load())
}

// A damaged file: exit 1, with its name, and the file is left as it was.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRoster(t, dir, "--store", "bolt:roster.db")
	for k := range 200 {
		r.register(t, "web", fmt.Sprintf("i%d", k), `{"port":80}`)
	}
	r.stop(t)
	path := filepath.Join(dir, "roster.db")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file holds older states of the pages too, which are free now: damage
	// a record in all of them.
	record := []byte("web\x00i1")
	at := bytes.LastIndex(content, record)
	for name, bad := range map[string][]byte{
		"a record overwritten": bytes.ReplaceAll(content, record, []byte("web\x00i!")),
		"every page zeroed":    splice(content, 2*4096, make([]byte, len(content)-2*4096)),
		"the last page cut":    content[:at&^4095],
		"text":                 []byte("no store at all\n"),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, binary, "serve", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", "bolt:"+path).CombinedOutput()
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 { //nolint:errorlint // what Cmd returns
				t.Errorf("it ended with %v, want status 1", err)
			}
			if !strings.Contains(string(out), path) || !strings.Contains(string(out), "untouched") {
				t.Errorf("it said %s", out)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, bad) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

func splice(b []byte, at int, patch []byte) []byte {
	bad := bytes.Clone(b)
	copy(bad[at:], patch)
	return bad
}

// A restart: everybody is back at once with a full lease, and the serial goes on.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRoster(t, dir)
	first := r.register(t, "web", "a1", `{"address":"10.0.0.1","ttl":30}`)
	r.register(t, "web", "a2", `{"address":"10.0.0.2"}`)
	r.must(t, http.MethodDelete, "/v1/services/web/instances/a2", "")
	r.stop(t)
	r = startRoster(t, dir)
	began := time.Now()
	listed := r.listed(t)
	if len(listed) != 1 || listed["a1"].Revision != first.Revision {
		t.Fatalf("after the restart: %v", listed)
	}
	if left := listed["a1"].Expires.Sub(began); left < 29*time.Second || left > 30*time.Second {
		t.Errorf("after the restart %v are left, want a full lease", left)
	}
	if addrs, _, err := addresses(r.dns, "web.service."); err != nil || len(addrs) != 1 {
		t.Errorf("after the restart DNS has %q, %v", addrs, err)
	}
}

// SIGTERM in the middle of work: no request that was taken goes without an
// answer, and the exit is clean.
func TestStopsCleanly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRoster(t, dir)
	var stop atomic.Bool
	var acked atomic.Int64
	var g sync.WaitGroup
	enough := make(chan struct{})
	for c := range 8 {
		g.Go(func() {
			for k := 0; !stop.Load(); k++ {
				status, b, err := r.call(http.MethodPut, fmt.Sprintf("/v1/services/web/instances/c%d-%d", c, k), `{"ttl":3600}`)
				switch {
				case err != nil: // refused or closed before it was taken
					return
				case status != http.StatusCreated:
					t.Errorf("%d %s", status, b)
				}
				if acked.Add(1) == 300 {
					close(enough)
				}
			}
		})
	}
	<-enough
	r.stop(t)
	stop.Store(true)
	g.Wait()
	again := startRoster(t, dir)
	if got := int64(len(again.listed(t))); got < acked.Load() {
		t.Errorf("%d were acknowledged, %d are there", acked.Load(), got)
	}
}
