package store

// Kind says what an [Event] did.
type Kind uint8

// The kinds of change.
const (
	Registered    Kind = iota + 1 // an instance that was not there
	Updated                       // anything of it but its status changed
	StatusChanged                 // only its status changed
	Deregistered                  // it was removed on request, or at the end of its drain
	Expired                       // its lease ended
)

var kindNames = [...]string{Registered: "register", Updated: "update", StatusChanged: "status", Deregistered: "deregister", Expired: "expire"}

// String returns the kind's name in the watch API.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Event is one change of one instance. Before and After are never modified
// once the event has been committed.
type Event struct {
	Revision Revision
	Kind     Kind
	Before   *Instance // nil for Registered
	After    *Instance // nil for Deregistered and Expired

	// Checked: it is what a check found, and so renews no lease.
	Checked bool

	// End is until when the lease lasts afterwards, at least; 0 where that is
	// for whoever applies it. A [Shared] backend sets it: see [Replica.EndAfter].
	End Instant

	// Elsewhere: another server has decided it.
	Elsewhere bool
}

// Stamp gives the event, and the instance it leaves, its revision. Only a
// [Backend] calls it, before the event is applied.
func (e *Event) Stamp(r Revision) {
	e.Revision = r
	if e.After != nil {
		e.After.Revision = r
	}
}

// Instance returns the instance the event is about: the state it leaves, or
// for a removal the state that it ended.
func (e *Event) Instance() *Instance {
	if e.After != nil {
		return e.After
	}
	return e.Before
}
