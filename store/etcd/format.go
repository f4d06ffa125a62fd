package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/rosterdns/roster/store"
)

// This file is all that knows what the keys are called and what is in them.
// docs/storage.md has the layout. Each value begins with a version and ends with
// a checksum of the key and of what is before.

const version = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is a value that is not taken.
var errDamaged = errors.New("its value is damaged, or was written by a newer version of roster")

// keys are the names of what is stored.
type keys struct {
	all       string // the prefix of all
	base      string
	changed   string
	instances string // prefix, as are those that follow
	servers   string
	renewals  string
}

func keysUnder(prefix string) keys {
	p := strings.TrimSuffix(prefix, "/") + "/"
	return keys{p, p + "base", p + "changed", p + "instances/", p + "servers/", p + "renewals/"}
}

func (k keys) instance(p place) string { return k.instances + p.service + "/" + p.label }
func (k keys) clock() string           { return k.all + "clock" }
func (k keys) floor() string           { return k.all + "floor" }

func (k keys) server(id string) string { return k.servers + id }

func (k keys) batch(id string, n uint64) string { return fmt.Sprintf("%s%s/%016x", k.renewals, id, n) }

// place is where an instance stands: service and label.
type place struct{ service, label string }

func (k keys) parseInstance(key string) (place, bool) {
	rest, ok := strings.CutPrefix(key, k.instances)
	service, label, both := strings.Cut(rest, "/")
	return place{service, label}, ok && both
}

// writerOf returns the server whose batch a key is.
func (k keys) writerOf(key string) string {
	server, _, _ := strings.Cut(strings.TrimPrefix(key, k.renewals), "/")
	return server
}

// stamp says when something was written: on the writer's lease clock, on its clock
// that never stands, and after which revision of etcd, which it had seen.
type stamp struct {
	at   store.Instant
	age  time.Duration
	seen int64
}

// writer puts values together.
type writer struct{ b []byte }

func newWriter() *writer                  { return &writer{b: []byte{version}} }
func (w *writer) number(n uint64)         { w.b = binary.AppendUvarint(w.b, n) }
func (w *writer) flag(is bool)            { w.number(map[bool]uint64{true: 1}[is]) }
func (w *writer) text(s string)           { w.number(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) instant(t store.Instant) { w.number(uint64(t)) } // below 0 for none that is written
func (w *writer) stamp(s stamp) {
	w.instant(s.at)
	w.number(uint64(s.age))
	w.number(uint64(s.seen))
}

// end returns the value for a key.
func (w *writer) end(key string) string {
	return string(binary.BigEndian.AppendUint32(w.b, sum(key, w.b)))
}

func sum(key string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
}

// reader takes values apart; once something does not fit, bad is set and all
// that follows is zero.
type reader struct {
	rest []byte
	bad  bool
}

func newReader(key string, value []byte) *reader {
	n := len(value) - 4
	if n < 1 || value[0] != version || binary.BigEndian.Uint32(value[n:]) != sum(key, value[:n]) {
		return &reader{bad: true}
	}
	return &reader{rest: value[1:n]}
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) flag() bool             { return r.number() == 1 }
func (r *reader) instant() store.Instant { return store.Instant(r.number()) }
func (r *reader) stamp() stamp {
	return stamp{r.instant(), time.Duration(r.number()), int64(r.number())}
}

// end returns the error if anything did not fit.
func (r *reader) end(key string) error {
	if r.bad || len(r.rest) > 0 {
		return fmt.Errorf("etcd key %q: %w; look at it with etcdctl, and delete it if nothing else helps", key, errDamaged)
	}
	return nil
}

// stored is the value of an instance's key. The record has its revision as 0,
// which is not known when it is written.
type stored struct {
	end store.Instant // of the lease, when it was written
	*store.Instance
}

func (k keys) appendStored(s stored) string {
	i := *s.Instance
	i.Revision = 0
	w := newWriter()
	w.instant(s.end)
	w.text(i.ID)
	w.text(string(store.AppendRecord(nil, &i)))
	return w.end(k.instance(place{i.Service, i.Label}))
}

func (k keys) parseStored(key string, value []byte) (stored, error) {
	r := newReader(key, value)
	s := stored{end: r.instant()}
	id, record := r.text(), r.text()
	if err := r.end(key); err != nil {
		return stored{}, err
	}
	at, ok := k.parseInstance(key)
	if !ok {
		return stored{}, fmt.Errorf("etcd key %q: no key of roster; delete it, or choose another prefix", key)
	}
	i, err := store.ParseRecord(store.RecordKey(at.service, id), []byte(record))
	if err != nil {
		return stored{}, fmt.Errorf("etcd key %q: %w", key, err)
	}
	s.Instance = i
	return s, nil
}

// change is the value of the changed key: what the transaction has done that
// wrote it.
type change struct {
	stamp
	server  string // who has done it
	n       uint64 // that server's number for it
	kind    store.Kind
	checked bool
	at      place
	end     store.Instant // of the lease, after it
}

func (k keys) appendChange(c change) string {
	w := newWriter()
	w.stamp(c.stamp)
	w.text(c.server)
	w.number(c.n)
	w.number(uint64(c.kind))
	w.flag(c.checked)
	w.text(c.at.service)
	w.text(c.at.label)
	w.instant(c.end)
	return w.end(k.changed)
}

func (k keys) parseChange(value []byte) (change, error) {
	r := newReader(k.changed, value)
	c := change{stamp: r.stamp(), server: r.text(), n: r.number(), kind: store.Kind(r.number()), checked: r.flag(),
		at: place{r.text(), r.text()}, end: r.instant()}
	r.bad = r.bad || c.kind < store.Registered || c.kind > store.Expired
	return c, r.end(k.changed)
}

// tick is the value of a server's key.
type tick struct {
	stamp
	n      uint64 // the server's number for it
	name   string
	maxTTL time.Duration // the longest that the server's answers carry
	going  bool          // its lease clock goes, and has made up for what it stood
}

func (t tick) append(key string) string {
	w := newWriter()
	w.stamp(t.stamp)
	w.number(t.n)
	w.text(t.name)
	w.number(uint64(t.maxTTL))
	w.flag(t.going)
	return w.end(key)
}

func parseTick(key string, value []byte) (tick, error) {
	r := newReader(key, value)
	t := tick{r.stamp(), r.number(), r.text(), time.Duration(r.number()), r.flag()}
	return t, r.end(key)
}

// renewed is a lease in a batch: of whom, by the etcd revision at which the
// instance's key was made, and until when it lasts.
type renewed struct {
	created int64
	end     store.Instant
}

// unit is how exact ends are in a batch; they are rounded down.
const unit = store.Instant(time.Millisecond)

// appendBatch makes the value of a batch; leases are sorted by created.
func appendBatch(key string, s stamp, leases []renewed) string {
	w := newWriter()
	w.stamp(s)
	w.number(uint64(len(leases)))
	last := int64(0)
	for _, l := range leases {
		w.number(uint64(l.created - last))
		w.number(uint64(max(l.end-s.at, 0) / unit))
		last = l.created
	}
	return w.end(key)
}

func parseBatch(key string, value []byte) (s stamp, leases []renewed, err error) {
	r := newReader(key, value)
	s = r.stamp()
	n, last := r.number(), int64(0)
	r.bad = r.bad || n > uint64(len(r.rest))
	for range min(n, uint64(len(r.rest))) {
		last += int64(r.number())
		leases = append(leases, renewed{last, s.at + store.Instant(r.number())*unit})
	}
	return s, leases, r.end(key)
}

// mark is the value of the clock and floor keys: a moment.
func (s stamp) mark(key string) string {
	w := newWriter()
	w.stamp(s)
	return w.end(key)
}

func parseMark(key string, value []byte) (stamp, error) {
	r := newReader(key, value)
	s := r.stamp()
	return s, r.end(key)
}
