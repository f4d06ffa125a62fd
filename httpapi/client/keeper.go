package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Keeper keeps one instance registered. Set Client and Registration, then call
// Run; and before the program stops, Drain.
//
// SetWeight and SetStatus may be called concurrently with everything else.
type Keeper struct {
	// Client is whom to ask. Default a zero Client.
	Client *Client

	// Registration is what is registered. Required.
	Registration Registration

	// Report is told, from within Run, whenever the instance has been
	// registered, and once when heartbeats begin to fail. Without an error it
	// comes with the instance as the server has it. It must not block. Default:
	// nobody is told.
	Report func(Instance, error)

	mu         sync.Mutex    // guards what follows
	registered *Instance     // as the server had it; nil: not registered yet
	found      bool          // see Found
	weight     *uint16       // what SetWeight said last
	status     Status        // what SetStatus said last
	end        time.Time     // when the lease is over if nothing more is heard; zero: never
	unsaid     bool          // the server has not been told weight and status
	changed    chan struct{} // has one when there is something unsaid
}

// permanentBeat is how often a permanent instance makes sure that it is still
// registered.
const permanentBeat = 10 * time.Second

// Run registers the instance and sends heartbeats, varied, at about a third of
// the lease. Where the server does not answer, Run asks the others of the
// Client, and all of them again until one answers; where the instance is no
// longer registered, it registers it again. Run returns nil when ctx is done,
// and leaves the instance registered: Drain or Deregister it, or let its lease
// end.
//
// An error of the first registration that [IsFinal] is returned. Later ones are
// reported and tried again.
func (k *Keeper) Run(ctx context.Context) error {
	k.mu.Lock()
	k.init()
	k.mu.Unlock()
	failures := 0
	for {
		pause, err := k.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case IsFinal(err) && k.Instance().ID == "":
			return err
		case err != nil:
			if failures == 0 {
				k.report(Instance{}, err)
			}
			failures++
			pause = retryPause(failures, err)
		case failures > 0:
			failures = 0
			k.report(k.Instance(), nil)
		}
		k.pause(ctx, pause, failures == 0)
	}
}

// init makes what Run and the setters meet at. The caller holds mu.
func (k *Keeper) init() {
	if k.changed == nil {
		k.changed = make(chan struct{}, 1)
	}
	if k.Client == nil {
		k.Client = &Client{}
	}
}

// pause waits until it is time, or there is something to say to a server that
// listens.
func (k *Keeper) pause(ctx context.Context, d time.Duration, listens bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	changed := k.changed
	if !listens {
		changed = nil
	}
	select {
	case <-t.C:
	case <-changed:
	case <-ctx.Done():
	}
}

func (k *Keeper) report(i Instance, err error) {
	if k.Report != nil {
		k.Report(i, err)
	}
}

// retryPause returns how long to wait after that many failures in a row: so
// short that a lease of a few seconds survives one, and varied, so that not all
// come at once when a server is back.
func retryPause(failures int, err error) time.Duration {
	d := min(100*time.Millisecond<<min(failures, 5), 2*time.Second)
	if e, ok := errors.AsType[*Error](err); ok {
		d = max(d, e.RetryAfter)
		if IsFinal(err) {
			d = max(d, 2*time.Second)
		}
	}
	return d/2 + rand.N(d/2)
}

// renew sends one heartbeat, or registers where that is what is needed, and
// returns when the next is due.
func (k *Keeper) renew(ctx context.Context) (time.Duration, error) {
	known := k.Instance()
	if known.ID == "" {
		return k.register(ctx)
	}
	beat := k.beat()
	interval := third(known.TTL)
	l, err := k.Client.heartbeat(ctx, known.Service, known.ID, beat, patience(interval))
	if errors.Is(err, ErrNotFound) {
		return k.register(ctx)
	}
	if err != nil {
		k.again()
		return 0, err
	}
	k.mu.Lock()
	k.renewed(l.TTL)
	k.mu.Unlock()
	return vary(third(l.TTL)), nil
}

// renewed notes when the lease ends now. The caller holds mu.
func (k *Keeper) renewed(ttl int) {
	k.end = time.Time{}
	if ttl > 0 {
		k.end = time.Now().Add(time.Duration(ttl) * time.Second)
	}
}

// beat is what the next heartbeat says.
func (k *Keeper) beat() Beat {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := Beat{Weight: k.weight}
	if k.unsaid {
		b.Status = k.status
	}
	k.unsaid = false
	return b
}

// again has the next heartbeat say what this one could not.
func (k *Keeper) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsaid = true
}

// register registers the instance, under the ID that it had before. A request
// under way is not broken off at once: nobody would know whether it had
// happened, and so whom to deregister.
func (k *Keeper) register(ctx context.Context) (time.Duration, error) {
	ctx, cancel := lingering(ctx)
	defer cancel()
	known := k.Instance()
	k.mu.Lock()
	r := k.Registration
	if known.ID != "" {
		r.ID = known.ID
	}
	if k.weight != nil {
		r.Weight = k.weight
	}
	k.mu.Unlock()
	i, created, err := k.Client.register(ctx, r, patience(third(r.TTL)))
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	k.registered, k.found = &i, !created
	k.renewed(i.TTL)
	saysMore := k.status != "" && k.status != Up // which no registration can say
	k.unsaid = saysMore
	k.mu.Unlock()
	k.report(i, nil)
	if saysMore {
		return 0, nil
	}
	return vary(third(i.TTL)), nil
}

// lingering returns a context that is done a second after ctx.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, cancel) })
	return late, func() { stop(); cancel() }
}

// third is the time between two heartbeats.
func third(ttl int) time.Duration {
	if ttl == 0 {
		return permanentBeat
	}
	return time.Duration(ttl) * time.Second / 3
}

// vary makes it up to a fifth less, so that three fit into every lease and not
// all instances come at once.
func vary(d time.Duration) time.Duration {
	return d - rand.N(d/5)
}

// patience is how long one server may take for a heartbeat: there has to be
// time for another.
func patience(interval time.Duration) time.Duration {
	return min(max(interval/2, 500*time.Millisecond), 5*time.Second)
}

// Instance returns the instance as the server had it when it was registered; it
// has no ID before that.
func (k *Keeper) Instance() Instance {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.registered == nil {
		return Instance{}
	}
	return *k.registered
}

// Found reports whether the instance was there already when it was last
// registered: somebody else may have registered it, such as an earlier run of
// this program, or it was this one, by a request whose reply was lost.
func (k *Keeper) Found() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.found
}

// SetWeight has the instance's share among its equals changed at once.
func (k *Keeper) SetWeight(weight uint16) { k.set(func() { k.weight = &weight }) }

// SetStatus has the instance's status changed at once: Up, Down, or Draining
// for as long as the program likes. It also holds after the instance had to be
// registered again.
func (k *Keeper) SetStatus(s Status) { k.set(func() { k.status = s }) }

func (k *Keeper) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.init()
	change()
	k.unsaid = true
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Drain takes the instance out of its service's answers and returns when no
// honest cache has it any more, or with an error when ctx is done. Call it when
// Run has returned, and stop serving after it. Where no server can be told, the
// caches are done with the instance at its lease's end. What is not registered
// is drained.
func (k *Keeper) Drain(ctx context.Context) error {
	i := k.Instance()
	if i.ID == "" {
		return nil
	}
	k.mu.Lock()
	end := k.end
	k.mu.Unlock()
	for failures := 1; ; failures++ {
		r, err := k.Client.Drain(ctx, i.Service, i.ID)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err == nil && wait(ctx, r.SafeIn):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("drain %s: caches may still have it: %w", name(i.Service, i.ID), context.Cause(ctx))
		case IsFinal(err):
			return err
		case !end.IsZero() && !time.Now().Before(end):
			return nil
		}
		if failures == 1 {
			k.report(Instance{}, err)
		}
		pause := retryPause(failures, err)
		if !end.IsZero() {
			pause = min(pause, time.Until(end))
		}
		wait(ctx, pause)
	}
}

// Deregister removes the instance at once, as for a program that has ended.
// What is not registered is no error.
func (k *Keeper) Deregister(ctx context.Context) error {
	i := k.Instance()
	if i.ID == "" {
		return nil
	}
	if _, err := k.Client.Deregister(ctx, i.Service, i.ID); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}
