package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// event is one event of a stream.
type event struct {
	kind string
	id   store.Revision
	data string
}

// stream reads events from a connection of its own.
type stream struct {
	net.Conn
	in   *bufio.Reader
	head textproto.MIMEHeader // of the response
	last store.Revision       // the last id, of an event or not
}

// request sends a GET and reads the head of the response, which must have the
// given status.
func request(addr, path, last string, status int) (*stream, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	head := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if last != "" {
		head += "Last-Event-ID: " + last + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		c.Close()
		return nil, err
	}
	s := &stream{Conn: c, in: bufio.NewReaderSize(c, 512)}
	line, err := s.in.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", status)) {
		err = fmt.Errorf("%s: answered %q, want %d", path, line, status)
	}
	if err == nil {
		s.head, err = textproto.NewReader(s.in).ReadMIMEHeader()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func watch(t *testing.T, s *httpapi.Server, service, last string) *stream {
	t.Helper()
	c, err := request(s.Addr().String(), "/v1/events"+service, last, 200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// next returns the next event.
func (s *stream) next() (e event, err error) {
	var data []string
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return e, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "event":
			e.kind = value
		case "id":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return e, err
			}
			e.id, s.last = store.Revision(n), store.Revision(n)
		case "data":
			data = append(data, value)
		case "":
			if e.data = strings.Join(data, "\n"); e.data != "" {
				return e, nil
			}
			e = event{}
		}
	}
}

// want reads the next event, which must be of that kind, and returns its data.
func (s *stream) want(t *testing.T, kind string) (map[string]any, store.Revision) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	e, err := s.next()
	if err != nil || e.kind != kind {
		t.Fatalf("got %+v, %v; want %s", e, err, kind)
	}
	var data map[string]any
	if err := json.Unmarshal([]byte(e.data), &data); err != nil {
		t.Fatalf("%s: %v in %s", kind, err, e.data)
	}
	return data, e.id
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func port(service, id string, n int) *store.Instance {
	i := storetest.Instance(service, id)
	i.Port = uint16(n)
	return i
}

// A stream begins with the whole state, and has each change of its service
// and of no other.
func TestEvents(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serve(t, r)
	storetest.Register(t, r, storetest.Instance("web", "a1"))
	storetest.Register(t, r, storetest.Instance("db", "a1"))
	web, all, none := watch(t, s, "?service=Web", ""), watch(t, s, "", ""), watch(t, s, "?service=none", "nonsense")
	data, at := web.want(t, "reset")
	if list, _ := data["instances"].([]any); len(list) != 1 || data["service"] != "web" || at != r.Revision() || data["revision"] != float64(at) {
		t.Errorf("reset of web at %d: %v", at, data)
	}
	data, _ = all.want(t, "reset")
	if list, _ := data["instances"].([]any); len(list) != 2 {
		t.Errorf("reset of all: %v", data)
	}
	if data, _ = none.want(t, "reset"); len(data["instances"].([]any)) != 0 {
		t.Errorf("reset of none: %v", data)
	}

	ttl := time.Second
	for _, change := range []func() error{
		func() error { _, err := r.Register(t.Context(), storetest.Instance("web", "a2"), false); return err },
		func() error { _, err := r.Register(t.Context(), storetest.Instance("db", "a2"), false); return err },
		func() error { _, err := r.Register(t.Context(), port("web", "a2", 1), false); return err },
		func() error {
			_, err := r.Heartbeat(t.Context(), "web", "a2", store.Beat{Status: new(store.Down)})
			return err
		},
		func() error { _, err := r.Heartbeat(t.Context(), "web", "a2", store.Beat{}); return err }, // nothing
		func() error { _, err := r.Deregister(t.Context(), "web", "a2"); return err },
		func() error { _, err := r.Heartbeat(t.Context(), "web", "a1", store.Beat{TTL: &ttl}); return err },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	last := at
	for _, want := range []struct{ kind, id, status string }{
		{"register", "a2", "up"}, {"update", "a2", "up"}, {"status", "a2", "down"}, {"deregister", "a2", "down"}, {"update", "a1", "up"}, {"expire", "a1", "up"},
	} {
		data, id := web.want(t, want.kind)
		if data["id"] != want.id || data["status"] != want.status || data["service"] != "web" || data["revision"] != float64(id) || id <= last {
			t.Errorf("%s at %d: %v", want.kind, id, data)
		}
		if gone := want.kind == "deregister" || want.kind == "expire"; (data["expires"] == nil) != gone && want.id == "a1" {
			t.Errorf("%s: expires %v", want.kind, data["expires"])
		}
		last = id
	}
	for _, kind := range []string{"register", "register", "update", "status", "deregister", "update", "expire"} {
		all.want(t, kind)
	}
	// Nothing has come to the third meanwhile: its next event is this one.
	storetest.Register(t, r, storetest.Instance("none", "x"))
	none.want(t, "register")
	all.want(t, "register")

	for path, status := range map[string]int{
		"?service=a.b": 400, "?service=a&service=b": 400, "?tag=x": 400, "?service=": 400,
	} {
		if c, err := request(s.Addr().String(), "/v1/events"+path, "", status); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
	}
}

// After a reconnect a stream goes on where it was, or begins anew where that
// is not known any more.
func TestResume(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{History: 8})
	s := serve(t, r)
	reg := storetest.Register(t, r, storetest.Instance("web", "a1"))
	storetest.Register(t, r, storetest.Instance("db", "a1"))
	for k := range 3 {
		storetest.Register(t, r, port("web", "a1", k))
	}
	at := reg.Revision
	id := func(r store.Revision) string { return fmt.Sprint(uint64(r)) }

	c := watch(t, s, "?service=web", id(at))
	for k := range 3 {
		if data, _ := c.want(t, "update"); data["port"] != float64(k) {
			t.Errorf("event %d: %v", k, data)
		}
	}
	storetest.Register(t, r, port("web", "a1", 3))
	c.want(t, "update")
	c = watch(t, s, "", id(at+4))
	if _, got := c.want(t, "update"); got != at+5 {
		t.Errorf("got %d, want %d", got, at+5)
	}

	for k := range 20 { // the history no longer reaches back
		storetest.Register(t, r, port("db", "a1", 100+k))
	}
	for what, c := range map[string]struct{ service, last string }{
		"compacted, all":     {"", id(at)},
		"compacted, changed": {"?service=web", id(at + 4)},
		"another life":       {"?service=web", id(r.Revision() + 1)},
		"no number":          {"?service=web", "x"},
		"negative":           {"?service=web", "-1"},
		"nobody there":       {"?service=nobody", id(at + 4)},
	} {
		t.Run(what, func(t *testing.T) {
			if _, got := watch(t, s, c.service, c.last).want(t, "reset"); got != r.Revision() {
				t.Errorf("reset at %d, want %d", got, r.Revision())
			}
		})
	}
	// Gone too, but nothing of it was web's.
	c = watch(t, s, "?service=web", id(at+5))
	if line, err := c.in.ReadString('\n'); line != "retry: 1000\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	storetest.Register(t, r, port("web", "a1", 9))
	c.want(t, "update")
}

// A thousand watchers on a hundred services, ten thousand changes, and
// connections that break: every watcher has each change of its service once
// and in order.
func TestEveryChangeOnceInOrder(t *testing.T) {
	watchers, services, changes := 1000, 100, 10_000
	if underRace {
		watchers, changes = 200, 5000
	}
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serve(t, r)
	start := r.Revision()
	var broken, events atomic.Int64
	var g sync.WaitGroup
	var ready sync.WaitGroup
	ready.Add(watchers)
	for w := range watchers {
		g.Go(func() {
			begun := sync.OnceFunc(ready.Done)
			defer begun()
			rnd := rand.New(rand.NewPCG(uint64(w), 0))
			path := fmt.Sprintf("/v1/events?service=s%d", w%services)
			want, last := 0, ""
			for want < changes/services {
				c, err := request(s.Addr().String(), path, last, 200)
				if err != nil {
					t.Error(err)
					return
				}
				for upTo := want + 1 + rnd.IntN(60); want < min(upTo, changes/services); {
					e, err := c.next()
					if err != nil {
						break // cut: it did not keep up
					}
					if last = fmt.Sprint(uint64(e.id)); e.kind == "reset" {
						if want > 0 || e.id != start {
							t.Errorf("watcher %d: a reset at %d after %d events", w, e.id-start, want)
							return
						}
						begun()
						continue
					}
					var data struct {
						Service string
						Port    int
					}
					if err := json.Unmarshal([]byte(e.data), &data); err != nil || data.Port != want || data.Service != fmt.Sprintf("s%d", w%services) {
						t.Errorf("watcher %d: got %+v, %v; want change %d", w, data, err, want)
						return
					}
					want++
					events.Add(1)
				}
				c.Close()
				broken.Add(1)
			}
		})
	}
	ready.Wait()
	var writers sync.WaitGroup
	for first := range 4 {
		writers.Go(func() {
			for k := first; k < services; k += 4 {
				for n := range changes / services {
					storetest.Register(t, r, port(fmt.Sprintf("s%d", k), "a1", n))
				}
			}
		})
	}
	writers.Wait()
	g.Wait()
	t.Logf("%d events to %d watchers over %d connections, %d of them cut", events.Load(), watchers, broken.Load(), s.WatchersCut())
	if want := int64(watchers * changes / services); events.Load() != want {
		t.Errorf("%d events, want %d", events.Load(), want)
	}
	if broken.Load() < int64(2*watchers) {
		t.Errorf("only %d connections: nothing was resumed", broken.Load())
	}
}

// A watcher that does not read is cut, and has what it missed when it comes
// back. Nobody waits for it.
func TestSlowWatcherIsCut(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serve(t, r)
	c := watch(t, s, "?service=web", "")
	c.want(t, "reset")
	big := storetest.Instance("web", "a1")
	for k := range 60 {
		big.Meta = append(big.Meta, store.Pair{Key: fmt.Sprint(k), Value: strings.Repeat("x", 200)})
	}
	const n = 2000 // 25 MB, which no buffer between the two takes
	for k := range n {
		i := *big
		i.Port = uint16(k)
		storetest.Register(t, r, &i)
	}
	eventually(t, "it is cut and gone", func() bool { return s.WatchersCut() == 1 && s.Watchers() == 0 })
	seen, last := 0, ""
	for {
		e, err := c.next()
		if err != nil {
			break
		}
		seen, last = seen+1, fmt.Sprint(uint64(e.id))
	}
	c = watch(t, s, "?service=web", last)
	for ; seen < n; seen++ {
		want := "update"
		if seen == 0 {
			want = "register"
		}
		if data, _ := c.want(t, want); data["port"] != float64(seen) {
			t.Fatalf("after it was cut: port %v, want %d", data["port"], seen)
		}
	}
}

// What has waited for a client goes out in pieces, and all of it.
func TestMuchGoesInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, done := storetest.Open(t, memory, store.Config{})
		defer done()
		w := &stuckWriter{ResponseRecorder: httptest.NewRecorder(), goOn: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() {
			httpapi.NewOffline(r).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx))
		})
		const events = 500
		for k := range events {
			synctest.Wait() // the first is being written before the second comes
			i := port("web", fmt.Sprint(k), k+1)
			for n := range 20 {
				i.Tags = append(i.Tags, fmt.Sprintf("%0200d", n))
			}
			storetest.Register(t, r, i)
		}
		close(w.goOn)
		synctest.Wait()
		cancel()
		watching.Wait()
		if got := strings.Count(w.Body.String(), "event: register\n"); got != events {
			t.Errorf("%d events came, want %d", got, events)
		}
		if w.most > 64<<10 {
			t.Errorf("%d octets in one piece", w.most)
		}
	})
}

// stuckWriter is a client that reads nothing of the first event before goOn is
// closed.
type stuckWriter struct {
	*httptest.ResponseRecorder
	goOn chan struct{}
	most int // octets in one write
}

// Write implements [http.ResponseWriter].
func (w *stuckWriter) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("event: register")) {
		<-w.goOn
	}
	w.most = max(w.most, len(b))
	return w.ResponseRecorder.Write(b)
}

func TestWatcherCaps(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    httpapi.Config
		status int
	}{
		"in all":     {httpapi.Config{MaxWatchers: 2}, 503},
		"per client": {httpapi.Config{MaxWatchersPerClient: 2}, 429},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := storetest.Open(t, memory, store.Config{})
			s := serveWith(t, r, c.cfg)
			first := watch(t, s, "", "")
			first.want(t, "reset")
			waits := fmt.Sprintf("/v1/services?after=%d&wait=1m", r.Revision())
			second, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if _, err := io.WriteString(second, "GET "+waits+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "two watch", func() bool { return s.Watchers() == 2 })
			for _, path := range []string{"/v1/events", waits} {
				refused, err := request(s.Addr().String(), path, "", c.status)
				if err != nil {
					t.Fatal(err)
				}
				refused.Close()
			}
			answer, err := http.Get("http://" + s.Addr().String() + waits)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if after := answer.Header.Get("Retry-After"); answer.StatusCode != c.status || after != "1" {
				t.Errorf("%d with Retry-After %q, want %d with 1", answer.StatusCode, after, c.status)
			}
			// Who does not wait is served, and one that goes makes room.
			plain, err := request(s.Addr().String(), "/v1/services", "", 200)
			if err != nil {
				t.Fatal(err)
			}
			plain.Close()
			first.Close()
			eventually(t, "it is freed", func() bool { return s.Watchers() == 1 })
			watch(t, s, "", "").want(t, "reset")
		})
	}
}

// When the server stops, watches end at once, and a GET that waits gets its
// answer.
func TestStopEndsWatches(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s, err := httpapi.New(httpapi.Config{Registry: r, Name: func(*store.Instance) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx) }()
	c := watch(t, s, "", "")
	c.want(t, "reset")
	got := make(chan *http.Response, 1)
	go func() {
		resp, err := http.Get(fmt.Sprintf("http://%s/v1/services/web?after=%d&wait=5m", s.Addr(), r.Revision()))
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	eventually(t, "both watch", func() bool { return s.Watchers() == 2 })
	begin := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("it took %v to stop", d)
	}
	if e, err := c.next(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream: %+v, %v; want its end", e, err)
	}
	resp := <-got
	if resp == nil {
		return
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), `"instances":[]`) {
		t.Errorf("the GET: %s %s %v", resp.Status, b, err)
	}
}

// A client that comes back while changes go on, and while some of what it has
// missed may also come to it anew, has each of them once.
func TestResumeMeetsChanges(t *testing.T) {
	r, _ := storetest.Open(t, memory, store.Config{})
	s := serve(t, r)
	start := storetest.Register(t, r, port("web", "a1", 0)).Revision
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	defer writer.Wait()
	defer cancel()
	// Never far ahead of the client, which would only read for ever.
	var read atomic.Int64
	writer.Go(func() {
		for n := 1; ctx.Err() == nil; {
			if int64(n) > read.Load()+300 {
				runtime.Gosched()
				continue
			}
			storetest.Register(t, r, port("web", "a1", n%65536))
			n++
		}
	})
	last := start
	for range 80 {
		c, err := request(s.Addr().String(), "/v1/events?service=web", fmt.Sprint(uint64(last)), 200)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 400 {
			e, err := c.next()
			if err != nil || e.id != last+1 {
				t.Fatalf("event %d: %d, %v; want %d", k, e.id-start, err, last+1-start)
			}
			last = e.id
			read.Add(1)
		}
		c.Close()
	}
}
