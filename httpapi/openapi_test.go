package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/storetest"
)

// object is a mapping of the document.
type object = map[string]any

// openapi is the description of the API.
type openapi struct{ object }

func readOpenAPI(t *testing.T) openapi {
	t.Helper()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d openapi
	if err := yaml.Unmarshal(b, &d.object); err != nil {
		t.Fatal(err)
	}
	return d
}

// get follows the keys from v on, and references wherever they are met; nil
// where there is no such thing.
func (d openapi) get(v any, keys ...string) any {
	v = d.resolve(v)
	for _, k := range keys {
		m, _ := v.(object)
		v = d.resolve(m[k])
	}
	return v
}

func (d openapi) resolve(v any) any {
	m, _ := v.(object)
	ref, ok := m["$ref"].(string)
	if !ok {
		return v
	}
	found := d.get(d.object, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	if found == nil {
		panic("the reference " + ref + " leads nowhere")
	}
	return found
}

func (d openapi) at(v any, keys ...string) object {
	m, _ := d.get(v, keys...).(object)
	return m
}

// check returns what is wrong with a value by a schema, "" for nothing. It
// knows the part of JSON Schema that the document uses.
func (d openapi) check(schema, v any) string {
	s := d.at(schema)
	for key := range s {
		if !slices.Contains([]string{"type", "enum", "properties", "required", "additionalProperties", "items",
			"description", "format", "minimum", "maximum", "maxLength", "maxItems", "oneOf"}, key) {
			return "the schema has a " + key + ", which this test does not know"
		}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Sprintf("%v is none of %v", v, enum)
	}
	switch v := v.(type) {
	case object:
		return d.checkObject(s, v)
	case []any:
		for _, item := range v {
			if e := d.check(s["items"], item); e != "" {
				return "[]" + e
			}
		}
		return kind(s, "array")
	case string:
		return kind(s, "string")
	case bool:
		return kind(s, "boolean")
	case float64:
		low, lowest := s["minimum"].(int)
		high, highest := s["maximum"].(int)
		if lowest && v < float64(low) || highest && v > float64(high) {
			return fmt.Sprintf("%v is out of range", v)
		}
		if s["type"] == "number" {
			return ""
		}
		return kind(s, "integer")
	}
	return fmt.Sprintf("a value of type %T", v)
}

func kind(schema object, want string) string {
	if schema["type"] != want {
		return fmt.Sprintf(" is a %s, want %v", want, schema["type"])
	}
	return ""
}

func (d openapi) checkObject(s, v object) string {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Sprintf(".%s is missing", name)
		}
	}
	properties := d.at(s["properties"])
	for name, value := range v {
		schema, known := properties[name]
		if !known {
			if schema = s["additionalProperties"]; schema == false {
				return "." + name + " is not described"
			}
		}
		if e := d.check(schema, value); schema != nil && e != "" {
			return "." + name + e
		}
	}
	return kind(s, "object")
}

// plain returns a value of the document as JSON has it.
func plain(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var p any
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// shape is a value's types: of an object by name, of an array those of its
// first item.
func shape(v any) any {
	switch v := v.(type) {
	case object:
		s := object{}
		for name, value := range v {
			s[name] = shape(value)
		}
		return s
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shape(v[0])}
	}
	return fmt.Sprintf("%T", v)
}

// operations calls f for each operation of the document.
func (d openapi) operations(f func(path, method string, item, op object)) {
	paths := d.at(d.object, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := d.at(paths[path])
		for _, method := range slices.Sorted(maps.Keys(item)) {
			if method != "parameters" {
				f(path, strings.ToUpper(method), item, d.at(item[method]))
			}
		}
	}
}

const metricsText = "roster_revision 1.795348801e+09\n"

// described is a fresh server, and how its requests are put together.
func (d openapi) serve(t *testing.T) *httptest.Server {
	t.Helper()
	r, done := storetest.Open(t, memory, store.Config{Reserved: map[string]string{"ns": "the zone's name server (--ns)"}})
	t.Cleanup(done)
	s := httpapi.NewOfflineWith(r, httpapi.Config{Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, metricsText)
	})})
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	const instance = "/v1/services/{service}/instances/{id}"
	op := d.at(d.object, "paths", instance, "put")
	resp := d.send(t, server.URL, instance, "PUT", object{"parameters": d.get(d.object, "paths", instance, "parameters")}, op, "again")
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("register web/a1: %s", resp.Status)
	}
	return server
}

// send sends the request of an example.
func (d openapi) send(t *testing.T, base, path, method string, item, op object, example string) *http.Response {
	t.Helper()
	query, header := url.Values{}, http.Header{}
	all, _ := item["parameters"].([]any)
	own, _ := op["parameters"].([]any)
	for _, p := range append(slices.Clone(all), own...) {
		name, _ := d.get(p, "name").(string)
		in := d.get(p, "in")
		value, ok := d.get(p, "examples", example, "value").(string)
		if !ok && in == "path" {
			value, ok = d.get(p, "examples", "default", "value").(string)
		}
		switch {
		case !ok:
		case in == "path":
			path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(value))
		case in == "query":
			query.Set(name, value)
		case in == "header":
			header.Set(name, value)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	body := ""
	for _, content := range d.at(op, "requestBody", "content") {
		if v := d.get(content, "examples", example, "value"); v != nil {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// Every route is described, and every description has a route.
func TestOpenAPIRoutes(t *testing.T) {
	t.Parallel()
	d := readOpenAPI(t)
	r, done := storetest.Open(t, memory, store.Config{})
	t.Cleanup(done)
	routes := httpapi.Routes(httpapi.NewOfflineWith(r, httpapi.Config{DNS: http.NotFoundHandler(), UI: true}))
	described := map[string][]string{}
	d.operations(func(path, method string, _, _ object) { described[path] = append(described[path], method) })
	for path, methods := range routes {
		slices.Sort(methods)
		if !slices.Equal(described[path], methods) {
			t.Errorf("%s takes %q, and openapi.yaml has %q", path, methods, described[path])
		}
	}
	for path := range described {
		if routes[path] == nil {
			t.Errorf("openapi.yaml has %s, which is no route", path)
		}
	}
	if len(routes) < 12 {
		t.Errorf("only %d routes", len(routes))
	}
}

// withoutExample are operations whose success has no example: what comes back
// is the document itself or the page, does not end, or is binary.
var withoutExample = map[string]bool{"GET /v1/backup": true, "GET /openapi.yaml": true, "GET /v1/events": true, "GET /dns-query": true, "POST /dns-query": true,
	"GET /ui": true, "GET /ui/": true, "GET /ui/{file}": true}

// Every example is what comes back, by status, type and shape, and fits its
// schema; so does what comes back.
func TestOpenAPIExamples(t *testing.T) {
	t.Parallel()
	d := readOpenAPI(t)
	d.operations(func(path, method string, item, op object) {
		good := false
		for _, status := range slices.Sorted(maps.Keys(d.at(op, "responses"))) {
			for ctype, content := range d.at(op, "responses", status, "content") {
				for name := range d.at(content, "examples") {
					good = good || status[0] == '2'
					t.Run(method+" "+path+" "+status+" "+name, func(t *testing.T) {
						t.Parallel()
						d.replay(t, path, method, item, op, status, ctype, d.at(content), name)
					})
				}
			}
		}
		if !good && !withoutExample[method+" "+path] {
			t.Errorf("%s %s has no example of a success", method, path)
		}
		for _, content := range d.at(op, "requestBody", "content") {
			for name := range d.at(content, "examples") {
				if !d.answered(op, name) {
					t.Errorf("%s %s: nothing is said of what answers the example %s", method, path, name)
				}
			}
		}
	})
}

// answered reports whether a response has an example of that name.
func (d openapi) answered(op object, name string) bool {
	for _, response := range d.at(op, "responses") {
		for _, content := range d.at(response, "content") {
			if d.at(content, "examples")[name] != nil {
				return true
			}
		}
	}
	return false
}

func (d openapi) replay(t *testing.T, path, method string, item, op object, status, ctype string, content object, name string) {
	t.Helper()
	want := plain(t, d.get(content, "examples", name, "value"))
	if e := d.check(content["schema"], want); e != "" {
		t.Errorf("the example does not fit its schema: %s", e)
	}
	for _, c := range d.at(op, "requestBody", "content") {
		v := d.get(c, "examples", name, "value")
		if e := d.check(d.get(c, "schema"), plain(t, v)); v != nil && status[0] == '2' && e != "" {
			t.Errorf("the request's example does not fit its schema: %s", e)
		}
	}
	resp := d.send(t, d.serve(t).URL, path, method, item, op, name)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := strconv.Itoa(resp.StatusCode); got != status {
		t.Fatalf("status %s, want %s\n%s", got, status, b)
	}
	if got := resp.Header.Get("Content-Type"); got != ctype && !strings.HasPrefix(got, ctype+";") {
		t.Errorf("Content-Type %s, want %s", got, ctype)
	}
	if !strings.Contains(ctype, "json") {
		if string(b) != want {
			t.Errorf("got %q, want %q", b, want)
		}
		return
	}
	var got any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	if e := d.check(content["schema"], got); e != "" {
		t.Errorf("the answer does not fit its schema: %s\n%s", e, b)
	}
	if !reflect.DeepEqual(shape(got), shape(want)) {
		t.Errorf("the answer has the shape\n%v, the example\n%v\n%s", shape(got), shape(want), b)
	}
	if p, ok := want.(object); ok && strings.Contains(ctype, "problem") && !reflect.DeepEqual(got, p) {
		t.Errorf("got %s, the example says %v", b, p)
	}
}

// The server serves the file, to everybody.
func TestOpenAPIServed(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, store.Config{})
	r := a.want(t, 200, "GET /openapi.yaml", "")
	if r.text != string(b) || r.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("got %d octets of %s", len(r.text), r.header.Get("Content-Type"))
	}
}
