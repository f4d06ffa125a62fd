package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/rosterdns/roster/store"
)

// instanceJSON is an instance in a reply.
type instanceJSON struct {
	Service   string            `json:"service"`
	ID        string            `json:"id"`
	Addresses []netip.Addr      `json:"addresses"`
	Port      uint16            `json:"port"`
	Ports     map[string]uint16 `json:"ports,omitempty"`
	Protocol  string            `json:"protocol"`
	Priority  uint16            `json:"priority"`
	Weight    uint16            `json:"weight"`
	TTL       int               `json:"ttl,omitempty"` // seconds
	Permanent bool              `json:"permanent,omitempty"`
	Tags      []string          `json:"tags,omitempty"`
	Meta      map[string]string `json:"meta,omitempty"`
	Check     *checkJSON        `json:"check,omitempty"`
	Status    string            `json:"status"`
	DNSName   string            `json:"dns_name"`
	Expires   timestamp         `json:"expires,omitzero"`
	Revision  store.Revision    `json:"revision"`
	Warnings  []string          `json:"warnings,omitempty"`
}

// timestamp is a moment in RFC 3339, UTC, always with a fraction.
type timestamp time.Time

// IsZero is for omitzero.
func (t timestamp) IsZero() bool { return time.Time(t).IsZero() }

// MarshalText implements [encoding.TextMarshaler].
func (t timestamp) MarshalText() ([]byte, error) {
	return appendTime(nil, time.Time(t)), nil
}

// appendTime is AppendFormat with 2006-01-02T15:04:05.000000000Z07:00, which
// would read that text again each time.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, year, 4)
	dst = appendDigits(append(dst, '-'), int(month), 2)
	dst = appendDigits(append(dst, '-'), day, 2)
	dst = appendDigits(append(dst, 'T'), hour, 2)
	dst = appendDigits(append(dst, ':'), minute, 2)
	dst = appendDigits(append(dst, ':'), second, 2)
	dst = appendDigits(append(dst, '.'), t.Nanosecond(), 9)
	return append(dst, 'Z')
}

// appendDigits appends n in that many digits.
func appendDigits(dst []byte, n, digits int) []byte {
	dst = append(dst, "000000000"[:digits]...)
	for k := len(dst) - 1; n > 0 && k >= len(dst)-digits; k-- {
		dst[k] += byte(n % 10)
		n /= 10
	}
	return dst
}

func (s *Server) describe(i *store.Instance, expires time.Time) instanceJSON {
	d := instanceJSON{
		Service:   i.Service,
		ID:        i.ID,
		Addresses: i.Addresses,
		Port:      i.Port,
		Protocol:  i.Protocol.String(),
		Priority:  i.Priority,
		Weight:    i.Weight,
		TTL:       int(i.TTL / time.Second),
		Permanent: i.Permanent(),
		Tags:      i.Tags,
		Check:     describeCheck(i),
		Status:    i.Status.String(),
		DNSName:   s.cfg.Name(i),
		Expires:   timestamp(expires),
		Revision:  i.Revision,
	}
	if len(i.Ports) > 0 {
		d.Ports = make(map[string]uint16, len(i.Ports))
		for _, p := range i.Ports {
			d.Ports[p.Name] = p.Port
		}
	}
	if len(i.Meta) > 0 {
		d.Meta = make(map[string]string, len(i.Meta))
		for _, p := range i.Meta {
			d.Meta[p.Key] = p.Value
		}
	}
	return d
}

// register is PUT /v1/services/{service}/instances/{id}.
func (s *Server) register(w http.ResponseWriter, r *http.Request) error {
	service, id, err := target(r)
	if err != nil {
		return err
	}
	in, err := readInstance(w, r)
	if err != nil {
		return err
	}
	in.Service, in.ID = service, id
	return s.store(w, r, in, "")
}

// registerUnnamed is POST /v1/services/{service}/instances.
func (s *Server) registerUnnamed(w http.ResponseWriter, r *http.Request) error {
	service, err := pathVar(r, "service")
	if err != nil {
		return err
	}
	in, err := readInstance(w, r)
	if err != nil {
		return err
	}
	first := slices.MinFunc(in.Addresses, netip.Addr.Compare) // whatever order they came in
	in.Service, in.ID = service, store.DeriveID(first, in.Port, in.Protocol)
	return s.store(w, r, in, "/v1/services/"+url.PathEscape(service)+"/instances/"+url.PathEscape(in.ID))
}

// readInstance reads the body over the defaults. An instance without an
// address has the one that the request came from.
func readInstance(w http.ResponseWriter, r *http.Request) (*store.Instance, error) {
	if err := takeQuery(r); err != nil {
		return nil, err
	}
	b, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	in := &store.Instance{Priority: store.DefaultPriority, Weight: store.DefaultWeight, TTL: store.DefaultTTL}
	if err := parseInstance(b, in); err != nil {
		return nil, err
	}
	if len(in.Addresses) == 0 {
		peer, err := peerAddr(r)
		if err != nil {
			return nil, err
		}
		in.Addresses = []netip.Addr{peer}
	}
	return in, nil
}

// peerAddr returns the address that the request came from.
func peerAddr(r *http.Request) (netip.Addr, error) {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, problemf(http.StatusBadRequest, "addresses: none given, and the peer's is not known; give one")
	}
	return p.Addr().Unmap().WithZone(""), nil
}

// store registers the instance and replies with what is stored, and with where
// it is to be found unless that is "".
func (s *Server) store(w http.ResponseWriter, r *http.Request, in *store.Instance, location string) error {
	create, err := createOnly(r)
	if err != nil {
		return err
	}
	if err := s.grant(r).register(in); err != nil {
		return err
	}
	if err := s.admitCheck(r, in); err != nil {
		return err
	}
	reg, err := s.registry.Register(r.Context(), in, create)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if reg.Created {
		status = http.StatusCreated
	}
	if location != "" {
		w.Header().Set("Location", location)
	}
	d := s.describe(reg.Instance, reg.Expires)
	d.Warnings = reg.Warnings
	return writeJSON(w, status, d)
}

// createOnly reports whether the request asks not to replace an instance
// (RFC 9110 section 13.1.2).
func createOnly(r *http.Request) (bool, error) {
	switch v := r.Header.Get("If-None-Match"); {
	case r.Header.Get("If-Match") != "":
		return false, problemf(http.StatusBadRequest, "If-Match is not taken here; leave it out")
	case v == "":
		return false, nil
	case v == "*":
		return true, nil
	default:
		return false, problemf(http.StatusBadRequest, "If-None-Match %s is not taken here; send *, or leave it out", v)
	}
}

// instance is GET /v1/services/{service}/instances/{id}.
func (s *Server) instance(w http.ResponseWriter, r *http.Request) error {
	service, id, err := target(r)
	if err != nil {
		return err
	}
	if err := takeQuery(r); err != nil {
		return err
	}
	now := s.registry.Now()
	m, ok := s.find(service, id, now)
	if !ok {
		return problemf(http.StatusNotFound, "%s/%s: %v", service, id, store.ErrNotFound)
	}
	if unchanged(w, r, m.Revision) {
		return nil
	}
	return writeJSON(w, http.StatusOK, s.describe(m.Instance, s.expires(m)))
}

func (s *Server) find(service, id string, now store.Instant) (store.Member, bool) {
	v := s.registry.Service(service)
	if v == nil {
		return store.Member{}, false
	}
	m, ok := v.ByLabel(store.Label(id), now)
	return m, ok && m.ID == id
}

func (s *Server) expires(m store.Member) time.Time {
	if end := m.Lease.End(); end != store.Never {
		return s.registry.Wall(end)
	}
	return time.Time{}
}

// deregister is DELETE /v1/services/{service}/instances/{id}.
func (s *Server) deregister(w http.ResponseWriter, r *http.Request) error {
	service, id, err := target(r)
	if err != nil {
		return err
	}
	remove, err := s.removal(r)
	if err != nil {
		return err
	}
	gone, err := remove(r.Context(), service, id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		Revision  store.Revision `json:"revision"`
		SafeAfter timestamp      `json:"safe_after"`
	}{gone.Revision, timestamp(gone.SafeAfter)})
}

// removal returns what ?drain= asks for.
func (s *Server) removal(r *http.Request) (func(ctx context.Context, service, id string) (store.Removal, error), error) {
	if err := takeQuery(r, "drain"); err != nil {
		return nil, err
	}
	switch drain := r.URL.Query()["drain"]; {
	case len(drain) == 0, slices.Equal(drain, []string{"false"}):
		return s.registry.Deregister, nil
	case slices.Equal(drain, []string{"true"}):
		return s.registry.Drain, nil
	default:
		return nil, store.Invalid("drain", strings.Join(drain, ", "), "true, false")
	}
}

// target returns the service and the ID in the path.
func target(r *http.Request) (service, id string, err error) {
	if service, err = pathVar(r, "service"); err != nil {
		return "", "", err
	}
	id, err = pathVar(r, "id")
	return service, id, err
}

func pathVar(r *http.Request, name string) (string, error) {
	v, err := url.PathUnescape(mux.Vars(r)[name])
	if err != nil {
		return "", problemf(http.StatusBadRequest, "%s in the path: %v", name, err)
	}
	if name == "service" {
		v = store.FoldName(v)
	}
	return v, nil
}
