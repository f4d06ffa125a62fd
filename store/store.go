// Package store is the domain of roster: service instances, their leases, and
// the registry of those that are alive right now.
//
// A [Registry] keeps every instance in memory and serves every read from
// there. A [Backend] makes its changes last and decides their order; the
// package's own [Memory] keeps nothing, and the packages below this one keep
// them in a file or a cluster. Leases are arithmetic on the registry's own
// monotonic clock ([Instant]) and live only here.
//
// The package promises:
//
//   - A change is durable and visible to every reader before the call that
//     made it returns (P3).
//   - An instance whose lease has ended is in no answer, even before the sweep
//     has removed it (P1).
//   - One revision counter, moved by every change and never by a heartbeat
//     that changes nothing (P6).
//
// Start reading at [Registry]; it imports the standard library only.
package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Revision counts the changes of a registry. It is the SOA serial (its low 32
// bits), the position of a watcher and the ETag. A fresh registry starts from
// the unix time, so that it stands above what an earlier one handed out.
type Revision uint64

// What a registry refuses to do. Compare with [errors.Is].
var (
	// ErrNotFound: no live instance is registered under that service and ID.
	ErrNotFound = errors.New("not registered")
	// ErrExists: the registration was to create an instance, and it is there.
	ErrExists = errors.New("already registered")
	// ErrDraining: the instance is being drained, and only registering it again
	// brings it back.
	ErrDraining = errors.New("is being drained: register it again to bring it back")
	// ErrNotDurable: the backend could not make the change last; nothing of
	// it is visible, and trying again later is the right thing to do.
	ErrNotDurable = errors.New("not stored durably")
	// ErrConflict: what the change was decided on is no longer so, because
	// another server has changed it; whoever made the change decides again.
	ErrConflict = errors.New("another server has changed it meanwhile")
	// ErrBusy: too many registrations are under way; nothing of this one is
	// visible, but the lease of an instance that is there has been renewed.
	ErrBusy = errors.New("too many registrations are under way")
	// ErrClosed: the registry or its backend has been closed.
	ErrClosed = errors.New("registry is closed")
	// ErrCompacted: the history no longer reaches back to that revision.
	ErrCompacted = errors.New("history does not reach back that far")
	// ErrLagged: the subscriber did not keep up and has missed events.
	ErrLagged = errors.New("subscriber fell behind")
)

// InvalidError is input that the registry does not take.
type InvalidError struct {
	Field  string // the field as the API names it
	Reason string // what was given and what is allowed
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// Invalid returns the *InvalidError for a field whose value, as it is to be
// shown, is not among what is allowed.
func Invalid(field, value, allowed string) error {
	return &InvalidError{field, fmt.Sprintf("%s is not allowed; allowed: %s", value, allowed)}
}

// invalid is Invalid for a text, which it quotes.
func invalid(field, text, allowed string) error {
	return Invalid(field, strconv.Quote(text), allowed)
}

// ConflictError is a registration whose name is already taken.
type ConflictError struct {
	Name    string // the name both want
	Holder  string // who has it
	Refused string // who was refused
	Remedy  string // what to do about it
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the name %s of %s is already taken by %s; %s", e.Name, e.Refused, e.Holder, e.Remedy)
}

// A Backend makes the changes of one [Registry] last and decides their order,
// nothing else: what a change means is the registry's business.
type Backend interface {
	// Start is called once, before anything else. It calls restore for every
	// stored instance and returns the revision the store stands at; for a
	// fresh store that is the unix time. From then on the backend calls apply
	// with every committed batch, in revision order and never two at a time.
	// The backend may keep neither function's argument.
	//
	// A store that is damaged, foreign or of a newer version is an error that
	// names it and is left untouched.
	Start(ctx context.Context, restore func(*Instance), apply func([]Event)) (Revision, error)

	// Commit gives each event the next revision (by [Event.Stamp]), makes
	// them durable all or none, hands them to apply, and returns nil after
	// that. An error wraps [ErrNotDurable] or [ErrClosed], and then nothing
	// was applied. It may be called concurrently, but never with events for
	// an instance that another running Commit also names. A [Shared] backend
	// may also return ErrConflict, and of several events some may have been
	// made durable and applied when there is an error.
	Commit(ctx context.Context, events []Event) error

	// Close ends the commits under way and releases the store. Later commits
	// return [ErrClosed].
	Close() error
}
