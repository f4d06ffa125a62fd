package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func fullInstance(tb testing.TB) *store.Instance {
	tb.Helper()
	i := storetest.Instance("web", "Full/1")
	i.Addresses = append(i.Addresses, netip.MustParseAddr("2001:db8::1"))
	i.Ports = []store.NamedPort{{Name: "metrics", Port: 9090}}
	i.Protocol, i.Status = store.UDP, store.Draining
	i.Tags = []string{"v2", "not a label"}
	i.Meta = []store.Pair{{Key: "build", Value: "1234"}, {Key: "empty"}}
	i.Given = "http://10.0.0.1:8080"
	i.Revision = 1 << 40
	if err := i.Normalize(); err != nil {
		tb.Fatal(err)
	}
	return i
}

func checkedInstance(tb testing.TB) *store.Instance {
	tb.Helper()
	i := fullInstance(tb)
	i.Check = &store.Check{Type: store.CheckHTTP, Interval: 10 * time.Second, Timeout: 2500 * time.Millisecond,
		Path: "/healthz", Port: 8081, Rise: 2, Fall: 3, Peer: netip.MustParseAddr("2001:db8::7")}
	i.Status, i.Failing = store.Down, true
	if err := i.Normalize(); err != nil {
		tb.Fatal(err)
	}
	return i
}

func TestRecord(t *testing.T) {
	seed := fullInstance(t)
	seed.Check = store.SeedCheck(netip.Addr{})
	for name, i := range map[string]*store.Instance{"full": fullInstance(t), "checked": checkedInstance(t), "seed": seed} {
		t.Run(name, func(t *testing.T) { testRecord(t, i) })
	}
	// What has no check is written as before there were any.
	i := storetest.Instance("web", "a1")
	i.Label = "a1"
	old := []byte("\x01\x00\x00\x00\x1e\x90\x3f\x0a\x0a\x01\x04\x0a\x00\x00\x01\x00\x00\x00\x00")
	key := store.RecordKey("web", "a1")
	if got := store.AppendRecord(nil, i); !bytes.Equal(got, seal(key, old)) {
		t.Errorf("written as %x, want %x", got, seal(key, old))
	}
}

func testRecord(t *testing.T, i *store.Instance) {
	t.Helper()
	key, value := store.RecordKey(i.Service, i.ID), store.AppendRecord(nil, i)
	got, err := store.ParseRecord(key, value)
	if err != nil || !reflect.DeepEqual(got, i) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, i)
	}
	// Any one flipped bit is found, in the key as well.
	for k := range 8 * len(value) {
		bad := bytes.Clone(value)
		bad[k/8] ^= 1 << (k % 8)
		if _, err := store.ParseRecord(key, bad); !errors.Is(err, store.ErrDamagedRecord) {
			t.Fatalf("with bit %d flipped: %v, want ErrDamagedRecord", k, err)
		}
	}
	if _, err := store.ParseRecord(store.RecordKey("web", "other"), value); !errors.Is(err, store.ErrDamagedRecord) {
		t.Errorf("under another key: %v, want ErrDamagedRecord", err)
	}
	for n := range len(value) {
		if _, err := store.ParseRecord(key, value[:n]); !errors.Is(err, store.ErrDamagedRecord) {
			t.Errorf("cut to %d octets: %v, want ErrDamagedRecord", n, err)
		}
	}
	newer := bytes.Clone(value[:len(value)-4])
	newer[0] = 3
	if _, err := store.ParseRecord(key, seal(key, newer)); !errors.Is(err, store.ErrNewerRecord) {
		t.Errorf("of a newer version: %v, want ErrNewerRecord", err)
	}
	newer[0] = 2
	if _, err := store.ParseRecord(key, seal(key, append(newer, 99, 0))); !errors.Is(err, store.ErrNewerRecord) {
		t.Errorf("with a field of a newer version: %v, want ErrNewerRecord", err)
	}
	if _, err := store.ParseRecord(key, seal(key, append(newer, 1, 3, 0, 0, 1))); !errors.Is(err, store.ErrDamagedRecord) {
		t.Errorf("with half a check, or two: %v, want ErrDamagedRecord", err)
	}
}

// seal appends the checksum that makes a record of any body.
func seal(key, body []byte) []byte {
	c := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	c.Write(key)
	c.Write(body)
	return binary.BigEndian.AppendUint32(bytes.Clone(body), c.Sum32())
}

func FuzzRecord(f *testing.F) {
	i := fullInstance(f)
	value := store.AppendRecord(nil, i)
	f.Add(store.RecordKey(i.Service, i.ID), value[:len(value)-4])
	f.Add([]byte("a\x00b"), []byte{1, 0, 0})
	checked := store.AppendRecord(nil, checkedInstance(f))
	f.Add(store.RecordKey(i.Service, i.ID), checked[:len(checked)-4])
	f.Fuzz(func(t *testing.T, key, body []byte) {
		i, err := store.ParseRecord(key, seal(key, body))
		if err != nil {
			return
		}
		again, err := store.ParseRecord(store.RecordKey(i.Service, i.ID), store.AppendRecord(nil, i))
		if err != nil || !reflect.DeepEqual(i, again) {
			t.Fatalf("read as %+v, written and read again as %+v, %v", i, again, err)
		}
	})
}
