//go:build !linux

package integration

import (
	"errors"
	"testing"
)

// namespace is what only Linux has.
type namespace struct{}

func newNamespace(t *testing.T) (*namespace, error) {
	t.Helper()
	return nil, errors.ErrUnsupported
}

func (n *namespace) do(f func() error) error { return f() }
