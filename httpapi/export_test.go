package httpapi

import "github.com/rosterdns/roster/store"

// NewOffline returns a server without a listener.
func NewOffline(r *store.Registry) *Server {
	s := &Server{registry: r, cfg: Config{Registry: r, Name: func(i *store.Instance) string {
		return i.Label + "." + i.Service + ".service."
	}}.withDefaults()}
	s.ready.Store(true)
	return s
}

// ParseInstance reads a registration's body as register does.
func ParseInstance(b []byte, i *store.Instance) error { return parseInstance(b, i) }
