package integration

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// history is what clients did and were told, and what observers saw. It is judged
// when all is over.
type history struct {
	mu     sync.Mutex
	lives  []*life  // guarded by mu
	sights []*sight // guarded by mu
	runs   []pulse  // guarded by mu
	holds  []hold   // guarded by mu
}

// life is one instance as its client knows it. Only the client writes to it.
type life struct {
	service, id, addr string
	lease             time.Duration
	tries             []try        // registrations and heartbeats, in order
	heard             atomic.Int64 // when the last that was acknowledged was sent, as unix nanoseconds
	removing          time.Time
	removed           try // the one that was answered
}

// try is one request for an instance.
type try struct {
	server     int
	begin, end time.Time // when it was sent; when it was answered or given up
	ok         bool      // a 2xx
}

// sight is one answer of DNS.
type sight struct {
	server    int
	service   string
	sent, got time.Time
	answer
}

// hold is a time in which a server did not run.
type hold struct {
	server     int
	begin, end time.Time
}

// pulse is what one server says of its lease clock, as it was asked.
type pulse struct {
	server   int
	at       time.Time
	extended time.Duration // of this process, by its metrics
}

func (h *history) note(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

const (
	// unconfirmed is how old an answer that is not marked stale may be: a server
	// that has had nothing confirmed for 1 s says so. The rest is for a busy
	// machine.
	unconfirmed = time.Second + 250*time.Millisecond
	// outage is from when on no acknowledgement for anybody is a sign that all
	// servers were cut off: with 40 heartbeats a second, it is no chance.
	outage = 300 * time.Millisecond
	// takenIn is how long after its client gave up a busy server may take a
	// request in.
	takenIn = 500 * time.Millisecond
)

// judge is the history in the order in which it is asked for.
type judge struct {
	*history
	fresh map[int][]time.Time // per server: when those were asked that were not stale
	acks  []time.Time         // of all clients
	wrong []string
	told  map[*life]time.Time // what is wrong about one, first

	live, dead int           // how often one had to be in an answer; how often one was gone
	excused    int           // how often one was there because clocks had stood
	latest     time.Duration // by how much at most
}

func newJudge(h *history) *judge {
	j := &judge{history: h, fresh: map[int][]time.Time{}, told: map[*life]time.Time{}}
	h.late()
	slices.SortFunc(h.sights, func(a, b *sight) int { return a.sent.Compare(b.sent) })
	for _, s := range h.sights {
		if !s.stale {
			j.fresh[s.server] = append(j.fresh[s.server], s.sent)
		}
	}
	for _, l := range h.lives {
		for _, t := range l.tries {
			if t.ok {
				j.acks = append(j.acks, t.end)
			}
		}
	}
	slices.SortFunc(j.acks, time.Time.Compare)
	return j
}

// all looks for every instance in every answer about its service.
func (j *judge) all() {
	services := map[string][]*life{}
	for _, l := range j.lives {
		services[l.service] = append(services[l.service], l)
	}
	for _, s := range j.sights {
		if s.stale && len(s.addrs) > 0 && s.ttl > 1 {
			j.say("%s: a stale answer about %s has TTL %d", s.where(), s.service, s.ttl)
		}
		for _, l := range services[s.service] {
			there := slices.Contains(s.addrs, l.addr)
			if left := j.due(s, l); left > 0 {
				j.live++
				if !there {
					j.tell(s, l)
					j.say("%s: %s lives for another %v at least and is not in the answer (stale: %v)", s.where(), l.id, left, s.stale)
				}
			}
			if there && !s.stale {
				j.present(s, l)
			}
			if !there && s.sent.After(l.until(s.got)) {
				j.dead++
			}
		}
	}
}

// due returns for how much longer an instance lives that has to be in an answer;
// 0 where it need not be there. It has to be there if
//   - it was registered, which was acknowledged before the server last said
//     something that was not stale, and so long before that the server knew;
//   - its client had begun no removal;
//   - the last heartbeat that had been acknowledged when the question was sent
//     was itself sent less than a lease before the answer came, but for early.
func (j *judge) due(s *sight, l *life) time.Duration {
	registered := slices.IndexFunc(l.tries, func(t try) bool { return t.ok })
	if registered < 0 || !l.removing.IsZero() && l.removing.Before(s.got) {
		return 0
	}
	known := j.lastFresh(s)
	if known.IsZero() || known.Before(l.tries[registered].end.Add(unconfirmed)) {
		return 0
	}
	var until time.Time
	for _, t := range l.tries {
		known := t.end // and by others once they must know
		if t.server != s.server {
			known = known.Add(unconfirmed)
		}
		if t.ok && known.Before(s.sent) {
			until = t.begin.Add(l.lease)
		}
	}
	return until.Sub(s.got) - early
}

// early is by how much sooner than it does a lease may seem to end to a server that
// has not heard the heartbeat itself: it knows when that was only as well as it
// knows the other's clock, and must not be late.
const early = time.Second

// last looks for every instance in what all servers show when all is healed: no
// registration that was acknowledged is lost.
func (j *judge) last(l listing) {
	lived := 0
	for _, one := range j.lives {
		s := &sight{sent: l.asked, got: l.got}
		if j.due(s, one) <= 0 {
			continue
		}
		lived++
		if !slices.Contains(l.ids, one.service+"/"+one.id) {
			j.say("%s lives and is not listed at the end", one.id)
		}
	}
	if lived < 40 { // of 60 clients, of whom 20 come and go
		j.say("only %d instances live at the end", lived)
	}
}

// lastFresh returns when the server was last asked something up to s, whose answer
// was not stale.
func (j *judge) lastFresh(s *sight) time.Time {
	times := j.fresh[s.server]
	k, exact := slices.BinarySearchFunc(times, s.sent, time.Time.Compare)
	switch {
	case exact:
		return times[k]
	case k == 0:
		return time.Time{}
	}
	return times[k-1]
}

// present judges an answer that has an instance and is not marked stale. It must
// not be there, nor be kept by a cache,
//   - once it has been removed, at once on the server that said so, on others
//     once they must know;
//   - past its lease's end. That is one lease after the last heartbeat, which the
//     server took in when it answered at the latest, or when the client gave up;
//     later only by what [judge.stood] says.
func (j *judge) present(s *sight, l *life) {
	if !l.removed.end.IsZero() {
		gone := l.removed.end
		if s.server != l.removed.server {
			gone = gone.Add(unconfirmed)
		}
		if s.sent.After(gone) {
			j.tell(s, l)
			j.say("%s: %s is in the answer %v after it was deregistered", s.where(), l.id, s.sent.Sub(l.removed.end))
		}
		return
	}
	kept := s.sent
	if s.ttl > 0 {
		kept = kept.Add(time.Duration(s.ttl+1) * time.Second) // as a cache with whole seconds may
	}
	ends := l.until(s.got)
	late := kept.Sub(ends)
	if late <= 0 {
		return
	}
	j.excused++
	j.latest = max(j.latest, late)
	if stood := j.stood(ends.Add(-l.lease), s.got); late > stood {
		j.tell(s, l)
		j.say("%s: %s is in the answer %v after its lease's end, and clocks stood for %v (TTL %d)", s.where(), l.id, late, stood, s.ttl)
	}
}

// until is when a lease ends at the latest by what its client had sent before a
// moment, if no clock stands.
func (l *life) until(moment time.Time) (end time.Time) {
	for _, t := range l.tries {
		if t.begin.Before(moment) && t.end.After(end) {
			end = t.end
		}
	}
	return end.Add(l.lease)
}

// late puts the end of tries without an answer off to when the server must have
// taken them in: with what is in its sockets a server that was stopped goes on
// when it runs again.
func (h *history) late() {
	for _, l := range h.lives {
		for k := range l.tries {
			t := &l.tries[k]
			if t.ok {
				continue
			}
			for _, stop := range h.holds {
				if stop.server == t.server && stop.begin.Before(t.end) && stop.end.After(t.begin) {
					t.end = stop.end
				}
			}
			t.end = t.end.Add(takenIn)
		}
	}
}

// stood is by how much a lease that was renewed at from may have been extended
// until to: by the time in which nobody got anything acknowledged, for when all
// are cut off all lease clocks stand; and by what the server that says the most
// says that its clock stood. It need not be the one that was asked: one that has
// just been started goes by the clocks of those that are there.
func (j *judge) stood(from, to time.Time) (d time.Duration) {
	var most time.Duration
	for server := range j.fresh {
		most = max(most, j.said(server, from, to))
	}
	return j.outages(from, to) + most
}

// said is what a server says that its clock stood in some time.
func (j *judge) said(server int, from, to time.Time) (d time.Duration) {
	var last time.Duration
	for _, r := range j.runs {
		if r.server != server {
			continue
		}
		if r.extended < last {
			last = 0 // it was started again
		}
		// What was asked first after a moment may be of before it.
		if r.at.After(from) {
			d += r.extended - last
		}
		if last = r.extended; r.at.After(to) {
			break
		}
	}
	return d
}

// outages returns how much of the time between two moments all were without an
// acknowledgement.
func (j *judge) outages(from, to time.Time) (d time.Duration) {
	k, _ := slices.BinarySearchFunc(j.acks, from, time.Time.Compare)
	for k = max(k, 1); k < len(j.acks) && j.acks[k-1].Before(to); k++ {
		if j.acks[k].Sub(j.acks[k-1]) < outage {
			continue
		}
		begin, end := j.acks[k-1], j.acks[k]
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		d += end.Sub(begin)
	}
	return d
}

func (s *sight) where() string {
	return fmt.Sprintf("%s, server %c", s.sent.Format("05.000"), 'A'+s.server)
}

func (j *judge) say(format string, args ...any) {
	j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
}

// tell notes that an answer is wrong about an instance.
func (j *judge) tell(s *sight, l *life) {
	if first, ok := j.told[l]; !ok || s.sent.Before(first) {
		j.told[l] = s.sent
	}
}

// story is what its client did and what servers answered for some time before a
// wrong answer about an instance and after it.
func (j *judge) story(l *life) string {
	const before, after = 15 * time.Second, 5 * time.Second
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	at := j.told[l]
	add := func(t time.Time, format string, args ...any) {
		if at.Sub(t) < before && t.Sub(at) < after {
			lines = append(lines, line{t, fmt.Sprintf(format, args...)})
		}
	}
	for k, t := range l.tries {
		if t.ok || k == 0 || l.tries[k-1].ok || t.end.Sub(t.begin) > takenIn { // the first of several that failed, and those without an answer
			add(t.begin, "heartbeat to %c, ok: %v after %v", 'A'+t.server, t.ok, t.end.Sub(t.begin).Round(time.Millisecond))
		}
	}
	type state struct{ there, stale bool }
	last := map[int]state{}
	for _, s := range j.sights {
		if s.service != l.service {
			continue
		}
		now := state{slices.Contains(s.addrs, l.addr), s.stale}
		if was, known := last[s.server]; !known || was != now {
			add(s.sent, "%c answers, in it: %v, stale: %v, TTL %d", 'A'+s.server, now.there, now.stale, s.ttl)
		}
		last[s.server] = now
	}
	stood := map[int]time.Duration{}
	for _, r := range j.runs {
		if r.extended != stood[r.server] {
			add(r.at, "%c says that its clock stood %v", 'A'+r.server, r.extended)
		}
		stood[r.server] = r.extended
	}
	slices.SortFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	text := fmt.Sprintf("%s of %s, first wrong at %s:", l.id, l.service, at.Format("05.000"))
	for _, one := range lines {
		text += fmt.Sprintf("\n%s %s", one.at.Format("05.000"), one.text)
	}
	return text
}
