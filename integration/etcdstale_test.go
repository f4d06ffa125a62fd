package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Who reads over HTTP while a server is cut off from etcd: that one says so, a
// watch goes on at another and shows each change once, and a list comes from
// where it is true.
func TestEtcdReadersLeaveWhoIsCutOff(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	if h.net == nil {
		t.Skip("without network namespaces nothing can be cut off")
	}
	a, b := h.servers[0], h.servers[1]
	const body = `{"address":"10.0.0.1","permanent":true}`
	a.register(t, "web", "first", body) // A has it at once
	w := h.watch(t, a, b)
	until(t, 5*time.Second, "the watch shows what is there", func() bool { return len(w.seen(t)) > 0 })

	made := []string{"reset first"}
	more := func() {
		id := fmt.Sprintf("i%03d", len(made))
		b.register(t, "web", id, body)
		made = append(made, "register "+id)
	}
	more()
	until(t, 5*time.Second, "A brings what is new on B", func() bool { return len(w.seen(t)) == len(made) })
	until(t, 5*time.Second, "A says nothing of being cut off", func() bool { _, stale := h.stale(t, a); return !stale })
	heal := h.net.lose(between([]*node{a.node}, h.memberNodes())...)
	moved := fmt.Sprintf("roster: http://%s is cut off from etcd; watching http://%s\n", a.http, b.http)
	until(t, 10*time.Second, "the watch goes to B", func() bool {
		more()
		return strings.Contains(w.stderr.String(), moved)
	})
	more()
	until(t, 5*time.Second, "B brings all that A has not heard of", func() bool { return len(w.seen(t)) == len(made) })

	if n, stale := h.stale(t, a); !stale || n >= len(made) {
		t.Errorf("cut off, A lists %d of %d instances, and says that it is cut off: %v", n, len(made), stale)
	}
	until(t, 5*time.Second, "B lists all, and says nothing of being cut off", func() bool {
		n, stale := h.stale(t, b)
		return n == len(made) && !stale
	})
	var list string
	if err := h.net.hub.do(func() error {
		list = run(t, exec.Command(binary, "services", "--server", a.http+","+b.http))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(list); !slices.Contains(f, fmt.Sprint(len(made))) || strings.Contains(list, "warning") {
		t.Errorf("of %d instances, roster services shows\n%s", len(made), list)
	}

	heal()
	until(t, 10*time.Second, "A is in touch again", func() bool { _, stale := h.stale(t, a); return !stale })
	if n, _ := h.stale(t, a); n != len(made) {
		t.Errorf("in touch again, A lists %d of %d instances", n, len(made))
	}
	more()
	until(t, 5*time.Second, "B brings what is new", func() bool { return len(w.seen(t)) >= len(made) })
	if err := w.end(t, syscall.SIGINT, 5*time.Second); err != nil {
		t.Errorf("after SIGINT the watch ended with %v", err)
	}
	if seen := w.seen(t); !slices.Equal(seen, made) {
		t.Errorf("the watch has shown\n%q\nand there was\n%q", seen, made)
	}
	t.Logf("%d registrations; the watch said:\n%s", len(made), w.stderr)
}

// watching is a running roster watch.
type watching struct {
	*process
	stdout *output
}

// watch starts one of web, from where clients are, that knows these servers.
func (h *hosts) watch(t *testing.T, servers ...*server) *watching {
	t.Helper()
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.http)
	}
	w := &watching{stdout: &output{}}
	cmd := exec.Command(binary, "watch", "web", "-o", "json", "--server", strings.Join(urls, ","))
	cmd.Stdout = w.stdout
	w.process = (&node{at: h.net.hub}).run(t, cmd)
	return w
}

// seen returns what it has shown, each as the kind of the event and the
// instances.
func (w *watching) seen(t *testing.T) (all []string) {
	t.Helper()
	for line := range strings.Lines(w.stdout.String()) {
		var e struct {
			Event     string
			Instance  instance
			Instances []instance
		}
		if !strings.HasSuffix(line, "\n") {
			break // the rest is to come
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("roster watch: %v in %q", err, line)
		}
		said := e.Event
		for _, i := range append(e.Instances, e.Instance) {
			if i.ID != "" {
				said += " " + i.ID
			}
		}
		all = append(all, said)
	}
	return all
}

// stale reads how many instances of web a server lists, and whether it says that
// it is cut off.
func (h *hosts) stale(t *testing.T, s *server) (n int, stale bool) {
	t.Helper()
	resp, err := h.via.Get("http://" + s.http + "/v1/services/web")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Instances []instance }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatalf("%s lists web: %v", s.name, err)
	}
	return len(list.Instances), resp.Header.Get("Roster-Stale") != ""
}
