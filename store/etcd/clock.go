package etcd

import (
	"time"

	"github.com/rosterdns/roster/store"
)

// How lease clocks are kept together. No wall clock is asked for anything; that
// monotonic clocks go equally fast is all that is taken for granted.
//
// Each server writes a tick at least every tickTime, with what its lease clock
// shows and the revision of etcd that it has seen. When its own watch brings the
// tick back, all that was committed before it was sent has been seen: what is
// here is confirmed until leaseTime after it was sent, and the lease clock goes
// until then.
//
// Of what another server writes, two things are known: it was written after the
// revision that its writer had seen, and so after we have sent our last tick at
// or before that revision; and what the writer's clock showed. From that follows
// how far the other clock can be ahead of ours at most, and when the ends that it
// names come at the earliest on ours.
const (
	tickTime = 250 * time.Millisecond
	// leaseTime is for how long a tick confirms what is here.
	leaseTime = time.Second
	// lateTime is how much later than said a lease may end by clocks of which
	// nothing is known yet: those of live servers are no further apart.
	lateTime = 500 * time.Millisecond
	// aloneTime is how long no other server may have been heard of, while we
	// write, until we take it that there is none.
	aloneTime = 2 * time.Second
)

// ticks are those that this server has sent, and what follows from them. They
// are guarded by the mu of their store.
type ticks struct {
	sent []sentTick // by number
	next uint64

	until time.Duration // the Age until which what is here is confirmed
	going bool          // the lease clock goes, and has not stood since it was put right
	begun bool          // it has gone before
	probe *sentTick     // where not: the first that was confirmed since
}

// sentTick is one that this server has sent.
type sentTick struct {
	n        uint64
	age      time.Duration // when
	shown    store.Instant // what the lease clock showed then
	revision int64         // etcd's; 0: it has not come back yet
}

// keptTicks are enough for what others have seen lately.
const keptTicks = 256

// send notes that a tick is sent.
func (t *ticks) send(age time.Duration, shown store.Instant) uint64 {
	t.next++
	if len(t.sent) == keptTicks {
		t.sent = append(t.sent[:0], t.sent[keptTicks/2:]...)
	}
	t.sent = append(t.sent, sentTick{n: t.next, age: age, shown: shown})
	return t.next
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

// ahead returns how far the clock of whoever wrote s may be ahead of ours at
// most; not ok where nothing is known about that.
func (t *ticks) ahead(s stamp) (by time.Duration, ok bool) {
	for k := len(t.sent) - 1; k >= 0; k-- {
		if r := t.sent[k].revision; r != 0 && r <= s.seen {
			return s.at.Sub(t.sent[k].shown), true
		}
	}
	return 0, false
}

// here returns the earliest moment on our clock that another server's can mean.
func (t *ticks) here(s stamp, end store.Instant) store.Instant {
	if end == store.Never {
		return end
	}
	by, ok := t.ahead(s)
	if !ok {
		by = lateTime
	}
	return end.Add(-by)
}

// confirm takes in that one of our ticks has come back. others says whether
// there are other servers, whose clocks may have gone on while ours stood.
func (s *Store) confirm(t sentTick, others bool) {
	age := s.replica.Age()
	switch {
	case s.ticks.going && age <= s.ticks.until:
		s.ticks.until = max(s.ticks.until, t.age+leaseTime)
		s.replica.Confirm(s.ticks.until)
	case t.age+leaseTime <= age: // too old to say anything
	case s.ticks.probe == nil || s.ticks.going:
		s.ticks.going = false
		s.ticks.probe = &t
		if !others {
			s.goOn(t, s.replica.Now())
		}
	case !others || t.age-s.ticks.probe.age >= aloneTime:
		s.goOn(t, s.replica.Now())
	}
	s.lag, s.returned = age-t.age, max(s.returned, t.age)
}

// follow takes in what another server's clock shows. Ours is never behind that;
// and where ours has stood, it catches up with what the other's did meanwhile.
func (s *Store) follow(by stamp) {
	if s.ticks.going && s.replica.Age() <= s.ticks.until {
		s.replica.Advance(by.at)
		return
	}
	probe := s.ticks.probe
	if probe == nil || s.ticks.going || by.seen < probe.revision {
		return
	}
	ahead, ok := s.ticks.ahead(by)
	if !ok {
		return
	}
	to := s.replica.Now().Add(ahead)
	if s.ticks.begun {
		// By a little more, as ours may have been ahead before it stood; but never
		// further than if it had not stood.
		to = min(to.Add(lateTime), s.replica.Now().Add(s.replica.Age()-s.ticks.until))
	}
	last := *probe
	for k := range s.ticks.sent {
		if s.ticks.sent[k].revision != 0 {
			last = s.ticks.sent[k]
		}
	}
	s.goOn(last, to)
}

// goOn lets the lease clock go again, from a moment on, because a tick confirms
// what is here.
func (s *Store) goOn(t sentTick, from store.Instant) {
	age := s.replica.Age()
	if t.age+leaseTime <= age {
		return
	}
	shown := s.replica.Now()
	s.replica.Advance(from)
	if s.ticks.begun {
		s.replica.Stood(max(age-s.ticks.until-max(from.Sub(shown), 0), 0))
	}
	s.ticks.going, s.ticks.begun, s.ticks.probe = true, true, nil
	s.ticks.until = t.age + leaseTime
	s.replica.Confirm(s.ticks.until)
	s.reached()
}
