package etcd

import (
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/rosterdns/roster/store"
)

// SetID gives a store an identity, before it is opened.
func SetID(s *Store, id string) { s.id = id }

// Tick returns key and value of a tick of a server that is none.
func Tick(id, name string, n uint64, age time.Duration, at store.Instant, seen int64, maxTTL time.Duration) (key, value string) {
	key = keysUnder("/roster").server(id)
	return key, tick{stamp{age: age, at: at, seen: seen}, n, name, maxTTL, true}.append(key)
}

// Batch returns key and value of a batch of a server that is none, with one
// renewal.
func Batch(id string, at store.Instant, created int64, end store.Instant) (key, value string) {
	key = keysUnder("/roster").batch(id, 1)
	return key, appendBatch(key, stamp{at: at, age: time.Hour}, []renewed{{created, end}})
}

// Ticks are those of a server, and what they say about the clocks of others.
type Ticks struct{ t ticks }

// NewTicks returns those of a server that has sent none.
func NewTicks() *Ticks { return &Ticks{ticks{apart: map[string]*apart{}}} }

// Send notes that a tick is sent at an Age.
func (t *Ticks) Send(age time.Duration) uint64 { return t.t.send(age) }

// Back notes with which revision of etcd a tick has come back.
func (t *Ticks) Back(n uint64, revision int64) bool { _, ok := t.t.back(n, revision); return ok }

// Compare takes in what another server wrote at its own Age, having seen a
// revision, and returns by how much its Age can be above ours at most.
func (t *Ticks) Compare(server string, its time.Duration, seen int64, age time.Duration) (most time.Duration, ok bool) {
	return t.t.compare(server, stamp{age: its, seen: seen}, age)
}

// Kept returns how many ticks are remembered.
func (t *Ticks) Kept() int { return len(t.t.sent) }

// KeptTicks and RateMost are what there is of them.
const (
	KeptTicks = keptTicks
	RateMost  = rateMost
)

// Format is one kind of value, with an example. Parse takes a value apart and
// puts it together again.
type Format struct {
	Name, Key, Value string
	Parse            func(key string, value []byte) (again string, err error)
}

// Seal puts version and checksum around what is in a value.
func Seal(key string, inside []byte) string {
	w := newWriter()
	w.b = append(w.b, inside...)
	return w.end(key)
}

// Formats returns every kind of value; i is for those that have an instance.
func Formats(i *store.Instance) []Format {
	k := keysUnder("/roster")
	by := stamp{at: 123456789, age: 987654321, seen: 77}
	c := change{by, "0123456789abcdef", 9, store.Updated, true, place{i.Service, i.Label}, 5e9}
	server, batch := k.server("0123456789abcdef"), k.batch("0123456789abcdef", 300)
	leases := []renewed{{5, by.at}, {6, by.at + 7*unit}, {1 << 40, by.at + 86_400_000*unit}}
	base := newWriter()
	base.number(1_700_000_000)
	return []Format{
		{"instance", k.instance(c.at), k.appendStored(stored{5e9, i}), func(key string, value []byte) (string, error) {
			s, err := k.parseStored(key, value)
			if err != nil {
				return "", err
			}
			return k.appendStored(s), nil
		}},
		{"change", k.changed, k.appendChange(c), func(_ string, value []byte) (string, error) {
			c, err := k.parseChange(value)
			return k.appendChange(c), err
		}},
		{"tick", server, tick{by, 3, "host.example", 30 * time.Second, true}.append(server), func(key string, value []byte) (string, error) {
			t, err := parseTick(key, value)
			return t.append(key), err
		}},
		{"batch", batch, appendBatch(batch, by, leases), func(key string, value []byte) (string, error) {
			s, leases, err := parseBatch(key, value)
			if err != nil { // what could be read of it must not be put together
				return "", err
			}
			return appendBatch(key, s, leases), nil
		}},
		{"mark", k.floor(), by.mark(k.floor()), func(key string, value []byte) (string, error) {
			s, err := parseMark(key, value)
			return s.mark(key), err
		}},
		{"base", k.base, base.end(k.base), func(key string, value []byte) (string, error) {
			var st state
			err := st.takeBase(&mvccpb.KeyValue{Key: []byte(key), Value: value})
			w := newWriter()
			w.number(uint64(st.base))
			return w.end(key), err
		}},
	}
}

// WhileRefused is the error of a write while etcd refuses all.
func WhileRefused() error {
	s := &Store{why: &refusal{"etcd is full"}}
	return s.outOfReachLocked(store.ErrCutOff)
}
