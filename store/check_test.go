package store_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

func TestCheckNormalize(t *testing.T) {
	for _, c := range []struct {
		change        func(*store.Instance)
		field, reason string // "": allowed
	}{
		{func(*store.Instance) {}, "", ""},
		{func(i *store.Instance) { i.Check.Interval, i.Check.Timeout = time.Second, time.Second/2 }, "", ""},
		{func(i *store.Instance) { i.Port, i.Check.Port = 0, 81 }, "", ""},
		{func(i *store.Instance) { i.Check.Type = 9 }, "check.type", "http, tcp, grpc"},
		{func(i *store.Instance) { i.Check.Interval = time.Second / 2 }, "check.interval", "0.5 is not allowed; allowed: 1 to 3600 seconds"},
		{func(i *store.Instance) { i.Check.Interval = 2 * time.Hour }, "check.interval", "3600"},
		{func(i *store.Instance) { i.Check.Timeout = time.Microsecond }, "check.timeout", "0.1 to 10 seconds"},
		{func(i *store.Instance) { i.Check.Timeout = 200*time.Millisecond + 1 }, "check.timeout", ""},
		{func(i *store.Instance) { i.Check.Timeout = i.Check.Interval }, "check.timeout", "10 seconds is not below the interval of 10"},
		{func(i *store.Instance) { i.Check.Rise = 0 }, "check.rise", "1 to 100"},
		{func(i *store.Instance) { i.Check.Fall = 101 }, "check.fall", "1 to 100"},
		{func(i *store.Instance) { i.Check.Path = "" }, "check.path", "the first a /"},
		{func(i *store.Instance) { i.Check.Path = "healthz" }, "check.path", ""},
		{func(i *store.Instance) { i.Check.Path = "/a b" }, "check.path", ""},
		{func(i *store.Instance) { i.Check.Path = "/a\r\nX: y" }, "check.path", ""},
		{func(i *store.Instance) { i.Check.Path = "/#a" }, "check.path", ""},
		{func(i *store.Instance) { i.Check.Path = "/" + strings.Repeat("a", store.MaxPath) }, "check.path", ""},
		{func(i *store.Instance) { i.Check.Type = store.CheckTCP }, "check.path", "leave it out"},
		{func(i *store.Instance) { i.Port = 0 }, "check.port", "say which one"},
		{func(i *store.Instance) {
			for a := netip.MustParseAddr("10.0.1.1"); len(i.Addresses) <= store.MaxCheckAddrs; a = a.Next() {
				i.Addresses = append(i.Addresses, a)
			}
		}, "check", "17 addresses"},
	} {
		i := storetest.Instance("web", "a1")
		i.Check = storetest.Check(store.CheckHTTP)
		c.change(i)
		err := i.Normalize()
		var invalid *store.InvalidError
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%+v: %v", i.Check, err)
		case c.field != "" && (!errors.As(err, &invalid) || invalid.Field != c.field || !strings.Contains(invalid.Reason, c.reason)):
			t.Errorf("%+v: %v, want %s: ...%s...", i.Check, err, c.field, c.reason)
		}
	}
}

func TestParseCheckType(t *testing.T) {
	for _, want := range []store.CheckType{store.CheckTCP, store.CheckHTTP, store.CheckGRPC} {
		if got, err := store.ParseCheckType(want.String()); err != nil || got != want {
			t.Errorf("%s: read as %s, %v", want, got, err)
		}
	}
	if _, err := store.ParseCheckType("icmp"); err == nil || !strings.Contains(err.Error(), "check.type") {
		t.Errorf("icmp: %v", err)
	}
}
