package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A flood of DNS queries at full speed, while 10,000 instances with leases of
// 5 s send their heartbeats one by one, over 100 connections: none is lost, and
// heartbeats are answered in time.
func TestHeartbeatsInDNSFlood(t *testing.T) { // not parallel: its load is not for the others
	lasts := 6 * time.Second
	if torture() {
		lasts = time.Minute
	}
	r := startRoster(t, t.TempDir())
	f := &fleet{r: r, n: 10_000, services: 100, conns: 100, ttl: 5, every: 5 * time.Second / 3}
	f.register(t)
	f.watch(t)
	beating := f.beat()
	before := r.answered(t)
	stop := startFlood(t, r.dns)
	wait(lasts)
	resident := r.resident(t)
	sent, answered := stop(), r.answered(t)-before
	beating()
	t.Logf("%d queries were sent in %v, %d answered; %d MiB resident", sent, lasts, answered, resident>>20)
	if answered < int(lasts/time.Second)*10_000 {
		t.Errorf("only %d queries were answered: that was no flood", answered)
	}
	if resident > 256<<20 {
		t.Errorf("%d MiB resident, want 256 at most", resident>>20)
	}
	f.judge(t, 500*time.Millisecond)
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
