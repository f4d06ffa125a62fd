package check

import (
	"context"

	"github.com/rosterdns/roster/store"
)

// Probe asks an instance as a checker does.
func Probe(ctx context.Context, i *store.Instance) error { return probe(ctx, i) }

// ErrOurs is what says nothing about the instance.
var ErrOurs = errOurs

// NewWith returns a checker that asks by the given function.
func NewWith(cfg Config, probe func(context.Context, *store.Instance) error) *Checker {
	c := New(cfg)
	c.probe = probe
	return c
}

// ParseHealth reads the health service's reply.
func ParseHealth(b []byte) (uint64, bool) { return parseHealth(b) }
