package etcd

import (
	"maps"
	"slices"
	"time"

	"github.com/rosterdns/roster/store"
)

// How lease clocks are kept together. No wall clock is asked for anything; that
// monotonic clocks go equally fast, but for rateMost, is all that is taken for
// granted.
//
// Each server writes a tick at least every tickTime, with what its clocks show
// and the revision of etcd that it has seen. When its own watch brings the tick
// back, all that was committed before it was sent has been seen: what is here is
// confirmed until leaseTime after it was sent, and the lease clock goes until
// then.
//
// What another server writes was written after the revision that its writer had
// seen, and so after we sent our last tick at or before that revision; and after
// everybody else sent theirs, of whose clocks something is known as well. From that
// follows how far the other's clock can be ahead of ours at most, and the
// smallest of these bounds counts: so we know within some milliseconds when the
// ends that it names come at the earliest. By the ticks of others we know even of a
// server that has come and gone while we were cut off.
const (
	tickTime = 250 * time.Millisecond
	// leaseTime is for how long a tick confirms what is here.
	leaseTime = time.Second
	// lateTime is how much later than said a lease may end by clocks of which
	// nothing is known yet: those of live servers are no further apart.
	lateTime = 500 * time.Millisecond
	// nearTime is how exactly another's clock is to be known before ours is put
	// right by it alone, if that takes no longer than leaseTime.
	nearTime = 100 * time.Millisecond
	// farTime is how far another's clock may be ahead, by its tick, until ours is
	// put forward: each time, leases that were promised here get shorter by that.
	farTime = 2 * nearTime
	// aloneTime is how long no other server may have been heard of, while we
	// write, until we take it that there is none.
	aloneTime = 2 * time.Second
	// rateMost is by how much the rates of two servers' clocks may differ, of 1.
	rateMost = 0.01
)

// ticks are those that this server has sent, and what follows from them. They
// are guarded by the mu of their store.
type ticks struct {
	sent  []sentTick // by number
	next  uint64
	heard map[string][]sentTick // those of the others, by server

	until time.Duration // the Age until which what is here is confirmed
	going bool          // the lease clock goes, and has not stood since it was put right
	begun bool          // it has gone before
	timed time.Duration // the Age at which the last tick was sent that came back in time
	probe *sentTick     // where it does not go: the first that came back in time since, and all that followed
	owed  []owed        // what has been heard while it did not go

	// answers are how long others' clocks have stood meanwhile, by those who have
	// seen the probe.
	answers map[string]time.Duration

	apart map[string]*apart // by server
}

// sentTick is one that has been sent.
type sentTick struct {
	n        uint64
	age      time.Duration // when, by the sender's Age
	revision int64         // etcd's; 0: it has not come back yet
}

// apart is how another server's clocks are to ours.
type apart struct {
	most  time.Duration // by how much its Age can be above ours at most
	found time.Duration // the Age at which that was found out
	stood time.Duration // by how much its lease clock was behind its Age, when ours last went
	known bool          // stood is
}

// owed is a lease of which another server has said, while our lease clock did not
// go, until when it lasts.
type owed struct {
	place
	server string
	by     stamp
	end    store.Instant
	until  time.Duration // endOf when that came; 0: not known then
}

// keptTicks are enough for what others have seen lately.
const keptTicks = 256

func keep(kept []sentTick, t sentTick) []sentTick {
	if len(kept) == keptTicks {
		kept = append(kept[:0], kept[keptTicks/2:]...)
	}
	return append(kept, t)
}

// lastSeen returns the last tick that came at or before a revision of etcd.
func lastSeen(kept []sentTick, revision int64) (sentTick, bool) {
	for _, t := range slices.Backward(kept) {
		if t.revision != 0 && t.revision <= revision {
			return t, true
		}
	}
	return sentTick{}, false
}

// send notes that a tick is sent.
func (t *ticks) send(age time.Duration) uint64 {
	t.next++
	t.sent = keep(t.sent, sentTick{n: t.next, age: age})
	return t.next
}

// hear notes that a tick of another server has come.
func (t *ticks) hear(server string, sent sentTick) { t.heard[server] = keep(t.heard[server], sent) }

// forget forgets a server.
func (t *ticks) forget(server string) {
	delete(t.apart, server)
	delete(t.heard, server)
}

// back notes with which revision a tick has come back.
func (t *ticks) back(n uint64, revision int64) (sentTick, bool) {
	for k := len(t.sent) - 1; k >= 0; k-- {
		if t.sent[k].n == n {
			t.sent[k].revision = revision
			return t.sent[k], true
		}
	}
	return sentTick{}, false
}

// compare takes in a stamp of another server's, at our Age, and returns by how
// much its Age can be above ours at most; not ok where nothing is known about that.
func (t *ticks) compare(server string, s stamp, age time.Duration) (most time.Duration, ok bool) {
	a := t.apart[server]
	if a != nil && s.age-age > a.mostAt(age) {
		// It was written before it came, so that the bound is wrong: our host was
		// suspended, and its monotonic clock stood.
		a = nil
		delete(t.apart, server)
	}
	if a != nil {
		a.most, a.found = a.mostAt(age), age
	}
	if by, known := t.bound(server, s, age); known {
		if a == nil {
			a = &apart{most: by, found: age}
			t.apart[server] = a
		}
		a.most = min(a.most, by)
	}
	if a == nil {
		return 0, false
	}
	return a.most, true
}

// mostAt returns by how much the other's Age can be above ours later.
func (a *apart) mostAt(age time.Duration) time.Duration { return a.most + drift(age-a.found) }

// drift is by how much clocks can move apart in some time.
func drift(d time.Duration) time.Duration { return time.Duration(float64(d) * rateMost) }

// bound returns by how much a server's Age can be above ours at most by what it had
// seen when it wrote s: ticks of ours, and of others whose clocks we know.
func (t *ticks) bound(server string, s stamp, age time.Duration) (most time.Duration, ok bool) {
	take := func(ticks []sentTick, above time.Duration) { // whose sender's Age is above ours by that at most
		seen, known := lastSeen(ticks, s.seen)
		if !known {
			return
		}
		by := s.age - seen.age + above + drift(age-(seen.age-above))
		if !ok || by < most {
			most, ok = by, true
		}
	}
	take(t.sent, 0)
	for other, ticks := range t.heard {
		if a := t.apart[other]; a != nil && other != server {
			take(ticks, a.mostAt(age))
		}
	}
	return most, ok
}

// endOf returns until which Age of ours a lease lasts at least that ends, by
// another server's lease clock, at end; ours shows now. Where nothing is known of the
// other's clock, it may have been written just now, or long ago by a server that is
// gone, and came late.
func (s *Store) endOf(server string, by stamp, end, now store.Instant) (until time.Duration, known bool) {
	age := s.replica.Age()
	most, known := s.ticks.compare(server, by, age)
	if !known {
		return age + min(end.Sub(by.at), end.Sub(now)) - lateTime, false
	}
	return by.age + end.Sub(by.at) - most, true
}

// here returns the earliest moment on our lease clock that an end on another
// server's can mean. Where ours does not go, that depends on how it goes on, and
// is looked at again then.
func (s *Store) here(server string, by stamp, at place, end store.Instant) store.Instant {
	if end == store.Never {
		return end
	}
	now := s.replica.Now()
	until, known := s.endOf(server, by, end, now)
	if !s.isGoing() {
		o := owed{place: at, server: server, by: by, end: end}
		if known {
			o.until = until
		}
		s.ticks.owed = append(s.ticks.owed, o)
	}
	return now.Add(until - s.replica.Age())
}

// isGoing reports whether the lease clock goes and is right.
func (s *Store) isGoing() bool { return s.ticks.going && s.replica.Age() <= s.ticks.until }

// confirm takes in that one of our ticks has come back. others says whether
// there are other servers, whose clocks may have gone on while ours stood.
func (s *Store) confirm(t sentTick, others bool) {
	age, last := s.replica.Age(), s.ticks.timed
	s.returned = max(s.returned, t.age)
	if t.age+leaseTime <= age { // too old to say anything
		return
	}
	s.ticks.timed = max(s.ticks.timed, t.age)
	switch {
	case s.isGoing():
		s.ticks.until = max(s.ticks.until, t.age+leaseTime)
		s.replica.Confirm(s.ticks.until)
		return
	case s.ticks.probe == nil || s.ticks.going || t.age-last > leaseTime:
		// What others said before, and how long none did, is of another time.
		s.ticks.going = false
		s.ticks.probe = &t
		clear(s.ticks.answers)
	}
	if !others || t.age-s.ticks.probe.age >= aloneTime {
		s.goOn(time.Duration(s.replica.Now()) - age)
	}
}

// follow takes in what another server's clocks show. Ours is never far behind that;
// and where ours has stood, it catches up with what the other's did meanwhile.
func (s *Store) follow(server string, by tick) {
	age := s.replica.Age()
	most, ok := s.ticks.compare(server, by.stamp, age)
	a := s.ticks.apart[server]
	if s.isGoing() {
		if by.at.Sub(s.replica.Now()) > farTime {
			s.replica.Advance(by.at)
		}
		if ok && by.going { // else it will make up for some of that
			a.stood, a.known = by.stood(), true
		}
		return
	}
	if probe := s.ticks.probe; probe == nil || s.ticks.going || by.seen < probe.revision || !ok {
		return
	}
	now, ours := s.replica.Now(), age-s.ticks.until // what ours has stood
	if a.known {
		// The one that has stood the least counts: others may have to make up
		// for something themselves. Who does not say anything is not waited for.
		s.ticks.answers[server] = by.stood() - a.stood
		if !s.answeredByAll() && age-s.ticks.probe.age < lateTime {
			return
		}
		theirs := slices.Min(slices.Collect(maps.Values(s.ticks.answers)))
		s.goOn(time.Duration(now) + min(max(ours-theirs, 0), ours) - age)
		return
	}
	// One of us was not there before. Since it was written, at most late has
	// passed; with a few ticks more is known.
	late := age + most - by.age
	if late > nearTime && age-s.ticks.probe.age < leaseTime {
		return
	}
	makesUp := by.at.Add(late).Sub(now)
	if s.ticks.begun {
		makesUp = min(makesUp, ours)
	}
	s.goOn(time.Duration(now) + makesUp - age)
}

// answeredByAll reports whether all servers that are there have said how long their
// clocks have stood.
func (s *Store) answeredByAll() bool {
	for id := range s.servers {
		if _, ok := s.ticks.answers[id]; !ok {
			return false
		}
	}
	return true
}

// stood is by how much the writer's lease clock was behind its Age, and so, but
// for where it began, how long it had stood.
func (s stamp) stood() time.Duration { return s.age - time.Duration(s.at) }

// goOn lets the lease clock go again, because the last tick that has come back
// confirms what is here. From then on it is ahead of the Age by so much.
func (s *Store) goOn(ahead time.Duration) {
	age, until := s.replica.Age(), s.returned+leaseTime
	if until <= age {
		return
	}
	if s.ticks.begun {
		s.replica.Stood(max(time.Duration(s.replica.Now())-s.ticks.until-ahead, 0))
	}
	for _, p := range s.servers {
		p.heard = age // what they said meanwhile may not have come
	}
	for _, o := range s.ticks.owed {
		// More is known of the others' clocks now than when it came, but of those
		// that have stopped since: they were forgotten.
		until, known := s.endOf(o.server, o.by, o.end, store.Instant(age+ahead))
		if o.until != 0 && (!known || o.until > until) {
			until = o.until
		}
		s.replica.Extend([]store.Renewal{{Service: o.service, Label: o.label, End: store.Instant(until + ahead)}})
	}
	s.ticks.going, s.ticks.begun, s.ticks.probe, s.ticks.owed = true, true, nil, nil
	clear(s.ticks.answers)
	s.ticks.until = until
	s.replica.GoOn(ahead, until)
	s.reached()
}
