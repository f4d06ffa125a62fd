package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	in *bufio.Reader
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
	s := &stream{c, bufio.NewReaderSize(c, 512)}
	for first := true; ; first = false {
		line, err := s.in.ReadString('\n')
		if err == nil && first && !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", status)) {
			err = fmt.Errorf("%s: answered %q, want %d", path, line, status)
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		if line == "\r\n" {
			return s, nil
		}
	}
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
			e.id = store.Revision(n)
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

// Idle watchers cost under 10 KiB each: heap and stacks of this whole process,
// the test's own ends of the connections included.
func TestIdleWatchersAreCheap(t *testing.T) {
	const n = 1000
	for _, kind := range []string{"streams", "a service each", "waits"} {
		t.Run(kind, func(t *testing.T) {
			r, _ := storetest.Open(t, memory, store.Config{})
			for k := range n {
				storetest.Register(t, r, storetest.Instance(fmt.Sprintf("s%d", k), "a1"))
			}
			s := serve(t, r, 0)
			before := inUse()
			var fds []int
			for k := range n {
				service := k % 100
				if kind == "a service each" {
					service = k
				}
				path := fmt.Sprintf("/v1/events?service=s%d", service)
				if kind == "waits" {
					path = fmt.Sprintf("/v1/services/s%d?after=%d&wait=5m", service, r.Revision())
				}
				fds = append(fds, rawWatch(t, s.Addr().String(), path))
			}
			eventually(t, "all watch", func() bool { return s.Watchers() == n })
			if kind != "waits" { // each has had an event
				for k := range n {
					i := storetest.Instance(fmt.Sprintf("s%d", k), "a1")
					i.Port = 1
					storetest.Register(t, r, i)
				}
			}
			var each uint64
			eventually(t, "the handlers have gone", func() bool {
				each = (inUse() - before) / n
				return each < 10<<10
			})
			t.Logf("%d octets for each", each)
			for _, fd := range fds {
				syscall.Close(fd)
			}
			eventually(t, "those who disconnect are freed", func() bool { return s.Watchers() == 0 })
		})
	}
}

// inUse returns how much memory heap and stacks take.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// rawWatch sends a request on a bare socket, which costs this process next to
// nothing.
func rawWatch(t *testing.T, addr, path string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Write(fd, []byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	return fd
}

var (
	_ = context.Background
	_ = errors.Is
	_ = rand.IntN
	_ = http.StatusOK
	_ = slices.Sort[[]int]
	_ sync.Mutex
	_ atomic.Int64
	_ = synctest.Test
)
