package httpapi_test

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
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
		`{"permanent":true}`, `{"port":80,"check":{"type":"http","path":"/healthz","interval":1.5,"timeout":0.5,"rise":2,"fall":3,"port":81}}`, `{"port":70000}`, `{"port":1,"port":2}`, `{"tags":[null]}`, `{} {}`,
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

// Whatever a query looks like, what is left of it has no token that anybody
// could read in it, and all else of it.
func FuzzCutToken(f *testing.F) {
	for _, q := range []string{"", "token=a", "a=1&token=b&c=2", "%74oken=a;b", "TOKEN", "token=a&token=b", "%zztoken=a", "a=%zz&&;=token"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		rest, token, found := httpapi.CutToken(query)
		if !found && (rest != query || token != "") {
			t.Errorf("nothing was found in %q, but it became %q", query, rest)
		}
		before, _ := url.ParseQuery(query)
		after, _ := url.ParseQuery(rest)
		for name, values := range after {
			if strings.EqualFold(name, "token") {
				t.Errorf("%q leaves %q", query, rest)
			}
			if !strings.Contains(query, ";") && !slices.Equal(values, before[name]) {
				t.Errorf("%q: %s is %q, and was %q", query, name, values, before[name])
			}
		}
		if list := before["token"]; len(list) > 0 && !found {
			t.Errorf("%q: the token was not found", query)
		}
	})
}

// FuzzBatchBody holds the two readers of a batch together: what the one by
// hand takes, encoding/json takes with the same names.
func FuzzBatchBody(f *testing.F) {
	for _, body := range []string{
		`{"instances":[{"service":"web","id":"a1"},{"id":"b","service":"c"}]}`, `{"instances":[]}`, `{"instances":null}`, `{}`, `[]`,
		" { \"instances\" : [\n{ \"service\" : \"\" ,\t\"id\" : \"x y\" }\r] } ", `{"instances":[{"service":"web"}]}`,
		`{"instances":[{"service":"web","service":"web"}]}`, `{"instances":[{"service":"we\u0062","id":"a1"}]}`,
		`{"instances":[{"service":"web","id":"a1"},]}`, `{"instances":[,{"service":"web","id":"a1"}]}`, `{"instances":[]}}`, `{"instances":[]} x`,
		`{"instances":[{"service":"web","id":"a1","x":1}]}`, `{"instances":[{"service":"web","id":"a1"}],"instances":[]}`,
		`{"instances":[{"service":"wéb","id":"a1"}]}`, `{"instances":[{"service":"web","id":7}]}`, `{"instances":[7]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, plain := httpapi.ScanBatch(b)
		want, err := httpapi.ParseBatch(b)
		if plain && (err != nil || !slices.Equal(got, want)) {
			t.Errorf("%q: by hand %q; by encoding/json %q, %v", b, got, want, err)
		}
	})
}
