// Package client is the Go client of roster's HTTP API. It needs the standard
// library only; importing it does not bring in the server.
//
// A program that offers a service makes a [Keeper]: it registers, sends the
// heartbeats, registers again where the server has forgotten it, and takes the
// program out of DNS before it stops. Whoever wants to use a service asks DNS,
// and needs nothing of this; but [Client.Watch] tells changes as they happen,
// and [Client.Services] and [Client.Instances] list what there is.
//
// Requests go to the first of several servers that answers. Every error that a
// server gave is an [*Error], whose text says what to change; where none
// answers it is an [*UnreachableError].
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultServer is where the server is unless it is told otherwise.
const DefaultServer = "http://127.0.0.1:8054"

// attemptTimeout is how long one server has to answer, before another is
// asked.
const attemptTimeout = 10 * time.Second

// Client speaks to the HTTP API of one or several servers. The zero Client is
// ready for a server on this host. All its methods may be called concurrently.
// It must not be copied after its first use, nor its fields changed.
type Client struct {
	// Servers are the URLs of servers with one registry between them, such as
	// https://roster.example.com:8054. A request goes to the one that answered
	// last, and from there to the next where it does not answer or says 5xx, and
	// one that reads also where it is cut off from the others.
	// Default [DefaultServer].
	Servers []string

	// Token goes with every request. Default none.
	Token string

	// HTTP does the requests: set its Transport for TLS, client certificates
	// and proxies. A Timeout of it also ends watches, which then resume.
	// Default [http.DefaultClient].
	HTTP *http.Client

	// OnStale is told when an answer had to be taken from a server that is cut
	// off, so that it may be out of date, and what becomes of a watch on such a
	// server. It may be called concurrently, and by a watch from another
	// goroutine than that of its caller. Default: nobody is told.
	OnStale func(Stale)

	last atomic.Uint32 // the server that answered last, an index
}

// call is a request to whichever server answers.
type call struct {
	method  string
	path    string
	query   url.Values
	header  http.Header
	body    any           // goes out as JSON; nil: none
	timeout time.Duration // for each server; 0: attemptTimeout
}

// do does a call and decodes the reply into out.
func (c *Client) do(ctx context.Context, q call, out any) error {
	_, err := c.doWithReply(ctx, q, out)
	return err
}

// reply is what a reply says beside its body. Of an [*Error] it is the header
// alone.
type reply struct {
	status int
	header http.Header
}

// doWithReply is do, and returns what else the reply says.
func (c *Client) doWithReply(ctx context.Context, q call, out any) (last reply, err error) {
	var body []byte
	if q.body != nil {
		if body, err = json.Marshal(q.body); err != nil {
			return reply{}, fmt.Errorf("encode the request: %w", err)
		}
	}
	err = c.each(ctx, func(server *url.URL) error {
		r, b, err := c.attempt(ctx, server, q, body)
		take := func() error {
			if last = r; err != nil {
				return err
			}
			if err := json.Unmarshal(b, out); err != nil {
				return fmt.Errorf("%w: %w", ErrUnreadable, err)
			}
			return nil
		}
		since, stale := staleSince(r.header)
		if !stale || q.method != http.MethodGet {
			return take()
		}
		q = q.hurried() // whoever knows better knows it now
		return &staleAnswer{Stale{Server: shown(server), Since: since}, take}
	})
	return last, err
}

// hurried returns the call without a wait, and with less patience.
func (q call) hurried() call {
	q.timeout = betterTimeout
	if q.query.Has("wait") {
		q.query = maps.Clone(q.query)
		q.query.Set("wait", "1ms")
	}
	return q
}

// each asks one server after the other until one has answered with what no
// other could answer better. Otherwise it takes the first stale answer, or
// returns what the last one said that said anything. Of several servers the error
// names the one that spoke.
func (c *Client) each(ctx context.Context, ask func(server *url.URL) error) error {
	servers, err := c.servers()
	if err != nil {
		return err
	}
	by := func(at uint32, err error) error {
		if err == nil || len(servers) == 1 {
			return err
		}
		return fmt.Errorf("%s: %w", shown(servers[at]), err)
	}
	unreachable := &UnreachableError{}
	var (
		said    error
		stale   *staleAnswer
		staleAt uint32
	)
	first := c.last.Load()
	for k := range servers {
		at := (first + uint32(k)) % uint32(len(servers))
		err := ask(servers[at])
		var e *Error
		switch {
		case errors.As(err, new(*staleAnswer)):
			if stale == nil {
				stale, _ = errors.AsType[*staleAnswer](err)
				staleAt = at
			}
		case err == nil, errors.As(err, &e) && !e.elsewhere() && (stale == nil || errors.Is(err, ErrNotFound)):
			c.last.Store(at)
			return by(at, err)
		case errors.Is(err, ErrUnreadable):
			said = by(at, err)
		case ctx.Err() != nil && stale == nil:
			return fmt.Errorf("ask %s: %w", servers[at].Host, context.Cause(ctx))
		case e != nil:
			said = by(at, err)
		default:
			unreachable.add(shown(servers[at]), err)
		}
	}
	switch {
	case stale != nil:
		c.last.Store(staleAt)
		c.reportStale(stale.Stale)
		return by(staleAt, stale.take())
	case said != nil:
		return said
	}
	return unreachable
}

// attempt asks one server.
func (c *Client) attempt(ctx context.Context, server *url.URL, q call, body []byte) (reply, []byte, error) {
	if q.timeout == 0 {
		q.timeout = attemptTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	resp, err := c.send(ctx, server, q, body)
	if e, ok := errors.AsType[*Error](err); ok {
		return reply{header: e.header}, nil, err
	}
	if err != nil {
		return reply{}, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, nil, fmt.Errorf("read the reply: %w", err)
	}
	return reply{resp.StatusCode, resp.Header}, b, nil
}

// send sends a request to one server. A reply that is no success is an
// [*Error].
func (c *Client) send(ctx context.Context, server *url.URL, q call, body []byte) (*http.Response, error) {
	u := *server
	if q.path != "" {
		u = *server.JoinPath(q.path)
	}
	u.RawQuery = q.query.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if q.header != nil {
		req.Header = q.header.Clone()
	}
	req.Header.Set("User-Agent", "roster-client")
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(req, resp)
	}
	return resp, nil
}

// shown is what people are shown of a server's URL: it may have a password for a
// proxy.
func shown(server *url.URL) string { return strings.TrimSuffix(server.Redacted(), "/") }

// servers reads Servers.
func (c *Client) servers() ([]*url.URL, error) {
	list := c.Servers
	if len(list) == 0 {
		list = []string{DefaultServer}
	}
	urls := make([]*url.URL, len(list))
	for k, s := range list {
		u, err := ParseServer(s)
		if err != nil {
			return nil, err
		}
		urls[k] = u
	}
	return urls, nil
}

// ParseServer reads the URL of a server. Without a scheme it is http.
func ParseServer(s string) (*url.URL, error) {
	text := s
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is %w; write it as %s", s, ErrServer, DefaultServer)
	}
	return u, nil
}
