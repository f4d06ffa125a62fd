package httpapi_test

import (
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

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
			s := serve(t, r)
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
	if _, err := syscall.Write(fd, []byte("GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	return fd
}
