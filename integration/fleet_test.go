package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fleet is many instances that register and send heartbeats one by one, over
// connections that each belong to some of them.
type fleet struct {
	r        *roster
	n        int // instances, spread over services
	services int
	conns    int
	ttl      int           // seconds
	every    time.Duration // between two heartbeats of an instance

	expired atomic.Int64 // expire events

	mu     sync.Mutex
	took   []time.Duration // from when a heartbeat was due to its answer; guarded by mu
	closed int             // heartbeats on a connection that was closed meanwhile, and sent again; guarded by mu
	wrong  []string        // what else went wrong; guarded by mu
}

func (f *fleet) path(k int) string {
	return fmt.Sprintf("/v1/services/s%d/instances/i%d", k%f.services, k)
}

// register registers all of them.
func (f *fleet) register(t *testing.T) {
	t.Helper()
	var g sync.WaitGroup
	const at = 64
	for c := range at {
		g.Go(func() {
			conn := &keptConn{addr: f.r.http}
			defer conn.close()
			for k := c; k < f.n; k += at {
				body := fmt.Sprintf(`{"address":"10.%d.%d.%d","port":80,"ttl":%d}`, k>>16, k>>8&255, k&255, f.ttl)
				if status, b, err := conn.do(http.MethodPut, f.path(k), body); err != nil || status > http.StatusCreated {
					t.Errorf("register %s: %d %s %v", f.path(k), status, b, err)
					return
				}
			}
		})
	}
	g.Wait()
}

// watch counts expire events until the stream or the test ends. It is watching
// when it returns.
func (f *fleet) watch(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.r.http+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %v %v", resp, err)
	}
	go func() {
		defer resp.Body.Close()
		r := bufio.NewReaderSize(resp.Body, 1<<20)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, "event: expire") {
				f.expired.Add(1)
			}
		}
	}()
}

// beat sends heartbeats until stop is called.
func (f *fleet) beat() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	begin := time.Now()
	var g sync.WaitGroup
	for c := range f.conns {
		g.Go(func() { f.beatSome(ctx, begin, c) })
	}
	return func() {
		cancel()
		g.Wait()
	}
}

// beatSome sends those of one connection, spread evenly.
func (f *fleet) beatSome(ctx context.Context, begin time.Time, c int) {
	var own []int
	for k := c; k < f.n; k += f.conns {
		own = append(own, k)
	}
	conn := &keptConn{addr: f.r.http}
	defer conn.close()
	gap := f.every / time.Duration(len(own))
	due := begin.Add(gap * time.Duration(c) / time.Duration(f.conns))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var took []time.Duration
	for j := 0; ctx.Err() == nil; j, due = j+1, due.Add(gap) {
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			continue
		case <-timer.C:
		}
		path := f.path(own[j%len(own)]) + "/heartbeat"
		status, b, err := conn.do(http.MethodPut, path, "")
		if errors.Is(err, errClosed) {
			f.note(func() { f.closed++ })
			status, b, err = conn.do(http.MethodPut, path, "")
		}
		if status != http.StatusOK {
			f.note(func() { f.wrong = append(f.wrong, fmt.Sprintf("%s: %d %s %v", path, status, b, err)) })
		}
		took = append(took, time.Since(due))
	}
	f.note(func() { f.took = append(f.took, took...) })
}

func (f *fleet) note(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// judge fails the test where an instance was lost or a heartbeat was answered
// too late, and logs how it went.
func (f *fleet) judge(t *testing.T, limit time.Duration) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.took)
	if len(f.took) == 0 {
		t.Fatal("no heartbeat was answered")
	}
	at := func(q float64) time.Duration {
		return f.took[int(q*float64(len(f.took)-1))].Round(10 * time.Microsecond)
	}
	t.Logf("%d heartbeats: median %v, p99 %v, p99.9 %v, the longest %v; %d sent again on a new connection, %d failed, %d instances expired",
		len(f.took), at(0.5), at(0.99), at(0.999), at(1), f.closed, len(f.wrong), f.expired.Load())
	if p99 := at(0.99); p99 > limit {
		t.Errorf("p99 of a heartbeat is %v, want %v at most", p99, limit)
	}
	if len(f.wrong) > 0 {
		t.Errorf("%d heartbeats failed, the first: %s", len(f.wrong), f.wrong[0])
	}
	if n := f.expired.Load(); n > 0 {
		t.Errorf("%d live instances expired", n)
	}
	there := 0
	for s := range f.services {
		there += f.r.count(t, fmt.Sprintf("s%d", s))
	}
	if there != f.n {
		t.Errorf("%d instances are listed at the end, want %d", there, f.n)
	}
}

// count returns how many instances of a service are listed.
func (r *roster) count(t *testing.T, service string) int {
	t.Helper()
	status, b, err := r.call(http.MethodGet, "/v1/services/"+service, "")
	if err != nil || status != http.StatusOK {
		t.Fatalf("list %s: %d %s %v", service, status, b, err)
	}
	return strings.Count(string(b), `"id":`)
}

// keptConn is a client with one kept connection. There is less to it than to
// net/http's, for thousands of them share two processors with the server.
type keptConn struct {
	addr string
	conn net.Conn // nil: to be opened
	r    *bufio.Reader
	buf  []byte
}

// errClosed: the server has closed the connection before it answered, as it
// may at any time.
var errClosed = errors.New("the connection was closed")

func (c *keptConn) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// do does a request and returns the status and the body.
func (c *keptConn) do(method, path, body string) (status int, reply []byte, err error) {
	kept := c.conn != nil
	if !kept {
		if c.conn, err = net.DialTimeout("tcp", c.addr, 10*time.Second); err != nil {
			c.conn = nil
			return 0, nil, err
		}
		if c.r == nil {
			c.r = bufio.NewReaderSize(nil, 1<<10)
		}
		c.r.Reset(c.conn)
	}
	c.buf = fmt.Appendf(c.buf[:0], "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	status, reply, last, err := c.exchange()
	if err != nil || last {
		c.close()
	}
	if kept && status == 0 && err != nil && !errors.Is(err, errSlow) {
		err = fmt.Errorf("%w: %w", errClosed, err)
	}
	return status, reply, err
}

var errSlow = errors.New("no answer within 10 s")

func (c *keptConn) exchange() (status int, body []byte, last bool, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, nil, false, err
	}
	if _, err := c.conn.Write(c.buf); err != nil {
		return 0, nil, false, err
	}
	line, err := c.r.ReadSlice('\n')
	if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // what a connection returns
		return 0, nil, false, errSlow
	}
	if err != nil {
		return 0, nil, false, err
	}
	if len(line) < 12 {
		return 0, nil, false, fmt.Errorf("%q is no status line", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, false, err
	}
	length := 0
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return status, nil, false, err
		}
		s := strings.TrimSpace(string(line))
		if s == "" {
			break
		}
		if v, ok := strings.CutPrefix(s, "Content-Length: "); ok {
			if length, err = strconv.Atoi(v); err != nil {
				return status, nil, false, err
			}
		}
		last = last || s == "Connection: close"
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.r, body)
	return status, body, last, err
}
