package etcd_test

import (
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
	"github.com/rosterdns/roster/store/storetest"
)

func formats(tb testing.TB) []etcd.Format {
	tb.Helper()
	i := storetest.Instance("web", "not_a.label")
	i.Tags, i.Meta = []string{"blue"}, []store.Pair{{Key: "a", Value: "b"}}
	i.Check = storetest.Check(store.CheckTCP)
	i.TTL = time.Hour
	if err := i.Normalize(); err != nil {
		tb.Fatal(err)
	}
	return etcd.Formats(i)
}

// What is put together is taken apart to the same.
func TestValuesComeBack(t *testing.T) {
	t.Parallel()
	for _, f := range formats(t) {
		if again, err := f.Parse(f.Key, []byte(f.Value)); err != nil || again != f.Value {
			t.Errorf("%s: %q came back as %q, %v", f.Name, f.Value, again, err)
		}
	}
}

// A value that is not what was written is not taken: not with any other bit, not
// shorter or longer, and not under another key.
func TestDamagedValues(t *testing.T) {
	t.Parallel()
	for _, f := range formats(t) {
		refused := func(what, key string, value []byte) {
			t.Helper()
			if _, err := f.Parse(key, value); err == nil {
				t.Errorf("%s: %s is taken", f.Name, what)
			}
		}
		for k := range f.Value {
			for bit := range 8 {
				damaged := []byte(f.Value)
				damaged[k] ^= 1 << bit
				refused("a wrong bit", f.Key, damaged)
			}
			refused("the beginning", f.Key, []byte(f.Value[:k]))
			refused("the end", f.Key, []byte(f.Value[k+1:]))
			refused("one without an octet", f.Key, []byte(f.Value[:k]+f.Value[k+1:]))
			refused("a longer one", f.Key, []byte(f.Value[:k]+"\x00"+f.Value[k:]))
		}
		refused("a longer one", f.Key, []byte(f.Value+"\x00"))
		if f.Name != "change" { // there is one key of that
			refused("that of another key", f.Key+"x", []byte(f.Value))
		}
		inside := f.Value[1 : len(f.Value)-4]
		refused("one with something after it", f.Key, []byte(etcd.Seal(f.Key, []byte(inside+"\x00"))))
		refused("one that ends early", f.Key, []byte(etcd.Seal(f.Key, []byte(inside[:len(inside)-1]))))
		refused("nothing", f.Key, []byte(etcd.Seal(f.Key, nil)))
		newer := []byte(etcd.Seal(f.Key, []byte(inside)))
		newer[0]++
		refused("a newer version", f.Key, newer)
	}
}

// Values that are whole and make no sense are not taken either.
func TestValuesWithoutSense(t *testing.T) {
	t.Parallel()
	const by = "\x01\x01\x01" // a stamp
	for name, c := range map[string]struct{ key, inside, sense string }{
		"change": {"/roster/changed", by + "\x01a\x01\x00\x00\x03web\x011\x05", by + "\x01a\x01\x01\x00\x03web\x011\x05"}, // of no kind
		"kind":   {"/roster/changed", by + "\x01a\x01\x06\x00\x03web\x011\x05", by + "\x01a\x01\x05\x00\x03web\x011\x05"}, // of one that there is not
		"batch":  {"/roster/renewals/0123456789abcdef/000000000000012c", by + "\x05", by + "\x00"},                        // of five leases
	} {
		for _, f := range formats(t) {
			if f.Key != c.key {
				continue
			}
			if _, err := f.Parse(f.Key, []byte(etcd.Seal(f.Key, []byte(c.sense)))); err != nil {
				t.Errorf("%s: what makes sense is refused: %v", name, err)
			}
			if _, err := f.Parse(f.Key, []byte(etcd.Seal(f.Key, []byte(c.inside)))); err == nil {
				t.Errorf("%s: it is taken", name)
			}
		}
	}
}

// Whatever is in a value that has the right checksum, it is refused or makes
// sense: put together and taken apart again it is the same.
func FuzzValues(f *testing.F) {
	all := formats(f)
	for k, format := range all {
		f.Add(uint8(k), []byte(format.Value[1:len(format.Value)-4]))
	}
	f.Fuzz(func(t *testing.T, kind uint8, inside []byte) {
		format := all[int(kind)%len(all)]
		again, err := format.Parse(format.Key, []byte(etcd.Seal(format.Key, inside)))
		if err != nil {
			return
		}
		if len(again) > 2*len(inside)+100 {
			t.Errorf("%s: %d octets have become %d", format.Name, len(inside), len(again))
		}
		if same, err := format.Parse(format.Key, []byte(again)); err != nil || same != again {
			t.Errorf("%s: %q came back as %q, %v", format.Name, again, same, err)
		}
	})
}
