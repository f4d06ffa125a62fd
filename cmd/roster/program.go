//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// program is a child process.
type program struct {
	process *os.Process
	ended   chan struct{} // closed when it has ended
	status  int           // as a shell has it, 128 and the signal where one ended it; valid after ended
}

// startProgram starts a program with the standard streams of this one. It is in
// a process group of its own, so that the Ctrl-C of a terminal does not reach
// it before it is out of DNS; for the same reason it cannot read from one.
//
// From then on every child of this process is waited for, also those that it
// has as the first process of a container.
func startProgram(args []string, env ...string) (*program, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, err
	}
	stdin := os.Stdin
	if term.IsTerminal(int(stdin.Fd())) {
		if stdin, err = os.Open(os.DevNull); err != nil {
			return nil, err
		}
		defer stdin.Close()
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	process, err := os.StartProcess(path, args, &os.ProcAttr{
		Env:   append(os.Environ(), env...),
		Files: []*os.File{stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, err
	}
	p := &program{process: process, ended: make(chan struct{})}
	go func() {
		for range children { // for ever: who is left behind ends later
			p.reap()
		}
	}()
	return p, nil
}

// reap takes the status of every child that has ended. Several may share a
// SIGCHLD.
func (p *program) reap() {
	for {
		var s syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &s, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || pid <= 0:
			return
		case pid == p.process.Pid:
			p.status = s.ExitStatus()
			if s.Signaled() {
				p.status = 128 + int(s.Signal())
			}
			close(p.ended)
		}
	}
}

// forwarded has the signals come that are the program's.
func forwarded() <-chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	// Or Go would end with the first word that nobody reads.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return c
}

// signal passes a signal on. SIGINT goes to the whole process group, as from a
// terminal, all others to the program alone.
func (p *program) signal(s os.Signal) {
	select {
	case <-p.ended:
		return
	default:
	}
	if n, ok := s.(syscall.Signal); ok && s == os.Interrupt {
		_ = syscall.Kill(-p.process.Pid, n) // it may have ended just now
		return
	}
	_ = p.process.Signal(s) // it may have ended just now
}
