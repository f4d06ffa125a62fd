package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Stale tells of a server that is cut off from the store which it shares with
// others: what it says may be out of date.
type Stale struct {
	Server string        // its URL, without its password
	Since  time.Duration // for how long nothing that it says can be confirmed, in whole seconds
	From   string        // what it is cut off from, such as etcd; "" where it did not say

	// Watching is, for a watch, the server that is watched now: another one that
	// is not cut off, or this one where there is none. "" for an answer that was
	// taken because none was better.
	Watching string

	Over bool // it is cut off no longer
}

// betterTimeout is how long another server has to know better than one that is
// cut off.
const betterTimeout = 2 * time.Second

// staleAnswer is one of a server that is cut off, so that another may have a
// better one.
type staleAnswer struct {
	Stale
	take func() error // takes it nonetheless
}

func (s *staleAnswer) Error() string { return s.Server + " is cut off" }

// staleSince reads since when a server is cut off, and whether it is.
func staleSince(h http.Header) (since time.Duration, stale bool) {
	n, err := strconv.Atoi(h.Get("Roster-Stale"))
	return time.Duration(n) * time.Second, err == nil
}

func (c *Client) reportStale(s Stale) {
	if c.OnStale != nil {
		c.OnStale(s)
	}
}

// errMoved ends a stream because another server is to be watched.
var errMoved = errors.New("another server is watched")

// seeker looks for a server that is better than one whose stream says that it is
// cut off.
type seeker struct {
	*watch
	server *url.URL
	moved  func() // ends the stream

	stop    context.CancelFunc // nil: it does not look
	running sync.WaitGroup
	told    bool   // that it is cut off, and watched all the same
	backend string // what it is cut off from, or was
}

// hear takes in what the stream says of its server.
func (s *seeker) hear(ctx context.Context, data []byte) error {
	var d struct {
		Stale   bool
		Seconds int
		Backend string
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("event stale: %w: %w", ErrUnreadable, err)
	}
	s.end()
	if d.Stale {
		s.backend = d.Backend // it does not say so again when that is over
	}
	stale := Stale{
		Server: shown(s.server), Watching: shown(s.server),
		Since: time.Duration(d.Seconds) * time.Second, From: s.backend,
	}
	if d.Stale {
		ctx, s.stop = context.WithCancel(ctx)
		q, pause := s.call(), s.retry
		q.method = http.MethodHead
		s.running.Go(func() { s.seek(ctx, q, stale, pause) })
	} else if s.told {
		s.told = false
		stale.Over = true
		s.client.reportStale(stale)
	}
	return nil
}

// end ends the looking.
func (s *seeker) end() {
	if s.stop != nil {
		s.stop()
		s.running.Wait()
	}
}

// seek looks again and again, with pauses like those between two connections, so
// that servers which come and go are not gone to and fro between.
func (s *seeker) seek(ctx context.Context, q call, stale Stale, pause time.Duration) {
	for ; wait(ctx, pause/2+rand.N(pause/2)); pause = min(2*pause, lastRetry) {
		if at, ok := s.fresh(ctx, q); ok {
			s.from, s.to = &stale, at
			s.moved()
			return
		}
		if !s.told && ctx.Err() == nil {
			s.told = true
			s.client.reportStale(stale)
		}
	}
}

// fresh returns another server that answers the request and is not cut off.
func (s *seeker) fresh(ctx context.Context, q call) (at uint32, ok bool) {
	servers, err := s.client.servers()
	if err != nil {
		return 0, false
	}
	for k, server := range servers {
		if server.String() == s.server.String() {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, betterTimeout)
		resp, err := s.client.send(asking, server, q, nil)
		cancel()
		if err != nil {
			continue
		}
		resp.Body.Close()
		if _, stale := staleSince(resp.Header); !stale {
			return uint32(k), true
		}
	}
	return 0, false
}
