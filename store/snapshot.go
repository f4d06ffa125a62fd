package store

import (
	"cmp"
	"slices"
)

// Snapshot is the registry at one revision.
type Snapshot struct {
	Revision Revision
	Views    []*View // of every service that has instances, in no order
}

// Snapshot returns the registry as it is: the views of all services at the
// same revision. Changes wait meanwhile, for as long as it takes to walk the
// services once.
func (r *Registry) Snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Snapshot{Revision: r.Revision()}
	r.Services(func(v *View) bool {
		s.Views = append(s.Views, v)
		return true
	})
	return s
}

// Changes is what has become of the registry between two revisions.
type Changes struct {
	From, To Revision
	Services []ServiceChange // by name; those that are as they were may be among them
}

// ServiceChange is one service at both of the revisions.
type ServiceChange struct {
	Service       string
	Before, After []*Instance // sorted by label
}

// ChangesSince returns what has changed since a revision, at which the
// registry once was. It returns ErrCompacted where the history no longer
// reaches back so far.
func (r *Registry) ChangesSince(from Revision) (Changes, error) {
	events, after, to, err := r.historySince(from)
	if err != nil {
		return Changes{}, err
	}
	// From what is there now, the events are undone, the newest first.
	before := map[string]map[string]*Instance{}
	for service, v := range after {
		before[service] = map[string]*Instance{}
		if v != nil {
			for _, m := range v.members {
				before[service][m.Label] = m.Instance
			}
		}
	}
	for _, e := range slices.Backward(events) {
		i := e.Instance()
		if e.Before == nil {
			delete(before[i.Service], i.Label)
		} else {
			before[i.Service][i.Label] = e.Before
		}
	}
	c := Changes{From: from, To: to}
	for service, v := range after {
		change := ServiceChange{Service: service, Before: byLabel(before[service])}
		if v != nil {
			for _, m := range v.members {
				change.After = append(change.After, m.Instance)
			}
		}
		c.Services = append(c.Services, change)
	}
	slices.SortFunc(c.Services, func(a, b ServiceChange) int { return cmp.Compare(a.Service, b.Service) })
	return c, nil
}

// historySince returns the events since a revision and the present views of
// the services that they are about, nil for one that has nobody left.
func (r *Registry) historySince(from Revision) (events []Event, after map[string]*View, to Revision, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if events, err = r.feed.since(everything, from); err != nil {
		return nil, nil, 0, err
	}
	after = map[string]*View{}
	for k := range events {
		service := events[k].Instance().Service
		if _, known := after[service]; !known {
			after[service] = r.Service(service)
		}
	}
	return events, after, r.Revision(), nil
}

func byLabel(m map[string]*Instance) []*Instance {
	var list []*Instance
	for _, i := range m {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b *Instance) int { return cmp.Compare(a.Label, b.Label) })
	return list
}

// Changed returns a channel that is closed as soon as the registry's revision
// is above the given one.
func (r *Registry) Changed(after Revision) <-chan struct{} { return r.feed.changed(after) }

// NewView returns a view of a service that is in no registry, for those who
// ask what one with these instances, sorted by label, would be: their leases
// begin at the given moment, and a permanent one does not end. It counts no
// tags.
func NewView(name string, instances []*Instance, begin Instant) *View {
	v := &View{Service: name, home: &service{}, members: make([]Member, len(instances))}
	for k, i := range instances {
		v.members[k] = Member{i, newLease(slot{name, i.Label}, begin, i.TTL)}
	}
	return v
}
