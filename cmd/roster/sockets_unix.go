//go:build unix

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// keepMode returns the file anew, so that its Fd, which os/exec and package net
// call, leaves alone whether it blocks. The Fd of a file that package net has
// made has it block from then on, and with it every copy: the listener's own
// Accept would then wait in the kernel, where no Close or deadline reaches it.
// It takes f over.
func keepMode(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var fd int
	ctl := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctl, err); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return os.NewFile(uintptr(fd), f.Name()), f.Close()
}
