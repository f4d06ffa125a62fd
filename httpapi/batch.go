package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/rosterdns/roster/store"
)

// This file reads the body of a batch of heartbeats. There are two readers with
// the same result: one by hand for what clients send, which is nearly as fast
// as the octets can be looked at, and encoding/json for everything else.

// The limits of one batch.
const (
	maxBatch      = 4 << 20 // octets
	maxBatchItems = 10_000
)

// The limits on what batches keep in memory.
const (
	maxLargeBatches = 64      // over maxBody octets, at once
	maxKept         = 1 << 20 // octets of a buffer that is used again
)

// batchItem names an instance.
type batchItem struct{ service, id []byte }

// read reads the request's body.
func (b *batch) read(w http.ResponseWriter, r *http.Request) error {
	var err error
	if b.body, err = readInto(b.body[:0], http.MaxBytesReader(w, r.Body, maxBatch)); err != nil {
		return err
	}
	var plain bool
	if b.items, plain = scanBatch(b.body, b.items[:0]); !plain {
		b.items, err = parseBatch(b.body, b.items[:0])
	}
	return err
}

// readInto appends all that src has to dst. Room is made for what has come and
// not for what Content-Length promises, or many who promise and send nothing
// would take all memory.
func readInto(dst []byte, src io.Reader) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			grown := make([]byte, len(dst), min(max(2*cap(dst), 4<<10), maxBatch+512))
			copy(grown, dst)
			dst = grown
		}
		n, err := src.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		var tooLarge *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return dst, nil
		case errors.As(err, &tooLarge):
			return dst, err
		case err != nil:
			return dst, problemf(http.StatusBadRequest, "the body ended early: %v", err)
		}
	}
}

// scanBatch reads the plain form of a batch: the two fields of each item once,
// names of printable ASCII without escapes. It reports whether this is one;
// where it is not, nothing is said about whether the body is right.
func scanBatch(b []byte, items []batchItem) ([]batchItem, bool) {
	s := scanner{rest: b}
	if !s.take('{') || string(s.text()) != "instances" || !s.take(':') || !s.take('[') {
		return items, false
	}
	for more := !s.take(']'); more; more = !s.take(']') {
		if len(items) > 0 && !s.take(',') || len(items) == maxBatchItems {
			return items, false
		}
		i, ok := s.item()
		if !ok {
			return items, false
		}
		items = append(items, i)
	}
	return items, s.take('}') && s.ended()
}

// scanner takes tokens from the front of rest.
type scanner struct{ rest []byte }

func (s *scanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

func (s *scanner) ended() bool {
	s.space()
	return len(s.rest) == 0
}

// take takes the octet if it is the next one.
func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text takes a string and returns what stands in it, nil where the next is no
// plain string.
func (s *scanner) text() []byte {
	if !s.take('"') {
		return nil
	}
	for k, c := range s.rest {
		if c == '"' {
			t := s.rest[:k]
			s.rest = s.rest[k+1:]
			return t
		}
		if c < 0x20 || c > 0x7e || c == '\\' {
			break
		}
	}
	return nil
}

func (s *scanner) item() (i batchItem, ok bool) {
	if !s.take('{') {
		return i, false
	}
	for n := range 2 {
		if n > 0 && !s.take(',') {
			return i, false
		}
		field := &i.id
		if key := s.text(); string(key) == "service" {
			field = &i.service
		} else if string(key) != "id" {
			return i, false
		}
		if *field != nil || !s.take(':') {
			return i, false
		}
		if *field = s.text(); *field == nil {
			return i, false
		}
	}
	return i, s.take('}')
}

// parseBatch reads any batch, and names what is wrong with it. It goes item by
// item, so that one with too many, or with a bad one, costs no more than what
// comes before that.
func parseBatch(b []byte, items []batchItem) ([]batchItem, error) {
	const form = `{"instances":[{"service":"web","id":"a1"}]}`
	if !utf8.Valid(b) {
		return items, problemf(http.StatusBadRequest, "the body is not JSON: it is not UTF-8")
	}
	if len(b) == 0 {
		return items, problemf(http.StatusBadRequest, "the body is empty; send %s", form)
	}
	there := false
	err := members(b, "", func(name string, dec *json.Decoder) error {
		if name != "instances" {
			return &store.InvalidError{Field: name, Reason: unknownField("instances")}
		}
		there = true
		if !bytes.HasPrefix(bytes.TrimLeft(b[dec.InputOffset():], ": \t\r\n"), []byte("[")) {
			raw, err := next(dec)
			if err != nil {
				return err
			}
			return wrongType(name, raw, "an array of objects with service and id")
		}
		return elements(dec, func(raw json.RawMessage) error {
			if len(items) == maxBatchItems {
				return problemf(http.StatusRequestEntityTooLarge, "instances: over %d of them; send them in several requests", maxBatchItems)
			}
			i, err := parseBatchItem(fmt.Sprintf("instances[%d]", len(items)), raw)
			items = append(items, i)
			return err
		})
	})
	if err == nil && !there {
		err = &store.InvalidError{Field: "instances", Reason: "it is missing; send " + form}
	}
	return items, err
}

func parseBatchItem(at string, raw json.RawMessage) (batchItem, error) {
	var i batchItem
	err := object(raw, at, func(name string, raw json.RawMessage) error {
		field := &i.service
		switch name {
		case "service":
		case "id":
			field = &i.id
		default:
			return &store.InvalidError{Field: name, Reason: unknownField("id, service")}
		}
		text, err := value[string](name, raw, "a string")
		*field = append([]byte{}, text...)
		return err
	})
	var invalid *store.InvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Field != at:
		return i, &store.InvalidError{Field: at + "." + invalid.Field, Reason: invalid.Reason}
	case err != nil:
		return i, err
	case i.service == nil:
		return i, &store.InvalidError{Field: at + ".service", Reason: "it is missing; send " + strconv.Quote("service") + " and " + strconv.Quote("id")}
	case i.id == nil:
		return i, &store.InvalidError{Field: at + ".id", Reason: "it is missing; send " + strconv.Quote("service") + " and " + strconv.Quote("id")}
	}
	return i, nil
}
