package httpapi_test

import (
	"net/netip"
	"testing"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
)

// FuzzInstanceBody reads any body as a registration. What is accepted is in
// the stored form, and that form can be stored and read back.
func FuzzInstanceBody(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `{"port":8080}`, `{"addresses":["10.0.0.5","2001:db8::5"],"ports":{"metrics":9090},"protocol":"udp"}`,
		`{"address":"10.0.0.5","tags":["v2","eu"],"meta":{"build":"1234"},"ttl":30,"priority":1,"weight":0}`,
		`{"permanent":true}`, `{"port":70000}`, `{"port":1,"port":2}`, `{"tags":[null]}`, `{} {}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		i := &store.Instance{Service: "web", ID: "a1", TTL: store.DefaultTTL}
		if err := httpapi.ParseInstance(body, i); err != nil {
			if err.Error() == "" {
				t.Error("an error without a word")
			}
			return
		}
		if len(i.Addresses) == 0 {
			i.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		if i.Normalize() != nil {
			return
		}
		key, value := store.RecordKey(i.Service, i.ID), store.AppendRecord(nil, i)
		back, err := store.ParseRecord(key, value)
		if err != nil {
			t.Fatalf("stored, it cannot be read: %v", err)
		}
		if err := back.Normalize(); err != nil {
			t.Fatalf("read back, it is not allowed: %v", err)
		}
		if string(store.AppendRecord(nil, back)) != string(value) {
			t.Fatal("read back, it is another")
		}
	})
}
