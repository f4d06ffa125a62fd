package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cost is what etcd does in a second.
type cost struct{ transactions, proposals, puts, bytes float64 } // bytes: in the log on disk

// What renewals cost etcd, by its own metrics: under 200 transactions a second at
// 100,000 instances with a lease of 30 s, renewed every 10 s; and of ten times the
// instances ten times as much at most.
func TestEtcdCost(t *testing.T) {
	t.Parallel()
	steps, lasts, every := []int{500, 5_000}, 4*time.Second, 2*time.Second
	if torture() {
		steps, lasts, every = []int{1_000, 10_000, 100_000}, 20*time.Second, 10*time.Second
	}
	h := newHosts(t)
	f := &batches{h: h, every: every}
	defer f.stop()
	var last cost
	for _, n := range steps {
		begin := time.Now()
		f.grow(t, n)
		registered := time.Since(begin)
		f.round(t)
		c := h.cost(t, lasts)
		if failed := f.failed.Load(); failed != nil {
			t.Error(*failed)
		}
		t.Logf("%6d instances, registered in %v: etcd commits %.1f transactions a second, %.1f proposals, %.1f puts, %.0f octets in its log; %d batches, the longest took %v",
			n, registered.Round(time.Millisecond), c.transactions, c.proposals, c.puts, c.bytes, f.sent.Load(), time.Duration(f.longest.Load()).Round(time.Millisecond))
		if c.transactions > 200 || c.proposals > 200 {
			t.Errorf("%d instances cost %v transactions and %v proposals a second, want 200 at most", n, c.transactions, c.proposals)
		}
		if last.proposals > 0 && (c.proposals > 10*last.proposals || c.bytes > 10*last.bytes) {
			t.Errorf("ten times the instances cost more than ten times as much: %+v after %+v", c, last)
		}
		if c.transactions == 0 || c.bytes == 0 {
			t.Error("etcd does not say what it did")
		}
		last = c
	}
	f.stop()
	for _, s := range h.servers {
		if l, ok := s.list(); !ok || len(l.ids) != steps[len(steps)-1] {
			t.Errorf("%s lists %d instances, want %d", s.name, len(l.ids), steps[len(steps)-1])
		}
	}
	h.healthy(t, h.goroutines())
}

// batches are instances that are renewed in batches of 1,000, as an agent on each
// host would.
type batches struct {
	h       *hosts
	every   time.Duration // from one renewal to the next
	n       int
	cancel  context.CancelFunc
	g       sync.WaitGroup
	sent    atomic.Int64
	longest atomic.Int64           // a Duration
	failed  atomic.Pointer[string] // what went wrong last
}

const batchSize = 1_000

// path is that of an instance: 100 services share them.
func (f *batches) path(k int) (service, id string) {
	return fmt.Sprintf("c%d", k%100), fmt.Sprintf("i%d", k)
}

// grow registers more instances, up to n, through all servers at the same time,
// and has all of them renewed from then on.
func (f *batches) grow(t *testing.T, n int) {
	t.Helper()
	const at = 96
	begin := f.n
	var g sync.WaitGroup
	for c := range at {
		g.Go(func() {
			s := f.h.servers[c%len(f.h.servers)]
			for k := begin + c; k < n; k += at {
				service, id := f.path(k)
				body := fmt.Sprintf(`{"address":"10.%d.%d.%d","port":80,"ttl":30}`, k>>16, k>>8&255, k&255)
				path := "/v1/services/" + service + "/instances/" + id
				status, b, err := s.call(http.MethodPut, path, body)
				want := []int{http.StatusCreated}
				for try := 0; status == http.StatusServiceUnavailable && try < 5; try++ { // a busy machine: it says to try again
					pause(t.Context(), time.Second)
					want = []int{http.StatusCreated, http.StatusOK} // it may have been made
					status, b, err = s.call(http.MethodPut, path, body)
				}
				if err != nil || !slices.Contains(want, status) {
					t.Errorf("register %s: %d %s %v", id, status, b, err)
					return
				}
			}
		})
	}
	// They are to be renewed meanwhile: at 100,000 it takes longer than a lease.
	f.beat(begin, n)
	g.Wait()
	f.n = n
}

// beat renews those from begin to end until stop is called. One that is not there
// yet is no mistake at first: see round.
func (f *batches) beat(begin, end int) {
	ctx, cancel := context.WithCancel(context.Background())
	if stop := f.cancel; stop != nil {
		f.cancel = func() { stop(); cancel() }
	} else {
		f.cancel = cancel
	}
	for first := begin; first < end; first += batchSize {
		var body strings.Builder
		for k := first; k < min(first+batchSize, end); k++ {
			service, id := f.path(k)
			fmt.Fprintf(&body, `,{"service":%q,"id":%q}`, service, id)
		}
		text := `{"instances":[` + body.String()[1:] + `]}`
		s := f.h.servers[first/batchSize%len(f.h.servers)]
		f.g.Go(func() {
			// Spread evenly, as clients that started at any time are.
			pause(ctx, f.every*time.Duration(first-begin)/time.Duration(end-begin))
			for ctx.Err() == nil {
				f.renew(s, text)
				pause(ctx, f.every)
			}
		})
	}
}

func (f *batches) renew(s *server, body string) {
	begin := time.Now()
	status, b, err := s.call(http.MethodPost, "/v1/heartbeats", body)
	if took := int64(time.Since(begin)); took > f.longest.Load() {
		f.longest.Store(took)
	}
	f.sent.Add(1)
	switch {
	case err != nil || status != http.StatusOK:
		f.fail("a batch of heartbeats to %s: %d %.200s %v", s.name, status, b, err)
	case strings.Contains(string(b), `"unknown"`):
		f.fail("a batch of heartbeats to %s: %d unknown", s.name, strings.Count(string(b), `"unknown"`))
	}
}

func (f *batches) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	f.failed.Store(&s)
}

// round waits until as many batches have been sent as renew all once, and forgets
// what went wrong up to now: some were not registered yet.
func (f *batches) round(t *testing.T) {
	t.Helper()
	want := f.sent.Load() + int64((f.n+batchSize-1)/batchSize) + 1
	until(t, 4*f.every, "all are renewed", func() bool { return f.sent.Load() >= want })
	f.failed.Store(nil)
}

func (f *batches) stop() {
	if f.cancel != nil {
		f.cancel()
	}
	f.g.Wait()
}

// cost returns what etcd does a second, over some time.
func (h *hosts) cost(t *testing.T, over time.Duration) cost {
	t.Helper()
	before, begin := h.spent(t), time.Now()
	pause(t.Context(), over)
	after, took := h.spent(t), time.Since(begin).Seconds()
	return cost{
		(after.transactions - before.transactions) / took, (after.proposals - before.proposals) / took,
		(after.puts - before.puts) / took, (after.bytes - before.bytes) / took,
	}
}

// spent returns what a member says that it has done. All members do the same.
func (h *hosts) spent(t *testing.T) cost {
	t.Helper()
	m := h.fetch("http://" + h.members[0].client + "/metrics")
	c := cost{
		value(m, "etcd_mvcc_txn_total"), value(m, "etcd_server_proposals_committed_total"),
		value(m, "etcd_mvcc_put_total"), value(m, "etcd_disk_wal_write_bytes_total"),
	}
	if !(c.proposals > 0) {
		t.Fatalf("etcd has no metrics: %.200q", m)
	}
	return c
}
