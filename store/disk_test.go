package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/rosterdns/roster/store"
)

// disk is a backend for the model test: it keeps records as octets, outlives
// its registries, and fails as it is told.
type disk struct {
	records  map[string][]byte
	revision store.Revision
	apply    func([]store.Event)

	next  fault         // what the next commit meets
	wait  func()        // in the middle of a slow one
	torn  *disk         // what a commit left that failed at its last sync; nil: none
	about map[key]bool  // what that commit was about, in torn
	inner store.Backend // what makes changes last in place of records; nil: none
}

type fault int

const (
	sound   fault = iota
	refuses       // nothing is written
	tears         // all is written, and the last sync fails: who is restarted now finds it
	waits         // it takes its time
)

var errDisk = errors.New("disk: planted error")

// Start implements [store.Backend].
func (d *disk) Start(ctx context.Context, restore func(*store.Instance), apply func([]store.Event)) (store.Revision, error) {
	if d.inner != nil {
		return d.inner.Start(ctx, restore, apply)
	}
	if d.torn != nil {
		d.records, d.revision, d.torn = d.torn.records, d.torn.revision, nil
	}
	for key, value := range d.records {
		i, err := store.ParseRecord([]byte(key), value)
		if err != nil {
			return 0, err
		}
		restore(i)
	}
	d.apply = apply
	return d.revision, nil
}

// Commit implements [store.Backend].
func (d *disk) Commit(ctx context.Context, events []store.Event) error {
	f := d.next
	d.next = sound
	switch f {
	case refuses:
		return fmt.Errorf("%w: %w", store.ErrNotDurable, errDisk)
	case waits:
		d.wait()
	}
	if d.inner != nil {
		return d.inner.Commit(ctx, events)
	}
	if f == tears {
		torn := &disk{records: maps.Clone(d.records), revision: d.reached(), about: map[key]bool{}}
		torn.write(events)
		for k := range events {
			i := events[k].Instance()
			torn.about[key{i.Service, i.ID}] = true
		}
		d.torn = torn
		return fmt.Errorf("%w: %w", store.ErrNotDurable, errDisk)
	}
	d.revision, d.torn = d.reached(), nil // what it left is undone with this one
	d.write(events)
	d.apply(events)
	return nil
}

// reached returns the last revision that has been given, to anything.
func (d *disk) reached() store.Revision {
	if d.torn != nil {
		return d.torn.revision
	}
	return d.revision
}

// gap returns how many revisions the next commit leaves out, because one that
// failed may have given them.
func (d *disk) gap() int { return int(d.reached() - d.revision) }

// doubtful returns what may come back after a restart in another way than it
// is: whatever the commit was about that failed at its last sync, whoever made
// it.
func (d *disk) doubtful() map[key]bool {
	if d.torn != nil {
		return d.torn.about
	}
	return nil
}

func (d *disk) write(events []store.Event) {
	for k := range events {
		e := &events[k]
		d.revision++
		e.Stamp(d.revision)
		key := string(store.RecordKey(e.Instance().Service, e.Instance().ID))
		if e.After == nil {
			delete(d.records, key)
			continue
		}
		d.records[key] = store.AppendRecord(nil, e.After)
	}
}

// Close implements [store.Backend].
func (d *disk) Close() error {
	if d.inner != nil {
		return d.inner.Close()
	}
	return nil
}
