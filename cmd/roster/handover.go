package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// An upgrade without a lost query: SIGUSR2 has the server start its program
// anew and hand over to that. Old and new process share the sockets, so what is
// in their buffers and queues is answered by one of the two. The order, in
// which each step waits for the one before:
//
//	new  reads flags and files, and says that it is prepared
//	old  lets go of HTTP: for retireTime each response ends its connection,
//	     then new connections wait in the listener's queue, and requests under
//	     way are finished. From here on nobody can renew a lease, so its lease
//	     clock stands: nothing ends. It closes the store and says so.
//	new  reads the store. Its lease clock stands at 0.
//	new  answers DNS, as does the old one: both from the same state, for
//	     neither takes a change. It says so.
//	old  stops answering DNS, says so and ends.
//	new  lets its lease clock go, and takes requests over HTTP.
//
// No old answer is given after a change that the new one has acknowledged, for
// those begin after the last of them (P3). No cache keeps an old answer past
// the end of a lease, for all leases begin afresh after the last of them (P1).
// And no lease ends in between (P2).
//
// If the new process fails before it answers, the old one goes on: as if
// nothing had been, or where it has closed the store, as a new server in the
// same process, by the same steps.

// The pipes of a hand-over, by the names that their ends have in the new
// process.
const (
	handoverIn  = "handover-in"
	handoverOut = "handover-out"
)

// What is said over them, a line each.
const (
	sayStore     = "the store is " // and --store
	sayPrepared  = "prepared"
	sayFree      = "the store is free"
	sayAnswering = "answering"
	saySilent    = "silent"
)

// The longest that the old process waits for the new one.
const (
	prepareTime = 20 * time.Second
	loadTime    = 2 * time.Minute
)

// predecessor is the process that hands over to this one.
type predecessor struct {
	in  *bufio.Reader
	out *os.File
}

func newPredecessor(in, out *os.File) *predecessor {
	return &predecessor{bufio.NewReader(in), out}
}

// letGo implements [former].
func (p *predecessor) letGo(spec string) error {
	line, err := p.hear()
	if err != nil {
		return err
	}
	if theirs := strings.TrimPrefix(line, sayStore); theirs != spec {
		return fmt.Errorf("--store %s: the running server has %s, and can hand over no other; restart it to change that", spec, theirs)
	}
	p.say(sayPrepared)
	line, err = p.hear()
	if err == nil && line != sayFree {
		err = fmt.Errorf("the server that started this one for an upgrade said %q: is it another version?", line)
	}
	return err
}

// say tells it something. What it does not hear since it has ended shows when
// we listen.
func (p *predecessor) say(what string) { _, _ = fmt.Fprintln(p.out, what) }

func (p *predecessor) hear() (string, error) {
	line, err := p.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the server that started this one for an upgrade has ended, or goes on without it: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// fallSilent implements [former]. A predecessor that has ended is silent, too.
func (p *predecessor) fallSilent() error {
	p.say(sayAnswering)
	if line, err := p.hear(); err == nil && line != saySilent {
		return fmt.Errorf("the server that started this one for an upgrade said %q: is it another version?", line)
	}
	return nil
}

// successor is the process that this one hands over to.
type successor struct {
	*exec.Cmd
	lines chan string   // what it says; closed when it has ended
	out   *os.File      // what we say to it
	done  chan struct{} // closed when it has ended
	err   error         // how; valid after done
}

// startSuccessor starts the program anew with the same arguments, environment
// and sockets.
func startSuccessor(in sockets) (*successor, error) {
	// By the name it was called by: /usr/bin/roster may be another file now.
	program, err := exec.LookPath(os.Args[0])
	if err != nil {
		return nil, err
	}
	hear, theirOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirOut.Close()
	theirIn, say, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, hear.Close())
	}
	defer theirIn.Close()
	files, names := in.files()
	files, names = append(files, theirIn, theirOut), append(names, handoverIn, handoverOut)
	c := &successor{Cmd: exec.Command(program, os.Args[1:]...), lines: make(chan string, 4), out: say, done: make(chan struct{})}
	c.Stdin, c.Stdout, c.Stderr, c.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, files
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "LISTEN_") {
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	if err := c.Start(); err != nil {
		return nil, errors.Join(err, hear.Close(), say.Close())
	}
	go func() {
		defer close(c.done)
		defer close(c.lines)
		defer hear.Close()
		for r := bufio.NewReader(hear); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			c.lines <- strings.TrimSpace(line)
		}
		c.err = c.Wait()
	}()
	return c, nil
}

// say tells it something. What it does not hear since it has ended shows in
// what it does not answer.
func (c *successor) say(what string) { _, _ = fmt.Fprintln(c.out, what) }

// await waits until it says so.
func (c *successor) await(ctx context.Context, what string, within time.Duration) error {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case line, ok := <-c.lines:
		switch {
		case ok && line == what:
			return nil
		case ok:
			return fmt.Errorf("it said %q, not %q: is it another version?", line, what)
		}
		<-c.done
		return fmt.Errorf("it ended: %w", errors.Join(c.err, errors.New("what it logged says why")))
	case <-late.C:
		return fmt.Errorf("it was not there (%s) after %v", what, within)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end ends it.
func (c *successor) end() {
	_ = c.out.Close()
	_ = c.Process.Kill()
	<-c.done
}

// handOver hands over to the program started anew. Where it returns nil, that
// one serves in place of s. Where it returns an error, s goes on; or where
// again is not nil, again is in its place.
func (s *server) handOver(ctx context.Context) (again *server, err error) {
	if strings.HasPrefix(s.flags.store, "memory:") {
		return nil, fmt.Errorf("--store %s keeps nothing that another process could go on with", s.flags.store)
	}
	if os.Getpid() == 1 { // with which all others in a container end
		return nil, errors.New("this is process 1 of a container, which cannot end before another: start a new container in its place")
	}
	in, err := s.sockets()
	if err != nil {
		return nil, err
	}
	defer in.close()
	c, err := startSuccessor(in)
	if err != nil {
		return nil, fmt.Errorf("start the program anew: %w", err)
	}
	c.say(sayStore + s.flags.store)
	if err := c.await(ctx, sayPrepared, prepareTime); err != nil {
		c.end()
		return nil, fmt.Errorf("%s, started anew: %w", c.Path, err)
	}
	s.log.Infof("an upgrade: %s (process %d) takes over", c.Path, c.Process.Pid)
	var steps laps
	err = s.takeNoMore(&steps)
	if err == nil {
		c.say(sayFree)
		err = c.await(ctx, sayAnswering, loadTime)
	}
	steps.add("load")
	if err != nil {
		c.end()
		return s.takeBack(ctx, in, fmt.Errorf("%s, started anew: %w", c.Path, err))
	}
	s.answering.end()
	steps.add("silent")
	select {
	case <-c.done:
		return s.takeBack(ctx, in, fmt.Errorf("%s, started anew: it ended when it was to take over", c.Path))
	default:
	}
	// systemd is to know whom to watch before this process ends.
	_, _ = daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", c.Process.Pid))
	c.say(saySilent)
	s.log.WithFields(steps.fields).Infof("handed over to process %d", c.Process.Pid)
	return nil, s.wait()
}

// laps are how long the steps of a hand-over took, for the log.
type laps struct {
	last   time.Time
	fields logrus.Fields
}

func (l *laps) add(step string) {
	now := time.Now()
	if l.fields == nil {
		l.fields = logrus.Fields{}
	}
	l.fields[step] = now.Sub(l.last).Round(time.Millisecond).String()
	l.last = now
}

// takeBack goes on after a hand-over that failed for the reason given.
func (s *server) takeBack(ctx context.Context, in sockets, reason error) (*server, error) {
	if ctx.Err() != nil {
		return nil, reason // it is to stop anyway
	}
	again, err := s.start(ctx, in, s)
	if err != nil {
		return nil, fatalError{fmt.Errorf("%w; and the store cannot be taken back: %w", reason, err)}
	}
	return again, reason
}

// fatalError is a hand-over that failed with no way back.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }
