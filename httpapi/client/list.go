package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Service is a service in the list of services.
type Service struct {
	Name      string   `json:"name"`
	Instances int      `json:"instances"`
	Up        int      `json:"up"`
	Starting  int      `json:"starting,omitempty"`
	Down      int      `json:"down,omitempty"`
	Draining  int      `json:"draining,omitempty"`
	Tags      []string `json:"tags"`
}

// ServiceList is all services, sorted by name.
type ServiceList struct {
	Revision uint64    `json:"revision"` // the registry's
	Services []Service `json:"services"`
}

// InstanceList is the instances of a service, sorted by ID, whatever their
// status.
type InstanceList struct {
	Revision  uint64     `json:"revision"` // the service's last change
	Service   string     `json:"service"`
	Instances []Instance `json:"instances"`
}

// Query chooses what a list has. The zero Query is for all of it, as it is now.
type Query struct {
	Tags   []string // only instances with all of these
	Status Status   // only instances with this one

	// Wait is how long to wait until the list has changed since the revision
	// After, at most 10 minutes; then it comes as it is. 0: do not wait.
	Wait  time.Duration
	After uint64
}

func (q Query) values() url.Values {
	v := url.Values{}
	for _, t := range q.Tags {
		v.Add("tag", t)
	}
	if q.Status != "" {
		v.Set("status", string(q.Status))
	}
	if q.Wait > 0 {
		v.Set("wait", q.Wait.String())
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	return v
}

// Services lists the services that the token may read.
func (c *Client) Services(ctx context.Context, q Query) (list ServiceList, err error) {
	err = c.do(ctx, call{method: http.MethodGet, path: "/v1/services", query: q.values(), timeout: q.Wait + attemptTimeout}, &list)
	if err != nil {
		return ServiceList{}, fmt.Errorf("list the services: %w", err)
	}
	return list, nil
}

// Instances lists the instances of a service. The error is an [ErrNotFound]
// where there is no such service and no wait was asked for.
func (c *Client) Instances(ctx context.Context, service string, q Query) (list InstanceList, err error) {
	err = c.do(ctx, call{method: http.MethodGet, path: "/v1/services/" + url.PathEscape(service), query: q.values(), timeout: q.Wait + attemptTimeout}, &list)
	if err != nil {
		return InstanceList{}, fmt.Errorf("list the instances of %s: %w", service, err)
	}
	return list, nil
}

// Instance returns one instance. The error is an [ErrNotFound] where it is not
// registered.
func (c *Client) Instance(ctx context.Context, service, id string) (i Instance, err error) {
	err = c.do(ctx, call{method: http.MethodGet, path: instancePath(service, id, "")}, &i)
	if err != nil {
		return Instance{}, fmt.Errorf("get %s: %w", name(service, id), err)
	}
	return i, nil
}
