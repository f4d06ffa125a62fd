package store

import "sync"

// feed keeps the recent history and hands every event to those who subscribed
// to its service.
type feed struct {
	mu      sync.Mutex
	ring    []Event  // the last events, oldest at start, grown up to limit
	start   int      // index of the oldest
	limit   int      // events kept at most
	first   Revision // history is complete for everything after this revision
	last    Revision // of the newest event
	subs    map[string]map[*Subscription]struct{}
	next    chan struct{} // closed by the next event, nil where nobody waits
	stopped bool
}

// everything is the service name under which subscribers to all stand.
const everything = ""

func newFeed(limit int, at Revision) *feed {
	return &feed{limit: limit, first: at, last: at, subs: map[string]map[*Subscription]struct{}{}}
}

// Subscription receives the events of one service, or of all, in order.
type Subscription struct {
	// C delivers the events. It is closed when the subscription ends; Err then
	// says why.
	C <-chan Event

	c    chan Event
	key  string
	feed *feed
	err  error // guarded by feed.mu
}

// Err returns why C was closed: ErrLagged where the receiver did not keep up
// (it subscribes again after the last revision that it has seen), ErrClosed
// where the registry was closed, nil after Close.
func (s *Subscription) Err() error {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.err
}

// Close ends the subscription. It may be called at any time, and twice.
func (s *Subscription) Close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.endLocked(s, nil)
}

// publish appends events, which follow on what was published before, and
// offers them to the subscribers without ever waiting for one.
func (f *feed) publish(events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		f.last = e.Revision
		f.keepLocked(e)
		f.sendLocked(f.subs[everything], e)
		f.sendLocked(f.subs[e.Instance().Service], e)
	}
	if f.next != nil {
		close(f.next)
		f.next = nil
	}
}

// changed returns a channel that is closed once there is an event after that
// revision.
func (f *feed) changed(after Revision) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = make(chan struct{})
	}
	next := f.next
	if f.last > after {
		next = make(chan struct{})
		close(next)
	}
	return next
}

func (f *feed) keepLocked(e Event) {
	if len(f.ring) < f.limit {
		f.ring = append(f.ring, e)
		return
	}
	f.first = f.ring[f.start].Revision
	f.ring[f.start] = e
	f.start = (f.start + 1) % len(f.ring)
}

func (f *feed) sendLocked(subs map[*Subscription]struct{}, e Event) {
	for s := range subs {
		select {
		case s.c <- e:
		default:
			f.endLocked(s, ErrLagged)
		}
	}
}

func (f *feed) endLocked(s *Subscription, why error) {
	set := f.subs[s.key]
	if _, open := set[s]; !open {
		return
	}
	delete(set, s)
	if len(set) == 0 {
		delete(f.subs, s.key)
	}
	s.err = why
	close(s.c)
}

// restart forgets the history and ends all subscriptions: the state is another
// one, and what led there is not known.
func (f *feed) restart(at Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.start, f.first, f.last = nil, 0, at, at
	for _, set := range f.subs {
		for s := range set {
			f.endLocked(s, ErrLagged)
		}
	}
	if f.next != nil {
		close(f.next)
		f.next = nil
	}
}

// subscribe registers a subscriber and returns the kept events after that
// revision, under one lock: nothing falls between the two.
func (f *feed) subscribe(service string, after Revision, buffer int) (*Subscription, []Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, nil, ErrClosed
	}
	past, err := f.sinceLocked(service, after)
	if err != nil {
		return nil, nil, err
	}
	c := make(chan Event, buffer)
	s := &Subscription{C: c, c: c, key: service, feed: f}
	if f.subs[service] == nil {
		f.subs[service] = map[*Subscription]struct{}{}
	}
	f.subs[service][s] = struct{}{}
	return s, past, nil
}

func (f *feed) since(service string, after Revision) ([]Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sinceLocked(service, after)
}

func (f *feed) sinceLocked(service string, after Revision) ([]Event, error) {
	if after < f.first || after > f.last { // later than the last: seen in another registry's life
		return nil, ErrCompacted
	}
	// The newest stand at the end: walk back from there, so that a subscriber
	// who is nearly up to date costs next to nothing.
	n := 0
	for n < len(f.ring) && f.at(len(f.ring)-1-n).Revision > after {
		n++
	}
	var past []Event
	for k := len(f.ring) - n; k < len(f.ring); k++ {
		if e := f.at(k); service == everything || e.Instance().Service == service {
			past = append(past, *e)
		}
	}
	return past, nil
}

// at returns the kth oldest event.
func (f *feed) at(k int) *Event { return &f.ring[(f.start+k)%len(f.ring)] }

// stop ends every subscription.
func (f *feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for _, set := range f.subs {
		for s := range set {
			f.endLocked(s, ErrClosed)
		}
	}
}

// Subscribe delivers every event of a service ("" for all) after the given
// revision: first those returned, then those on the subscription. It returns
// ErrCompacted where the history no longer reaches back so far. A subscriber
// who lets buffer events pile up is cut off with ErrLagged.
func (r *Registry) Subscribe(service string, after Revision, buffer int) (*Subscription, []Event, error) {
	// A revision that readers know has also been published.
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feed.subscribe(service, after, buffer)
}

// Since returns the events of a service ("" for all) after the given revision,
// or ErrCompacted where the history no longer reaches back so far.
func (r *Registry) Since(service string, after Revision) ([]Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feed.since(service, after)
}
