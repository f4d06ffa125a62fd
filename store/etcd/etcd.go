// Package etcd keeps a registry's instances in etcd, for several servers that
// share them: each takes registrations and heartbeats, and each answers from
// its own memory.
package etcd

import (
	"crypto/tls"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rosterdns/roster/store"
)

// Config is what a [Store] can be told.
type Config struct {
	// Endpoints are the members to talk to, as host:port; at least one.
	Endpoints []string

	// Prefix is what all keys begin with, without a slash at the end. Servers
	// with the same prefix share one registry. Default: "/roster".
	Prefix string

	// Name is what this server is called in the logs of the others.
	Name string

	// TLS is how the members are talked to; nil: in the clear.
	TLS *tls.Config

	// User and Password are who this server is to etcd; "": nobody.
	User, Password string

	// Compact is how old what etcd keeps of its history gets; one of the
	// servers has etcd drop what is older. 0: nothing is dropped by roster.
	Compact time.Duration

	// Trouble is called when etcd can no longer be reached, with the error, and
	// with nil when it is reached again. Default: nothing.
	Trouble func(error)
}

// Client is the part of etcd's own client that a [Store] uses.
type Client interface {
	clientv3.KV
	clientv3.Watcher
}

// Store is a [store.Shared] on etcd.
type Store struct {
	cfg    Config
	client Client
}

// New returns a store that uses a client which is there already, and closes it
// at the end.
func New(c Client, cfg Config) *Store { return &Store{cfg: cfg, client: c} }

var _ store.Revision
