package httpapi

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rosterdns/roster/store"
)

// This file is Prometheus's HTTP service discovery: what there is to scrape.

// targetGroup is one instance, as Prometheus reads targets. Each is a group of
// its own, because labels are a group's.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`

	service, id string // for the order
}

// targetFilter is what the request asks for.
type targetFilter struct {
	filter
	services []string // any of them; none: all
	port     string   // a named port; "": the instance's own
}

func (s *Server) readTargetFilter(r *http.Request) (targetFilter, error) {
	f := targetFilter{}
	var err error
	if f.filter, err = s.readFilter(r, "port", "service", "status", "tag"); err != nil {
		return f, err
	}
	if f.status == nil {
		f.status = new(store.Up)
	}
	q := r.URL.Query()
	for _, name := range q["service"] {
		name = store.FoldName(name)
		if err := s.grant(r).check(Read, name); err != nil {
			return f, err
		}
		f.services = append(f.services, name)
	}
	slices.Sort(f.services)
	f.services = slices.Compact(f.services) // no target twice
	switch list := q["port"]; {
	case len(list) > 1 || len(list) == 1 && list[0] == "":
		return f, problemf(http.StatusBadRequest, "port: %q; send the name of one port, or leave it out for the instances' own", list)
	case len(list) == 1:
		f.port = store.FoldName(list[0])
	}
	return f, nil
}

// targets is GET /v1/prometheus.
func (s *Server) targets(w http.ResponseWriter, r *http.Request) error {
	f, err := s.readTargetFilter(r)
	if err != nil {
		return err
	}
	grant := s.grant(r)
	return s.writeList(w, r, "", func() any { return s.targetGroups(f, grant) })
}

func (s *Server) targetGroups(f targetFilter, grant *Grant) []targetGroup {
	now := s.registry.Now()
	groups := []targetGroup{}
	add := func(v *store.View) bool {
		if v == nil || !grant.May(Read, v.Service) {
			return true
		}
		for m := range v.Members(now) {
			if port := f.portOf(m.Instance); port != 0 && f.takes(m.Instance) {
				groups = append(groups, s.target(m.Instance, port))
			}
		}
		return true
	}
	if len(f.services) == 0 {
		s.registry.Services(add)
	}
	for _, name := range f.services {
		add(s.registry.Service(name))
	}
	slices.SortFunc(groups, func(a, b targetGroup) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.id, b.id))
	})
	return groups
}

func (f targetFilter) portOf(i *store.Instance) uint16 {
	if f.port == "" {
		return i.Port
	}
	return i.PortNamed(f.port)
}

// target returns an instance as a target. It is one target, however many
// addresses there are: otherwise it would be scraped as if it were several.
func (s *Server) target(i *store.Instance, port uint16) targetGroup {
	const prefix = "__meta_roster_"
	labels := map[string]string{
		prefix + "service":  i.Service,
		prefix + "instance": i.ID,
		prefix + "dns_name": s.cfg.Name(i),
		prefix + "protocol": i.Protocol.String(),
		prefix + "status":   i.Status.String(),
		prefix + "tags":     "," + strings.Join(i.Tags, ",") + ",",
	}
	var addresses []string
	for _, a := range i.Addresses {
		addresses = append(addresses, a.String())
	}
	labels[prefix+"addresses"] = "," + strings.Join(addresses, ",") + ","
	if i.Port != 0 {
		labels[prefix+"port"] = strconv.Itoa(int(i.Port))
	}
	// Two names may become the same label: then the first by name has it.
	once := func(name, value string) {
		if _, taken := labels[name]; !taken {
			labels[name] = value
		}
	}
	for _, p := range i.Ports {
		once(prefix+"port_"+labelName(p.Name), strconv.Itoa(int(p.Port)))
	}
	for _, p := range i.Meta {
		once(prefix+"meta_"+labelName(p.Key), p.Value)
	}
	return targetGroup{
		Targets: []string{net.JoinHostPort(addresses[0], strconv.Itoa(int(port)))}, // sorted: IPv4 first
		Labels:  labels,
		service: i.Service, id: i.ID,
	}
}

// labelName makes a text part of a label's name in Prometheus.
func labelName(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return c
		}
		return '_'
	}, s)
}
