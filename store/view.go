package store

import (
	"cmp"
	"iter"
	"slices"
	"sync/atomic"
)

// Member is one instance in a [View]: what was registered, which never
// changes, and the lease, which heartbeats move while the view is read.
type Member struct {
	*Instance
	Lease *Lease
}

// View is the state of one service. It is immutable but for the leases in it,
// and may be kept and read at any time without locks.
type View struct {
	Service  string
	Revision Revision // of the service's last change

	members []Member   // sorted by label
	tags    []tagCount // sorted by tag
	home    *service
	derived any
}

type tagCount struct {
	tag string
	n   int
}

// service is the registry's place for one service: its present view, and what
// outlives a view.
type service struct {
	view atomic.Pointer[View] // nil: nothing is registered (any more)

	// cached is the Instant until which an honest cache may hold a record made
	// from any view of the service.
	cached atomic.Int64
}

// Members returns all registered instances whose lease lasts at now, sorted by
// label, whatever their status.
func (v *View) Members(now Instant) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		for _, m := range v.members {
			if m.Lease.Alive(now) && !yield(m) {
				return
			}
		}
	}
}

// Derived returns what [Config.Derive] made of the view.
func (v *View) Derived() any { return v.derived }

// Count returns how many instances are in the view, ended or not.
func (v *View) Count() int { return len(v.members) }

// All returns the instances in the view, ended or not, sorted by label. It is
// for those who look at the leases when they use it.
func (v *View) All() []Member { return v.members }

// Settled reports whether no lease in the view has ended at now: where one
// has, what readers see has changed and the revision will only move when the
// removal is durable.
func (v *View) Settled(now Instant) bool {
	return !slices.ContainsFunc(v.members, func(m Member) bool { return !m.Lease.Alive(now) })
}

// ByLabel returns the live instance with that DNS label.
func (v *View) ByLabel(label string, now Instant) (Member, bool) {
	m, ok := v.at(label)
	return m, ok && m.Lease.Alive(now)
}

// ByLabelBytes is ByLabel for a label in octets. It allocates nothing.
func (v *View) ByLabelBytes(label []byte, now Instant) (Member, bool) {
	low, high := 0, len(v.members)
	for low < high {
		mid := int(uint(low+high) / 2)
		if v.members[mid].Label < string(label) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(v.members) || v.members[low].Label != string(label) {
		return Member{}, false
	}
	return v.members[low], v.members[low].Lease.Alive(now)
}

// Tags returns the tags that instances of the service carry, sorted.
func (v *View) Tags() []string {
	tags := make([]string, len(v.tags))
	for k, t := range v.tags {
		tags[k] = t.tag
	}
	return tags
}

// HandOut notes that an answer made from v may be in caches until the given
// moment, and reports whether v is still what the registry holds. Where it is
// not, the answer must be made again from the new view: between the two, a
// removal may have told its caller that no cache holds the instance any more.
func (v *View) HandOut(until Instant) bool {
	for {
		old := v.home.cached.Load()
		if int64(until) <= old || v.home.cached.CompareAndSwap(old, int64(until)) {
			return v.home.view.Load() == v
		}
	}
}

func (v *View) at(label string) (Member, bool) {
	k, ok := v.search(label)
	if !ok {
		return Member{}, false
	}
	return v.members[k], true
}

func (v *View) search(label string) (int, bool) {
	low, high := 0, len(v.members)
	for low < high {
		mid := int(uint(low+high) / 2)
		if v.members[mid].Label < label {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(v.members) && v.members[low].Label == label
}

// ambiguous returns the labels that are both an instance's and a tag's of the
// service, of those that inst brings.
func (v *View) ambiguous(inst *Instance) []string {
	var both []string
	if slices.ContainsFunc(v.tags, func(t tagCount) bool { return tagIsLabel(t.tag, inst.Label) }) {
		both = append(both, inst.Label)
	}
	for _, t := range inst.Tags {
		l, ok := TagLabel(t)
		if _, isInstance := v.search(l); ok && isInstance && !slices.Contains(both, l) {
			both = append(both, l)
		}
	}
	return both
}

// edit returns a copy of v that may be changed until it is published. Its
// cost is a copy of the service's pointers.
func (v *View) edit() *View {
	c := *v
	c.members = append(make([]Member, 0, len(v.members)+1), v.members...)
	return &c
}

// put inserts or replaces the member with m's label, in an edited view.
func (v *View) put(m Member) {
	k, ok := v.search(m.Label)
	if ok {
		v.countTags(v.members[k].Tags, m.Tags)
		v.members[k] = m
		return
	}
	v.countTags(nil, m.Tags)
	v.members = slices.Insert(v.members, k, m)
}

// drop removes the member with that label, in an edited view.
func (v *View) drop(label string) {
	if k, ok := v.search(label); ok {
		v.countTags(v.members[k].Tags, nil)
		v.members = slices.Delete(v.members, k, k+1)
	}
}

// complete puts in order a new view whose members came in any, one by one, and
// counts its tags. To put each where it belongs would cost, in a service with
// tags of their own for all its instances, a copy of all tags for each.
func (v *View) complete() {
	v.members = slices.Clone(v.members) // without the room to grow
	slices.SortFunc(v.members, func(a, b Member) int { return cmp.Compare(a.Label, b.Label) })
	var all []string
	for _, m := range v.members {
		all = append(all, m.Tags...)
	}
	slices.Sort(all)
	for _, t := range all {
		if n := len(v.tags); n == 0 || v.tags[n-1].tag != t {
			v.tags = append(v.tags, tagCount{tag: t})
		}
		v.tags[len(v.tags)-1].n++
	}
	v.tags = slices.Clip(v.tags)
}

// countTags replaces v's tag counts where they change: the old list may be
// shared with other views.
func (v *View) countTags(before, after []string) {
	if slices.Equal(before, after) {
		return
	}
	tags := slices.Clone(v.tags)
	count := func(list []string, by int) {
		for _, t := range list {
			k, ok := slices.BinarySearchFunc(tags, t, func(c tagCount, t string) int { return cmp.Compare(c.tag, t) })
			if !ok {
				tags = slices.Insert(tags, k, tagCount{tag: t})
			}
			if tags[k].n += by; tags[k].n == 0 {
				tags = slices.Delete(tags, k, k+1)
			}
		}
	}
	count(after, 1) // first, so that a count that stays never passes through 0
	count(before, -1)
	v.tags = tags
}
