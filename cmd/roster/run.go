package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rosterdns/roster/httpapi/client"
)

const (
	weightEvery   = time.Second      // how often the weight file is read
	goodbyeTime   = 2 * time.Second  // how long the server may take to deregister a program that has ended
	patienceTime  = 10 * time.Second // after which a program that is not registered yet is told of
	weightFileEnv = "ROSTER_WEIGHT_FILE"
)

// endedError is the end of the program that was run, which is the end of roster
// run as well.
type endedError struct{ status int }

func (e endedError) Error() string { return fmt.Sprintf("the program ended with status %d", e.status) }

func runCommand() *cobra.Command {
	var (
		f    clientFlags
		what registrationFlags
		r    runner
	)
	cmd := &cobra.Command{
		Use:   "run SERVICE [flags] -- PROGRAM [ARGUMENT...]",
		Short: "Run a program that is registered while it runs",
		Long: "Run a program, register it once it listens on --port (or --check passes), and send its\n" +
			"heartbeats. SIGTERM and SIGINT take it out of DNS first, and reach it when no cache\n" +
			"has it any more. It may write its weight to the file that $ROSTER_WEIGHT_FILE names.",
		Example: "  roster run web --port 8080 -- ./server --listen :8080",
		Args: func(cmd *cobra.Command, args []string) error {
			switch dash := cmd.ArgsLenAtDash(); {
			case dash < 0 || dash == len(args):
				return usagef("roster run: the program is missing; it comes after --, as in 'roster run web --port 8080 -- ./server'")
			case dash == 0:
				return usagef("roster run: SERVICE is missing; it comes before --")
			case dash > 1:
				return usagef("roster run: %q is one argument too many before --", args[1])
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&r.check, "check", "", "what has to answer, then and later, a `URL` with http, https or tcp")
	fs.DurationVar(&r.drainFor, "drain-for", 30*time.Second, "how `long` caches have at most to forget it")
	what.register(fs, 15, "the one that leads to the server")
	f.register(fs)
	services := f.names(1)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return services(cmd, args, word)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if err := layer(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if r.keeper.Client, err = f.client(); err != nil {
			return err
		}
		if r.keeper.Registration, err = what.registration(args[0]); err != nil {
			return err
		}
		if r.probe, err = newProbe(r.check); err != nil {
			return usageError{err}
		}
		r.servers, r.log = f.servers, cmd.ErrOrStderr()
		return advise(r.run(cmd.Context(), args[1:]))
	}
	return cmd
}

// runner runs one program.
type runner struct {
	keeper   client.Keeper
	servers  []string
	check    string // as it was given
	probe    probe  // nil: a connection to the port, once
	drainFor time.Duration
	log      io.Writer

	taken bool // something answered at the port before the program was started
}

func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.log, "roster: "+format+"\n", args...)
}

func (r *runner) name() string {
	return r.keeper.Registration.Service + "/" + r.keeper.Instance().ID
}

// run runs the program to its end, which it returns as an [endedError] unless
// it ended with 0. A registration that is refused ends the program, and is the
// error then.
func (r *runner) run(ctx context.Context, args []string) error {
	address := ""
	if address, r.taken = r.answers(ctx); r.taken && r.probe == nil {
		return fmt.Errorf("something answers at %s already, before the program is started\nStop it, or say with --check what has to answer.", address) //nolint:staticcheck // two sentences for people
	}
	weight, remove := weightFile()
	defer remove()
	signals := forwarded()
	p, err := startProgram(args, weightFileEnv+"="+weight)
	if err != nil {
		return fmt.Errorf("start the program: %w", err)
	}
	r.keeper.Report = r.report
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	keeping, stopKeeping := context.WithCancel(ctx)
	defer stopKeeping()
	var refused error // valid after kept
	var background sync.WaitGroup
	kept, drained := make(chan struct{}), make(chan struct{})
	background.Go(func() { defer close(kept); refused = r.keep(keeping, weight) })
	var first os.Signal // the one that has begun the drain
	for ended := kept; ; {
		select {
		case <-p.ended:
			leave()
			background.Wait()
			r.goodbye(p.status, first != nil)
			switch {
			case refused != nil:
				return refused
			case p.status != 0:
				return endedError{p.status}
			}
			return nil
		case <-ended:
			if ended = nil; refused != nil {
				p.signal(syscall.SIGTERM) // nobody would ever find it
			}
		case s := <-signals:
			if first != nil || s != syscall.SIGTERM && s != os.Interrupt {
				p.signal(s)
				continue
			}
			first = s
			stopKeeping()
			background.Go(func() { defer close(drained); <-kept; r.drain(ctx, s) })
		case <-drained:
			p.signal(first)
			drained = nil
		}
	}
}

// lookTime is how long a look at the port may take while no program runs.
const lookTime = time.Second

// answers looks, while the program does not run, whether somebody else has the
// port, and where. A program that is started a second time would be registered
// in the first one's place, fail to listen, and take the first one, which lives,
// out of DNS. So it is not started; but with --check it is, since who answers
// may be about to leave, or systemd, which holds the port for the program.
func (r *runner) answers(ctx context.Context) (address string, yes bool) {
	reg := &r.keeper.Registration
	if reg.Port == 0 || reg.Protocol != "tcp" {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	addresses := reg.Addresses
	if len(addresses) == 0 {
		a, err := routeTo(ctx, r.servers)
		if err != nil {
			return "", false // it is said where the address is chosen
		}
		addresses = []netip.Addr{a}
	}
	address = net.JoinHostPort(addresses[0].String(), strconv.Itoa(int(reg.Port)))
	return address, connection(address)(ctx) == nil
}

// keep waits until the program is there, and keeps it registered until ctx is
// done. The error is that of a registration that was refused.
func (r *runner) keep(ctx context.Context, weight string) error {
	var g sync.WaitGroup
	defer g.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.Go(func() { r.followWeight(ctx, weight) })
	if !r.chooseAddress(ctx) || !r.started(ctx) {
		return nil
	}
	if r.probe != nil {
		g.Go(func() { r.followCheck(ctx) })
	}
	return r.keeper.Run(ctx)
}

// report says how the registration is.
func (r *runner) report(i client.Instance, err error) {
	if err != nil {
		r.say("%v; trying again", err)
		return
	}
	r.say("%s is registered: %s, %s", r.name(), endpoint(i), i.DNSName)
	for _, w := range i.Warnings {
		r.say("warning: %s", w)
	}
}

// drain takes the program out of DNS and waits until no cache has it.
func (r *runner) drain(ctx context.Context, s os.Signal) {
	if r.keeper.Instance().ID == "" {
		return
	}
	r.say("%v: draining %s, for %v at most; another one ends the wait", s, r.name(), r.drainFor)
	ctx, cancel := context.WithTimeoutCause(ctx, r.drainFor, fmt.Errorf("--drain-for %v is over", r.drainFor))
	defer cancel()
	if err := r.keeper.Drain(ctx); err != nil {
		r.say("%v", err)
	}
}

// goodbye deregisters the program that has ended, unless the instance is
// somebody else's: it was there before this program, and who answered before
// still does. What has begun to drain was taken out already.
func (r *runner) goodbye(status int, drained bool) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTime)
	defer cancel()
	if r.taken && !drained && r.keeper.Found() {
		if address, yes := r.answers(ctx); yes {
			r.say("%s stays registered: the program ended with status %d, but what was registered and answered at %s before it still does\nIf that is another service, take it out with 'roster deregister %s %s'.",
				r.name(), status, address, r.keeper.Registration.Service, r.keeper.Instance().ID)
			return
		}
	}
	switch err := r.keeper.Deregister(ctx); {
	case err != nil:
		r.say("the program ended with status %d, but stays in DNS until its lease ends: %v", status, err)
	case r.keeper.Instance().ID != "":
		r.say("%s is deregistered: the program ended with status %d", r.name(), status)
	}
}

// chooseAddress chooses the address to register, where none was given. It waits
// for a route to the server, and reports whether there is one.
func (r *runner) chooseAddress(ctx context.Context) bool {
	for told := false; len(r.keeper.Registration.Addresses) == 0; {
		a, err := routeTo(ctx, r.servers)
		if err == nil {
			r.keeper.Registration.Addresses = []netip.Addr{a}
			return true
		}
		if !told && ctx.Err() == nil {
			r.say("%v; trying again", err)
			told = true
		}
		if !pause(ctx, time.Second) {
			return false
		}
	}
	return true
}

// started waits until the program answers, and reports whether it does.
func (r *runner) started(ctx context.Context) bool {
	reg := r.keeper.Registration
	look := r.probe
	switch {
	case look != nil:
	case reg.Port == 0 || reg.Protocol != "tcp":
		return true // there is nothing to look at
	default:
		look = connection(net.JoinHostPort(reg.Addresses[0].String(), strconv.Itoa(int(reg.Port))))
	}
	begin, told := time.Now(), false
	for every := firstProbe; ; every = min(every*3/2, lastProbe) {
		err := look(ctx)
		if err == nil {
			return true
		}
		if !told && time.Since(begin) > patienceTime && ctx.Err() == nil {
			r.say("%s is not registered yet: %v", reg.Service, err)
			told = true
		}
		if !pause(ctx, every) {
			return false
		}
	}
}

// followCheck goes on checking: after some failures in a row the instance is
// down, until a check passes again.
func (r *runner) followCheck(ctx context.Context) {
	every := time.Duration(r.keeper.Registration.TTL) * time.Second / 3
	for failures := 0; pause(ctx, every); {
		err := r.probe(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failures >= failuresToDown:
			r.say("%s is up again", r.name())
			r.keeper.SetStatus(client.Up)
			failures = 0
		case err == nil:
			failures = 0
		default:
			if failures++; failures == failuresToDown {
				r.say("%s is down: %d checks in a row failed: %v", r.name(), failures, err)
				r.keeper.SetStatus(client.Down)
			}
		}
	}
}

// followWeight has the weight follow the file in which the program writes it.
func (r *runner) followWeight(ctx context.Context, path string) {
	if path == "" {
		return
	}
	last := ""
	for {
		b, err := os.ReadFile(path)
		text := strings.TrimSpace(string(b))
		if err == nil && text != "" && text != last {
			last = text
			if n, err := strconv.ParseUint(text, 10, 16); err == nil {
				r.keeper.SetWeight(uint16(n))
			} else {
				r.say("the weight %.20q is no number from 0 to 65535 and changes nothing", text)
			}
		}
		if !pause(ctx, weightEvery) {
			return
		}
	}
}

// weightFile makes the file in which the program may write its weight. Where
// it cannot be made the program has none, and remove does nothing.
func weightFile() (path string, remove func()) {
	dir, err := os.MkdirTemp("", "roster-run-")
	if err != nil {
		return "", func() {}
	}
	return filepath.Join(dir, "weight"), func() { _ = os.RemoveAll(dir) } // a leftover harms nobody
}

// pause waits, and reports whether ctx was not done before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
