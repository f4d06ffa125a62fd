package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/rosterdns/roster/dnsserver"
	"github.com/rosterdns/roster/httpapi"
	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/etcd"
)

// This file is all that knows of Prometheus: the other packages count in plain
// numbers, which are read here when somebody asks. docs/operations.md has a
// table of the metrics, which a test holds against them. No label has values
// that clients make up.

// collector reads what the parts of a running server have counted.
type collector struct {
	registry *store.Registry
	dns      *dnsserver.Server
	http     *httpapi.Server
	backend  store.Backend
}

var _ prometheus.Collector = collector{}

// newMetrics returns the metrics of the process itself; the server's join them
// when it is made.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe implements [prometheus.Collector]. It says nothing: which series
// there are shows when they are collected.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	out := series{ch}
	v, goVersion := build()
	out.gauge("roster_build_info", "What is running: always 1.", 1, "version", v, "goversion", goVersion)
	c.collectRegistry(out)
	c.collectDNS(out)
	c.collectHTTP(out)
	switch b := c.backend.(type) {
	case *bolt.Store:
		collectStore(out, b.Counts())
	case *etcd.Store:
		collectEtcd(out, b.Counts())
	}
}

func (c collector) collectRegistry(out series) {
	services, instances := 0, map[store.Status]int{store.Up: 0, store.Starting: 0, store.Down: 0, store.Draining: 0}
	now := c.registry.Now()
	for v := range c.registry.Services {
		before := services
		for m := range v.Members(now) {
			services = before + 1
			instances[m.Status]++
		}
	}
	out.gauge("roster_services", "Services with a live instance.", float64(services))
	for s, n := range instances {
		out.gauge("roster_instances", "Live instances by status.", float64(n), "status", s.String())
	}
	out.gauge("roster_revision", "The registry's revision, which is the zone's serial modulo 2^32.", float64(c.registry.Revision()))
	counts := c.registry.Counts()
	for kind, n := range counts.Changes {
		out.counter("roster_changes_total", "Changes of instances by kind.", n, "kind", kind.String())
	}
	out.counter("roster_registrations_shed_total", "Registrations that were refused because too many were under way.", counts.Shed)
	out.counter("roster_heartbeats_total", "Heartbeats that renewed something, and registrations of what is live already.", counts.Heartbeats)
	out.counter("roster_stalls_total", "Times that the server did not run for over 100 ms.", counts.Stalls)
	out.send("roster_stall_extension_seconds_total", "By how much all leases have been extended because of stalls.",
		prometheus.CounterValue, counts.Extended.Seconds(), nil)
	out.histogram("roster_heartbeat_lease_left_ratio", "How much of the lease was left when a heartbeat came.", counts.LeaseLeft, 1000)
}

func (c collector) collectDNS(out series) {
	for _, q := range c.dns.Counts() {
		out.counter("roster_dns_queries_total", "Queries answered, by transport, type and rcode.", q.N,
			"transport", q.Transport, "type", q.Type, "rcode", q.Rcode)
	}
	t := c.dns.Totals()
	out.counter("roster_dns_truncated_total", "Answers over UDP that did not fit and said so (TC).", t.Truncated)
	out.counter("roster_dns_cut_total", "Answers too large for any message, of which a part was given.", t.Cut)
	out.counter("roster_dns_ordinary_total", "Queries that the fast path left to the ordinary one.", t.Ordinary)
	out.counter("roster_dns_dropped_total", "Packets that got no answer.", t.Dropped)
	out.counter("roster_dns_refused_connections_total", "Connections over the limits.", t.Refused)
	out.counter("roster_dns_rate_limited_total", "Responses over the rate limit, in whose place TC or BADCOOKIE went out.", t.Limited)
	out.gauge("roster_dns_connections", "Open connections.", float64(t.Conns))
}

func (c collector) collectHTTP(out series) {
	counts, times := c.http.Requests()
	for _, r := range counts {
		out.counter("roster_http_requests_total", "Requests by route, method and status.", r.N,
			"route", r.Route, "method", r.Method, "status", statusLabel(r.Status))
	}
	for _, r := range times {
		out.histogram("roster_http_request_duration_seconds", "How long requests took, by route.", r.Took, 1e9, "route", r.Route)
	}
	open, closed := c.http.Connections()
	out.gauge("roster_http_connections", "Open connections.", float64(open))
	out.counter("roster_http_closed_connections_total", "Connections that were closed because there were too many.", closed)
	out.gauge("roster_http_watchers", "Open watches: streams of events, and GETs that wait.", float64(c.http.Watchers()))
	out.counter("roster_http_watchers_cut_total", "Watches that were cut because the client did not keep up.", c.http.WatchersCut())
	out.counter("roster_http_unknown_tokens_total", "Requests with a token that is not known.", c.http.UnknownTokens())
}

func statusLabel(status int) string {
	if status == 0 {
		return "other"
	}
	return strconv.Itoa(status)
}

func collectStore(out series, c bolt.Counts) {
	out.histogram("roster_store_commit_duration_seconds", "How long transactions took to be written and synced.", c.Took, 1e9)
	out.histogram("roster_store_commit_changes", "How many changes shared a transaction.", c.Changes, 1)
	out.counter("roster_store_commit_failures_total", "Transactions that could not be made durable.", c.Failed)
	writable := 1.0
	if c.Troubled {
		writable = 0
	}
	out.gauge("roster_store_writable", "Whether the store can be written: 0 from the first failure until 5 s without one.", writable)
}

func collectEtcd(out series, c etcd.Counts) {
	cutOff := 0.0
	if c.CutOff {
		cutOff = 1
	}
	out.gauge("roster_etcd_cut_off", "Whether this server is cut off from etcd.", cutOff)
	out.counter("roster_etcd_cut_offs_total", "Times that this server was cut off from etcd.", c.CutOffs)
	out.gauge("roster_etcd_lag_seconds", "How old the state is that etcd has confirmed to this server last.", c.Lag.Seconds())
	out.gauge("roster_etcd_other_servers", "Other servers that are up on the same registry.", float64(c.Servers))
	out.counter("roster_etcd_changes_total", "Transactions of changes that were written.", c.Changes)
	out.counter("roster_etcd_conflicts_total", "Changes that were decided again because another server was faster.", c.Conflicts)
	out.counter("roster_etcd_renewals_total", "Leases that were written in batches.", c.Renewed)
	out.histogram("roster_etcd_batch_leases", "How many leases were in a batch.", c.Batches, 1)
	out.histogram("roster_etcd_write_duration_seconds", "How long it took until what was written had come back by the watch.", c.Took, 1e9)
	out.counter("roster_etcd_failures_total", "Transactions that got no answer.", c.Failed)
	out.counter("roster_etcd_resyncs_total", "Times that everything was read again.", c.Resyncs)
}

// series are what a scrape gets.
type series struct{ to chan<- prometheus.Metric }

// counter and gauge take labels as names and values in turn.
func (s series) counter(name, help string, n uint64, labels ...string) {
	s.send(name, help, prometheus.CounterValue, float64(n), labels)
}

func (s series) gauge(name, help string, v float64, labels ...string) {
	s.send(name, help, prometheus.GaugeValue, v, labels)
}

func (s series) send(name, help string, kind prometheus.ValueType, v float64, labels []string) {
	desc, values := describe(name, help, labels)
	s.to <- prometheus.MustNewConstMetric(desc, kind, v, values...)
}

// histogram sends a distribution whose numbers are in so many to the metric's
// unit.
func (s series) histogram(name, help string, d store.Distribution, unit float64, labels ...string) {
	desc, values := describe(name, help, labels)
	buckets, n := map[float64]uint64{}, uint64(0)
	for k, in := range d.Cells {
		n += in
		if k < len(d.Bounds) {
			buckets[float64(d.Bounds[k])/unit] = n
		}
	}
	s.to <- prometheus.MustNewConstHistogram(desc, n, float64(d.Sum)/unit, buckets, values...)
}

func describe(name, help string, labels []string) (desc *prometheus.Desc, values []string) {
	var names []string
	for k := 0; k < len(labels); k += 2 {
		names, values = append(names, labels[k]), append(values, labels[k+1])
	}
	return prometheus.NewDesc(name, help, names, nil), values
}
