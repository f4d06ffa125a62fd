package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// remove deregisters an instance of web, or drains it, and returns when the
// last honest cache has forgotten it.
func (r *roster) remove(t *testing.T, id, query string) time.Time {
	t.Helper()
	status, b, err := r.call(http.MethodDelete, "/v1/services/web/instances/"+id+query, "")
	var gone struct {
		SafeAfter time.Time `json:"safe_after"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(b, &gone) != nil {
		t.Errorf("remove %s: %d %s %v", id, status, b, err)
	}
	return gone.SafeAfter
}

// A caching resolver in front never has a removed instance after safe_after,
// which is never after the end of the lease that it had.
func TestSafeAfterThroughUnbound(t *testing.T) {
	t.Parallel()
	r := startRoster(t, t.TempDir(), "--max-ttl", "4")
	resolver := startUnbound(t, r)
	r.register(t, "web", "stays", `{"address":"10.0.0.100","port":80,"permanent":true}`)

	type removal struct {
		id, body, query  string
		asked, safe, end time.Time // when it was removed, when it is safe, when its lease ends
		late             int       // answers of the cache that had it after it was removed
	}
	var removals []*removal
	for k, lease := range []string{`"permanent":true`, `"ttl":30`, `"ttl":5`} {
		for q, query := range []string{"", "?drain=true"} {
			id := fmt.Sprintf("i%d", 2*k+q)
			removals = append(removals, &removal{id: id, query: query, body: fmt.Sprintf(`{"address":"10.0.0.%d","port":80,%s}`, 2*k+q, lease)})
		}
	}
	var mu sync.Mutex // guards what is in removals
	var g sync.WaitGroup
	var removed sync.WaitGroup
	removed.Add(len(removals))
	for k, m := range removals {
		m.end = r.register(t, "web", m.id, m.body).Expires
		g.Go(func() {
			defer removed.Done()
			every(time.Second, time.Now().Add(time.Duration(1500+k*370)*time.Millisecond), func() {
				end := r.heartbeat(t, "web", m.id).Expires
				mu.Lock()
				m.end = end
				mu.Unlock()
			})
			asked := time.Now()
			safe := r.remove(t, m.id, m.query)
			mu.Lock()
			defer mu.Unlock()
			m.asked, m.safe = asked, safe
			if !m.end.IsZero() && safe.After(m.end.Add(time.Millisecond)) {
				t.Errorf("%s%s: safe %v after its lease's end", m.id, m.query, safe.Sub(m.end))
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		removed.Wait()
		<-time.After(6 * time.Second)
		close(ended)
	}()
	look := func(k int) {
		sent := time.Now()
		addrs, _, err := addresses(resolver, "web.service.")
		if k >= 0 { // its own name
			addrs, _, err = addresses(resolver, removals[k].id+".web.service.")
		}
		if err != nil {
			t.Errorf("ask unbound: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for k, m := range removals {
			if m.safe.IsZero() || !slices.Contains(addrs, fmt.Sprintf("10.0.0.%d", k)) {
				continue
			}
			m.late++
			if sent.After(m.safe) {
				t.Errorf("%s%s is in an answer %v after safe_after", m.id, m.query, sent.Sub(m.safe))
			}
		}
	}
	for k := -1; ; k = (k+2)%(len(removals)+1) - 1 {
		select {
		case <-ended:
			g.Wait()
			for _, m := range removals {
				t.Logf("%s%s: safe %v after it was removed, seen %d times meanwhile", m.id, m.query, m.safe.Sub(m.asked), m.late)
				if m.late == 0 {
					t.Errorf("%s%s: the cache never had it after it was removed: the test shows nothing", m.id, m.query)
				}
			}
			if got := r.listed(t); len(got) != 1 {
				t.Errorf("%d are listed at the end, want the one that stays", len(got))
			}
			return
		default:
			look(k)
		}
	}
}

// backend is a real HTTP server that is one instance of web.
type backend struct {
	*http.Server
	id string
}

func startBackend(t *testing.T, r *roster, id string) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, id) })}, id}
	go b.Serve(l)
	t.Cleanup(func() { b.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r.register(t, "web", id, fmt.Sprintf(`{"address":"127.0.0.1","port":%s,"ttl":300}`, port))
	return b
}

// fetch does what a client does that asks its resolver for each request: SRV,
// the target's address, and a request over a new connection.
func fetch(c *http.Client, resolver string) error {
	resp, err := ask(resolver, "_web._tcp.service.", dns.TypeSRV)
	if err != nil || len(resp.Answer) == 0 {
		return fmt.Errorf("no SRV records: %w", errors.Join(err, errors.New("empty")))
	}
	srv, ok := resp.Answer[rand.IntN(len(resp.Answer))].(*dns.SRV)
	if !ok {
		return fmt.Errorf("no SRV record: %v", resp.Answer)
	}
	addrs, _, err := addresses(resolver, srv.Target)
	if err != nil || len(addrs) == 0 {
		return fmt.Errorf("%s has no address: %w", srv.Target, errors.Join(err, errors.New("empty")))
	}
	got, err := c.Get("http://" + net.JoinHostPort(addrs[0], strconv.Itoa(int(srv.Port))))
	if err != nil {
		return err
	}
	defer got.Body.Close()
	_, err = io.ReadAll(got.Body)
	return err
}

// Ten servers are replaced one after the other behind clients that respect
// their resolver. With drain and safe_after no request fails; without them
// some do, which shows that the caches matter.
func TestRollingReplacement(t *testing.T) {
	t.Parallel()
	for name, drain := range map[string]bool{"drained": true, "stopped at once": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRoster(t, t.TempDir(), "--max-ttl", "2")
			resolver := startUnbound(t, r)
			const n = 10
			var old []*backend
			for k := range n {
				old = append(old, startBackend(t, r, fmt.Sprintf("old%d", k)))
			}
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			var asked, failed atomic.Int64
			var last atomic.Value
			stop := make(chan struct{})
			var clients, replaced sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						asked.Add(1)
						if err := fetch(c, resolver); err != nil {
							failed.Add(1)
							last.Store(err.Error())
						}
					}
				})
			}
			for k, b := range old {
				startBackend(t, r, fmt.Sprintf("new%d", k))
				replaced.Go(func() {
					if drain {
						safe := r.remove(t, b.id, "?drain=true")
						<-time.After(time.Until(safe))
					} else {
						r.remove(t, b.id, "")
					}
					if err := b.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
				})
				<-time.After(400 * time.Millisecond)
			}
			replaced.Wait()
			close(stop)
			clients.Wait()
			t.Logf("%d requests, %d failed, the last: %v", asked.Load(), failed.Load(), last.Load())
			if drain && failed.Load() > 0 {
				t.Errorf("%d of %d requests failed, the last: %v", failed.Load(), asked.Load(), last.Load())
			}
			if !drain && failed.Load() == 0 {
				t.Error("no request failed: the test shows nothing")
			}
			if asked.Load() < 500 {
				t.Errorf("only %d requests", asked.Load())
			}
			if got := len(r.listed(t)); got != n {
				t.Errorf("%d are listed at the end, want %d", got, n)
			}
		})
	}
}
