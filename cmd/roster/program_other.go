//go:build !unix

package main

import (
	"os"
	"os/exec"
	"os/signal"
)

// program is a child process.
type program struct {
	process *os.Process
	ended   chan struct{} // closed when it has ended
	status  int           // valid after ended
}

// startProgram starts a program with the standard streams of this one.
func startProgram(args []string, env ...string) (*program, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &program{process: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // the status says it
		p.status = cmd.ProcessState.ExitCode()
	}()
	return p, nil
}

// forwarded has the signals come that are the program's.
func forwarded() <-chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, os.Interrupt)
	return c
}

// signal ends the program: no other signal can be sent here.
func (p *program) signal(os.Signal) { _ = p.process.Kill() }
