package httpapi

import (
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rosterdns/roster/store"
)

// hub hands the registry's events to those who watch: one goroutine for all of
// them takes the events off one subscription, puts each into words once, and
// wakes the watchers of its service and nobody else.
type hub struct {
	registry  *store.Registry
	most      int // watchers in all
	perClient int // watchers of one client address
	words     func(*store.Event) []byte
	staleness func(stale bool) []byte

	cut     atomic.Uint64  // watchers that did not keep up
	running sync.WaitGroup // of watchers and the goroutine

	mu       sync.Mutex
	sub      *store.Subscription              // nil where nobody watches; guarded by mu
	watchers map[string]map[*watcher]struct{} // by service, "" for all; guarded by mu
	clients  map[netip.Addr]int               // how many watchers each has; guarded by mu
	open     int                              // how many there are in all; guarded by mu
	stopped  bool                             // guarded by mu
	stale    bool                             // what streams have been told; guarded by mu
}

func newHub(r *store.Registry, most, perClient int, words func(*store.Event) []byte, staleness func(stale bool) []byte) *hub {
	return &hub{
		registry: r, most: most, perClient: perClient, words: words, staleness: staleness,
		watchers: map[string]map[*watcher]struct{}{},
		clients:  map[netip.Addr]int{},
	}
}

// join takes a watcher in, unless there are too many. From then on it misses
// nothing; leave must follow.
func (h *hub) join(w *watcher) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return problemf(http.StatusServiceUnavailable, "the server is stopping; ask again, or another server")
	case h.clients[w.client] >= h.perClient:
		return problemf(http.StatusTooManyRequests, "%s has %d watches open already; close some, or ask without waiting", w.client, h.perClient)
	case h.open >= h.most:
		return problemf(http.StatusServiceUnavailable, "%d watches are open, which is all that this server takes; ask again later, or without waiting", h.open)
	}
	if h.sub == nil {
		if err := h.beginLocked(); err != nil {
			return err
		}
	}
	if h.watchers[w.service] == nil {
		h.watchers[w.service] = map[*watcher]struct{}{}
	}
	h.watchers[w.service][w] = struct{}{}
	if h.stale { // it comes after the beginning of the stream
		w.take(&message{text: h.staleness(true)})
	}
	h.clients[w.client]++
	h.open++
	h.running.Add(1)
	return nil
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.running.Done()
	delete(h.watchers[w.service], w)
	if len(h.watchers[w.service]) == 0 {
		delete(h.watchers, w.service)
	}
	if h.clients[w.client]--; h.clients[w.client] == 0 {
		delete(h.clients, w.client)
	}
	if h.open--; h.open == 0 && h.sub != nil {
		h.sub.Close()
		h.sub = nil
	}
}

// count returns how many watchers there are.
func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// backlog is how many events may wait for the hub's goroutine. Where more
// come, it takes them from the history.
const backlog = 1024

func (h *hub) beginLocked() error {
	for {
		sub, _, err := h.registry.Subscribe("", h.registry.Revision(), backlog)
		if errors.Is(err, store.ErrCompacted) {
			continue // that many changes between the two calls
		}
		if err != nil {
			return err
		}
		h.sub = sub
		var changed <-chan struct{}
		h.stale, changed = h.registry.Staleness()
		h.running.Go(func() { h.run(sub, changed) })
		return nil
	}
}

// run hands out the events of a subscription until it is no longer the hub's,
// and tells when the registry becomes stale, or no longer is.
func (h *hub) run(sub *store.Subscription, changed <-chan struct{}) {
	var last store.Revision
	woken := 0
	for sub != nil {
		n, ok := 0, true
		select {
		case e, open := <-sub.C:
			if !open {
				sub, last = h.resume(sub, last)
				continue
			}
			n, ok = h.handOut(sub, &e)
			last = e.Revision
		case <-changed:
			n, changed, ok = h.tellStaleness(sub)
		}
		if !ok {
			return
		}
		if woken += n; len(sub.C) == 0 {
			rest(woken)
			woken = 0
		}
	}
}

// tellStaleness tells all streams whether the registry is stale, unless the
// subscription is no longer the hub's. It returns how many that has woken, and
// what is closed when it is to be told again.
func (h *hub) tellStaleness(sub *store.Subscription) (woken int, changed <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sub != sub {
		return 0, nil, false
	}
	before := h.stale
	if h.stale, changed = h.registry.Staleness(); h.stale == before {
		return 0, changed, true // it has changed twice
	}
	m := &message{text: h.staleness(h.stale)}
	for _, set := range h.watchers {
		for w := range set {
			woken += h.giveLocked(w, m)
		}
	}
	return woken, changed, true
}

// Thousands of watchers of a service that changes all the time would keep the
// processors to themselves: each takes its event by itself. So the hub rests
// after it has woken some, and what comes meanwhile goes to each in one piece.
const (
	restEach = 20 * time.Microsecond // about what one costs
	restMost = 100 * time.Millisecond
)

func rest(woken int) {
	if d := time.Duration(woken) * restEach; d > time.Millisecond {
		<-time.After(min(d, restMost))
	}
}

// resume subscribes anew where the hub itself has fallen behind, and returns
// up to where it has handed out. Where the history does not reach back, or the
// registry is closed, all watchers go.
func (h *hub) resume(old *store.Subscription, last store.Revision) (*store.Subscription, store.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sub != old {
		return nil, last
	}
	sub, past, err := h.registry.Subscribe("", last, backlog)
	if err != nil {
		h.endLocked()
		h.sub = nil
		return nil, last
	}
	for k := range past {
		h.handOutLocked(&past[k])
		last = past[k].Revision
	}
	h.sub = sub
	return sub, last
}

// handOut hands out an event, unless the subscription is no longer the hub's,
// and returns how many watchers that has woken.
func (h *hub) handOut(sub *store.Subscription, e *store.Event) (woken int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sub != sub {
		return 0, false
	}
	return h.handOutLocked(e), true
}

func (h *hub) handOutLocked(e *store.Event) (woken int) {
	m := &message{event: e}
	for _, service := range []string{"", e.Instance().Service} {
		for w := range h.watchers[service] {
			if m.text == nil && w.wants == nil {
				m.text = h.words(e)
			}
			woken += h.giveLocked(w, m)
		}
	}
	return woken
}

// giveLocked gives a watcher a message, and returns 1 where that has woken it.
func (h *hub) giveLocked(w *watcher, m *message) (woken int) {
	poked, tooMany := w.take(m)
	if tooMany {
		h.cut.Add(1)
	}
	if poked {
		return 1
	}
	return 0
}

func (h *hub) endLocked() {
	for _, set := range h.watchers {
		for w := range set {
			w.end()
		}
	}
}

// stop ends all watchers, and takes no more.
func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	h.endLocked()
}
