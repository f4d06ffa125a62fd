package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rosterdns/roster/store"
)

// readBody returns the request's JSON body, nil where it is empty. A body that
// is too large or of another type is an error.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := takesJSON(r); err != nil {
		return nil, err
	}
	return readAll(w, r)
}

// takesJSON refuses a Content-Type that is there and is not JSON.
func takesJSON(r *http.Request) error {
	const json = "application/json"
	ct := r.Header.Get("Content-Type")
	if ct == "" || ct == json {
		return nil
	}
	if t, _, err := mime.ParseMediaType(ct); err != nil || t != json {
		return problemf(http.StatusUnsupportedMediaType,
			"Content-Type %q is not taken; send application/json (curl: --json), or leave it out", ct)
	}
	return nil
}

func readAll(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == http.NoBody {
		return nil, nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, problemf(http.StatusBadRequest, "the body ended early: %v", err)
	}
	if !utf8.Valid(b) {
		return nil, problemf(http.StatusBadRequest, "the body is not JSON: it is not UTF-8")
	}
	return bytes.TrimSpace(b), err
}

// object calls take with each member of a JSON object, in order. Anything but
// one object, and a name that comes twice, is an error; so is what take
// returns.
func object(b []byte, field string, take func(name string, value json.RawMessage) error) error {
	return members(b, field, func(name string, dec *json.Decoder) error {
		value, err := next(dec)
		if err != nil {
			return err
		}
		return take(name, value)
	})
}

// members is object for values that may be large: take reads each from the
// decoder, whole.
func members(b []byte, field string, take func(name string, dec *json.Decoder) error) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	start, err := dec.Token()
	if err != nil {
		return syntaxError(err)
	}
	if start != json.Delim('{') {
		return wrongType(field, b, "a JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return syntaxError(err)
		}
		key, _ := name.(string) // the decoder takes nothing else as a name
		if seen[key] {
			return &store.InvalidError{Field: key, Reason: "it stands twice in one object; send it once"}
		}
		seen[key] = true
		if err := take(key, dec); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return syntaxError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problemf(http.StatusBadRequest, "the body goes on after the JSON object; send one object and nothing else")
	}
	return nil
}

// next takes the next value off a decoder.
func next(dec *json.Decoder) (json.RawMessage, error) {
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return nil, syntaxError(err)
	}
	return value, nil
}

func syntaxError(err error) error {
	return problemf(http.StatusBadRequest, "the body is not JSON: %v", err)
}

// wrongType is the error for a value of another JSON type or range.
func wrongType(field string, value []byte, allowed string) error {
	const most = 100
	shown := string(value)
	if len(shown) > most {
		shown = strings.ToValidUTF8(shown[:most], "") + "..."
	}
	if field == "" {
		return problemf(http.StatusBadRequest, "the body is %s; send %s", shown, allowed)
	}
	return store.Invalid(field, shown, allowed)
}

// value decodes one JSON value of type T; null is none.
func value[T any](field string, raw json.RawMessage, allowed string) (T, error) {
	var p *T
	if err := json.Unmarshal(raw, &p); err != nil || p == nil {
		var zero T
		return zero, wrongType(field, raw, allowed)
	}
	return *p, nil
}

func wholeNumber(field string, raw json.RawMessage, low, high int) (int, error) {
	allowed := fmt.Sprintf("a whole number from %d to %d", low, high)
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < low || n > high {
		return 0, wrongType(field, raw, allowed)
	}
	return n, nil
}

// list calls take with each item of an array, in order.
func list(field string, raw json.RawMessage, allowed string, take func(json.RawMessage) error) error {
	if raw[0] != '[' {
		return wrongType(field, raw, allowed)
	}
	return elements(json.NewDecoder(bytes.NewReader(raw)), take)
}

// elements does so with an array that a decoder is at. What comes after an item
// that take refuses is not looked at.
func elements(dec *json.Decoder, take func(json.RawMessage) error) error {
	if _, err := dec.Token(); err != nil {
		return syntaxError(err)
	}
	for dec.More() {
		item, err := next(dec)
		if err != nil {
			return err
		}
		if err := take(item); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return syntaxError(err)
	}
	return nil
}

// parseInstance reads the body of a registration over the defaults that are in
// i. It checks types and ranges; [store.Instance.Normalize] checks the rest.
func parseInstance(b []byte, i *store.Instance) error {
	if len(b) == 0 {
		return problemf(http.StatusBadRequest, "the body is empty; send a JSON object, {} for an instance with all defaults")
	}
	p := instanceParser{i: i}
	return object(b, "", p.field)
}

// instanceParser fills an instance, and remembers what excludes what.
type instanceParser struct {
	i         *store.Instance
	addressed string // address or addresses, whichever came
	leased    string // ttl or permanent, whichever came
}

// only notes that name came, where other, which means the same, must not.
func only(seen *string, name string) error {
	if *seen != "" {
		return &store.InvalidError{Field: name, Reason: "it came together with " + *seen + "; send one of the two"}
	}
	*seen = name
	return nil
}

func (p *instanceParser) field(name string, raw json.RawMessage) (err error) {
	i := p.i
	var n int
	switch name {
	case "address", "addresses":
		return p.addresses(name, raw)
	case "ttl", "permanent":
		return p.lease(name, raw)
	case "port":
		n, err = wholeNumber(name, raw, 0, math.MaxUint16)
		i.Port = uint16(n)
	case "priority":
		n, err = wholeNumber(name, raw, 0, math.MaxUint16)
		i.Priority = uint16(n)
	case "weight":
		n, err = wholeNumber(name, raw, 0, math.MaxUint16)
		i.Weight = uint16(n)
	case "protocol":
		var text string
		if text, err = value[string](name, raw, "tcp, udp"); err == nil {
			i.Protocol, err = store.ParseProtocol(text)
		}
	case "ports":
		err = object(raw, name, func(key string, raw json.RawMessage) error {
			n, err := wholeNumber(name+"."+key, raw, 1, math.MaxUint16)
			i.Ports = append(i.Ports, store.NamedPort{Name: key, Port: uint16(n)})
			return err
		})
	case "tags":
		err = list(name, raw, "an array of strings", func(raw json.RawMessage) error {
			t, err := value[string](name, raw, "an array of strings")
			i.Tags = append(i.Tags, t)
			return err
		})
	case "meta":
		err = object(raw, name, func(key string, raw json.RawMessage) error {
			text, err := value[string](name+"."+key, raw, "a string")
			i.Meta = append(i.Meta, store.Pair{Key: key, Value: text})
			return err
		})
	case "check":
		i.Check, err = parseCheck(raw)
	default:
		err = refuse(name)
	}
	return err
}

func (p *instanceParser) addresses(name string, raw json.RawMessage) error {
	if err := only(&p.addressed, name); err != nil {
		return err
	}
	add := func(raw json.RawMessage) error {
		text, err := value[string](name, raw, "IP addresses as strings")
		if err != nil {
			return err
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return wrongType(name, raw, "IPv4 or IPv6 addresses, without a port")
		}
		p.i.Addresses = append(p.i.Addresses, a)
		return nil
	}
	if name == "address" {
		return add(raw)
	}
	return list(name, raw, "an array of IP addresses", add)
}

func (p *instanceParser) lease(name string, raw json.RawMessage) error {
	if err := only(&p.leased, name); err != nil {
		return err
	}
	if name == "permanent" {
		if string(raw) != "true" {
			return wrongType(name, raw, "true; send ttl, or leave both out, for a lease")
		}
		p.i.TTL = 0
		return nil
	}
	ttl, err := leaseLength(raw)
	p.i.TTL = ttl
	return err
}

func leaseLength(raw json.RawMessage) (time.Duration, error) {
	n, err := wholeNumber("ttl", raw, 1, int(store.MaxTTL/time.Second))
	return time.Duration(n) * time.Second, err
}

// refuse says why a field is not taken in a registration.
func refuse(name string) error {
	reason := unknownField("address, addresses, check, meta, permanent, port, ports, priority, protocol, tags, ttl, weight")
	switch name {
	case "status":
		reason = "it cannot be set by a registration; send it by heartbeat"
	case "service", "id":
		reason = "it stands in the path; leave it out of the body"
	case "dns_name", "expires", "revision", "warnings":
		reason = "the server sets it; leave it out"
	}
	return &store.InvalidError{Field: name, Reason: reason}
}

func unknownField(known string) string { return "there is no such field; allowed: " + known }

// parseBeat reads the body of a heartbeat, which may be empty.
func parseBeat(b []byte) (store.Beat, error) {
	var beat store.Beat
	if len(b) == 0 {
		return beat, nil
	}
	err := object(b, "", func(name string, raw json.RawMessage) error {
		switch name {
		case "ttl":
			ttl, err := leaseLength(raw)
			beat.TTL = &ttl
			return err
		case "weight":
			n, err := wholeNumber(name, raw, 0, math.MaxUint16)
			w := uint16(n)
			beat.Weight = &w
			return err
		case "status":
			const allowed = "up, down, draining"
			text, err := value[string](name, raw, allowed)
			if err != nil {
				return err
			}
			status, err := store.ParseStatus(text)
			if err != nil || status == store.Starting {
				return wrongType(name, raw, allowed)
			}
			beat.Status = &status
			return nil
		}
		return &store.InvalidError{Field: name, Reason: unknownField("status, ttl, weight")}
	})
	return beat, err
}
