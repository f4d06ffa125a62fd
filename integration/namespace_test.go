package integration

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace of the test's own. It has no name and no
// process: it is gone once the test has closed it and what was started in it has
// ended, also where the test is killed.
type namespace struct{ f *os.File }

// own is the network namespace of the calling thread.
const own = "/proc/thread-self/ns/net"

// newNamespace makes one. It returns an error where that may not be done here.
func newNamespace(t *testing.T) (*namespace, error) {
	t.Helper()
	n := &namespace{}
	err := elsewhere(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.f, err = os.Open(own)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { n.f.Close() })
	return n, nil
}

// do has f run in the namespace: the sockets that it opens and the programs that
// it starts belong there. Goroutines that it starts do not.
func (n *namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	return elsewhere(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// elsewhere has f run on a thread that it may move to another namespace, and
// moves that back.
func elsewhere(f func() error) error {
	runtime.LockOSThread()
	back, err := os.Open(own)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer back.Close()
	defer func() {
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
	}()
	return f()
}
