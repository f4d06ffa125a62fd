package client

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Status is how an instance is doing.
type Status string

// The statuses. Only instances that are up are in a service's answers.
const (
	Up       Status = "up"
	Starting Status = "starting" // it has a check that has not passed yet
	Down     Status = "down"     // its check fails, or it says so itself
	Draining Status = "draining" // it is about to leave
)

// Registration is what an instance says of itself when it registers. A zero
// field is left out, and has the default that it says.
type Registration struct {
	// Service is the name of the service, one DNS label. Required.
	Service string `json:"-"`

	// ID is unique in the service. Default derived from address, port and
	// protocol, so that the same program is the same instance again.
	ID string `json:"-"`

	// Addresses default to the one that the request comes from.
	Addresses []netip.Addr `json:"addresses,omitempty"`

	Port     uint16            `json:"port,omitempty"`     // 0: none, and so no SRV record
	Ports    map[string]uint16 `json:"ports,omitempty"`    // further ports by name
	Protocol string            `json:"protocol,omitempty"` // tcp or udp; default tcp

	Priority *uint16 `json:"priority,omitempty"` // lower is better; default 10
	Weight   *uint16 `json:"weight,omitempty"`   // the share among equals; default 10

	TTL       int  `json:"ttl,omitempty"`       // the lease in seconds, 1 to 86400; default 30
	Permanent bool `json:"permanent,omitempty"` // no lease at all, in place of TTL

	Tags  []string          `json:"tags,omitempty"`
	Meta  map[string]string `json:"meta,omitempty"`
	Check *Check            `json:"check,omitempty"` // default: the server probes nothing
}

// Check is what the server probes. A zero field has the server's default.
type Check struct {
	Type     string  `json:"type"`               // http, tcp or grpc
	Interval float64 `json:"interval,omitempty"` // seconds from one probe to the next
	Timeout  float64 `json:"timeout,omitempty"`  // seconds for one probe
	Path     string  `json:"path,omitempty"`     // for http
	Port     uint16  `json:"port,omitempty"`     // default the instance's
	Rise     uint8   `json:"rise,omitempty"`     // so many must pass until it is up
	Fall     uint8   `json:"fall,omitempty"`     // so many must fail until it is down
}

// Instance is an instance as the server has it.
type Instance struct {
	Service   string            `json:"service"`
	ID        string            `json:"id"`
	Addresses []netip.Addr      `json:"addresses"`
	Port      uint16            `json:"port"`
	Ports     map[string]uint16 `json:"ports,omitempty"`
	Protocol  string            `json:"protocol"`
	Priority  uint16            `json:"priority"`
	Weight    uint16            `json:"weight"`
	TTL       int               `json:"ttl,omitempty"` // seconds; 0: permanent
	Permanent bool              `json:"permanent,omitempty"`
	Tags      []string          `json:"tags,omitempty"`
	Meta      map[string]string `json:"meta,omitempty"`
	Check     *Check            `json:"check,omitempty"`
	Status    Status            `json:"status"`
	DNSName   string            `json:"dns_name"`
	Expires   time.Time         `json:"expires,omitzero"` // the lease's end unless renewed; zero: permanent
	Revision  uint64            `json:"revision"`         // its last change
	Warnings  []string          `json:"warnings,omitempty"`
}

// Beat is what a heartbeat may change along the way. A zero field changes
// nothing.
type Beat struct {
	Weight *uint16 `json:"weight,omitempty"`
	TTL    int     `json:"ttl,omitempty"`    // the lease from now on, in seconds
	Status Status  `json:"status,omitempty"` // Up, Down or Draining
}

// Lease is what a heartbeat has left in force.
type Lease struct {
	TTL       int       `json:"ttl,omitempty"` // seconds; 0: permanent
	Permanent bool      `json:"permanent,omitempty"`
	Weight    *uint16   `json:"weight,omitempty"` // where the heartbeat brought one; what counts now, which may be an older one for a second
	Expires   time.Time `json:"expires,omitzero"`
	Revision  uint64    `json:"revision"`
}

// Removal says what a deregistration has left behind in caches.
type Removal struct {
	Revision uint64 `json:"revision"`

	// SafeAfter is when the last honest cache has forgotten the instance, by
	// the server's clock. From then on it may stop without failing anybody.
	SafeAfter time.Time `json:"safe_after"`

	// SafeIn is how long that was away when the reply came, also where this
	// host's clock is wrong; then it may be up to a second too long.
	SafeIn time.Duration `json:"-"`
}

// instancePath is the path of an instance; id is "" for one that has none yet.
func instancePath(service, id, more string) string {
	path := "/v1/services/" + url.PathEscape(service) + "/instances"
	if id != "" {
		path += "/" + escapeID(id)
	}
	return path + more
}

// escapeID escapes an ID so that no proxy or library takes it for a step in a
// path.
func escapeID(id string) string {
	switch id {
	case ".":
		return "%2E"
	case "..":
		return "%2E%2E"
	}
	return url.PathEscape(id)
}

// Register registers an instance, or renews it where nothing of it changes. It
// is on disk and in DNS when Register returns. Without heartbeats it is gone
// after its TTL; a [Keeper] sends them.
func (c *Client) Register(ctx context.Context, r Registration) (Instance, error) {
	i, _, err := c.register(ctx, r, 0)
	return i, err
}

// register also says whether the instance is new: nothing was registered under
// its ID before.
func (c *Client) register(ctx context.Context, r Registration, timeout time.Duration) (i Instance, created bool, err error) {
	method := http.MethodPut
	if r.ID == "" {
		method = http.MethodPost
	}
	said, err := c.doWithReply(ctx, call{method: method, path: instancePath(r.Service, r.ID, ""), body: r, timeout: timeout}, &i)
	if err != nil {
		return Instance{}, false, fmt.Errorf("register %s: %w", name(r.Service, r.ID), err)
	}
	return i, said.status == http.StatusCreated, nil
}

// name is what errors call an instance.
func name(service, id string) string {
	if id == "" {
		return service
	}
	return service + "/" + id
}

// Heartbeat renews the lease of an instance and changes what b says. The error
// is an [ErrNotFound] where the instance has to be registered again.
func (c *Client) Heartbeat(ctx context.Context, service, id string, b Beat) (Lease, error) {
	return c.heartbeat(ctx, service, id, b, 0)
}

func (c *Client) heartbeat(ctx context.Context, service, id string, b Beat, timeout time.Duration) (l Lease, err error) {
	q := call{method: http.MethodPut, path: instancePath(service, id, "/heartbeat"), timeout: timeout}
	if b != (Beat{}) {
		q.body = b
	}
	if err := c.do(ctx, q, &l); err != nil {
		return Lease{}, fmt.Errorf("send a heartbeat for %s: %w", name(service, id), err)
	}
	return l, nil
}

// Deregister removes an instance. It is in no later answer.
func (c *Client) Deregister(ctx context.Context, service, id string) (Removal, error) {
	r, err := c.remove(ctx, service, id, nil)
	if err != nil {
		return r, fmt.Errorf("deregister %s: %w", name(service, id), err)
	}
	return r, nil
}

// Drain takes an instance out of its service's answers, but leaves it under its
// own name, so that who found it before can still connect, until the removal's
// SafeAfter, when the server removes it.
func (c *Client) Drain(ctx context.Context, service, id string) (Removal, error) {
	r, err := c.remove(ctx, service, id, url.Values{"drain": {"true"}})
	if err != nil {
		return r, fmt.Errorf("drain %s: %w", name(service, id), err)
	}
	return r, nil
}

func (c *Client) remove(ctx context.Context, service, id string, query url.Values) (r Removal, err error) {
	said, err := c.doWithReply(ctx, call{method: http.MethodDelete, path: instancePath(service, id, ""), query: query}, &r)
	if err != nil {
		return Removal{}, err
	}
	r.SafeIn = untilSafe(r.SafeAfter, time.Now(), said.header.Get("Date"))
	return r, nil
}

// untilSafe returns how long it is from now until a moment on the server's
// clock. The Date header tells that clock's time to the second; where ours says
// something else, it is the server's that counts.
func untilSafe(at, now time.Time, date string) time.Duration {
	server, err := http.ParseTime(date)
	if skew := now.Sub(server); err == nil && (skew < -time.Second || skew > 2*time.Second) {
		now = server // at most a second early, so the wait is not too short
	}
	return max(0, at.Sub(now))
}
