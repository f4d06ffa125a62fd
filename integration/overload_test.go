package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lasting is for how long a load runs.
func lasting() time.Duration {
	if torture() {
		return time.Minute
	}
	return 6 * time.Second
}

// inTime is how long a heartbeat may take: the 99th of 100. In the short form
// other tests run beside it, and then it is the lease alone that counts.
func inTime() time.Duration {
	if torture() {
		return 500 * time.Millisecond
	}
	return 5 * time.Second
}

// A flood of DNS queries at full speed, while 10,000 instances with leases of
// 5 s send their heartbeats one by one, over 100 connections: none is lost, and
// heartbeats are answered in time.
func TestHeartbeatsInDNSFlood(t *testing.T) { // not parallel: its load is not for the others
	lasts := lasting()
	r := startRoster(t, t.TempDir())
	f := &fleet{r: r, n: 10_000, services: 100, conns: 100, ttl: 5, every: 5 * time.Second / 3}
	f.register(t)
	f.watch(t)
	beating := f.beat()
	before := r.answered(t)
	stop := startFlood(t, "dns", r.dns)
	wait(lasts)
	resident := r.resident(t)
	sent, answered := stop(), r.answered(t)-before
	beating()
	t.Logf("%d queries were sent in %v, %d answered; %d MiB resident", sent, lasts, answered, resident>>20)
	if answered < int(lasts/time.Second)*2_000 {
		t.Errorf("only %d queries were answered: that was no flood", answered)
	}
	if resident > 256<<20 {
		t.Errorf("%d MiB resident, want 256 at most", resident>>20)
	}
	f.judge(t, inTime())
}

// Clients that send nothing, or half of a request, from thousands of
// connections, and registrations as fast as they can, beside 2,000 instances
// with leases of 5 s. And 3,000 clients that watch one service, half of which
// read nothing, while it changes as fast as it can. Heartbeats are answered in
// time, nobody is lost, who is silent goes at the lease's end, and memory stays
// within its bound.
func TestHeartbeatsInHTTPFlood(t *testing.T) { // not parallel: its load is not for the others
	for kind, limit := range map[string]int{"http": 768 << 20, "watch": 512 << 20} {
		t.Run(kind, func(t *testing.T) {
			r := startRoster(t, t.TempDir())
			f := &fleet{r: r, n: 2_000, services: 20, conns: 100, ttl: 5, every: 5 * time.Second / 3}
			f.register(t)
			beating := f.beat()
			stop := startFlood(t, kind, r.http)
			dies := r.register(t, "mortal", "a1", `{"address":"10.0.0.1","ttl":3}`)
			most, last := 0, time.Time{} // of its memory; when DNS had the silent one
			for end := time.Now().Add(lasting()); time.Now().Before(end); wait(100 * time.Millisecond) {
				most = max(most, r.resident(t))
				asked := time.Now()
				there, _, err := addresses(r.dns, "mortal.service.")
				if err != nil || len(there) == 0 && time.Now().Before(dies.Expires) {
					t.Errorf("%v before the lease's end DNS has %q, %v", time.Until(dies.Expires), there, err)
				}
				if len(there) > 0 {
					last = asked
				}
			}
			if late, extended := last.Sub(dies.Expires), r.extended(t); late > extended+100*time.Millisecond {
				t.Errorf("who was silent was in DNS %v after the lease's end; stalls had extended it by %v", late, extended)
			}
			sent := stop()
			beating()
			t.Logf("%s: %d registrations in %v; %d MiB resident at most", kind, sent, lasting(), most>>20)
			if most > limit {
				t.Errorf("%d MiB resident, want %d at most", most>>20, limit>>20)
			}
			f.judge(t, inTime())
		})
	}
}

// wait lets the load run for as long.
func wait(d time.Duration) { <-time.After(d) }

// answered returns how many DNS queries the server has answered.
func (r *roster) answered(t *testing.T) int {
	t.Helper()
	_, _, body := get(t, "http://"+r.http+"/metrics")
	return int(sum(body, "roster_dns_queries_total"))
}

// sum adds the values of all series of a metric.
func sum(metrics, name string) (total float64) {
	for line := range strings.Lines(metrics) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.HasPrefix(series, name+"{") {
			v, _ := strconv.ParseFloat(value, 64)
			total += v
		}
	}
	return total
}

// resident returns how much memory the server has.
func (r *roster) resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.Process.Pid))
	if err != nil {
		t.Skipf("the server's memory is not known here: %v", err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}
