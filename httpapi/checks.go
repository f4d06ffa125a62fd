package httpapi

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/rosterdns/roster/store"
)

// checkJSON is a check in a reply: all its fields, those with defaults too.
type checkJSON struct {
	Type     string  `json:"type"`
	Interval float64 `json:"interval"` // seconds
	Timeout  float64 `json:"timeout"`  // seconds
	Path     string  `json:"path,omitempty"`
	Port     uint16  `json:"port"`
	Rise     uint8   `json:"rise"`
	Fall     uint8   `json:"fall"`
}

func describeCheck(i *store.Instance) *checkJSON {
	c := i.Check
	if c == nil {
		return nil
	}
	return &checkJSON{
		Type:     c.Type.String(),
		Interval: c.Interval.Seconds(),
		Timeout:  c.Timeout.Seconds(),
		Path:     c.Path,
		Port:     i.CheckPort(),
		Rise:     c.Rise,
		Fall:     c.Fall,
	}
}

// parseCheck reads the check of a registration. Its fields may come in any
// order, so the defaults that hang on others come last.
func parseCheck(raw json.RawMessage) (*store.Check, error) {
	c := &store.Check{Interval: store.DefaultInterval, Rise: store.DefaultRise, Fall: store.DefaultFall}
	typed := false
	err := object(raw, "check", func(name string, raw json.RawMessage) (err error) {
		field := "check." + name
		var n int
		switch name {
		case "type":
			var text string
			typed = true
			if text, err = value[string](field, raw, "http, tcp, grpc"); err == nil {
				c.Type, err = store.ParseCheckType(text)
			}
		case "interval":
			c.Interval, err = seconds(field, raw, store.MinInterval, store.MaxInterval)
		case "timeout":
			c.Timeout, err = seconds(field, raw, store.MinTimeout, store.MaxTimeout)
		case "path":
			c.Path, err = value[string](field, raw, "a string that begins with /")
		case "port":
			n, err = wholeNumber(field, raw, 1, math.MaxUint16)
			c.Port = uint16(n)
		case "rise":
			n, err = wholeNumber(field, raw, 1, store.MaxRise)
			c.Rise = uint8(n)
		case "fall":
			n, err = wholeNumber(field, raw, 1, store.MaxRise)
			c.Fall = uint8(n)
		default:
			err = &store.InvalidError{Field: field, Reason: unknownField("fall, interval, path, port, rise, timeout, type")}
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !typed:
		return nil, &store.InvalidError{Field: "check.type", Reason: "it is missing; allowed: http, tcp, grpc"}
	case c.Type == store.CheckHTTP && c.Path == "":
		c.Path = "/"
	}
	if c.Timeout == 0 {
		c.Timeout = min(store.DefaultTimeout, (c.Interval / 2).Truncate(time.Millisecond))
	}
	return c, nil
}

// seconds reads a number of seconds, which may have up to three decimals.
func seconds(field string, raw json.RawMessage, low, high time.Duration) (time.Duration, error) {
	allowed := fmt.Sprintf("a number of seconds from %v to %v", low.Seconds(), high.Seconds())
	s, err := value[float64](field, raw, allowed)
	if err != nil || s < low.Seconds() || s > high.Seconds() {
		return 0, wrongType(field, raw, allowed)
	}
	if _, decimals, _ := strings.Cut(string(raw), "."); len(decimals) > 3 || strings.ContainsAny(string(raw), "eE") {
		return 0, wrongType(field, raw, allowed+", with up to three decimals")
	}
	return time.Duration(math.Round(s*1000)) * time.Millisecond, nil
}

// admitCheck notes who registers the check of in, and refuses one that would
// make the server connect to where it may not.
func (s *Server) admitCheck(r *http.Request, in *store.Instance) error {
	if in.Check == nil {
		return nil
	}
	// Where the peer is not known it permits nothing: that is the zero address.
	in.Check.Peer, _ = peerAddr(r)
	if refused, ok := s.cfg.CheckAllow.Refused(in); ok {
		return &store.InvalidError{Field: "check", Reason: fmt.Sprintf(
			"checks may not connect to %s; allowed: %s (--check-allow)", refused, s.cfg.CheckAllow)}
	}
	return nil
}
