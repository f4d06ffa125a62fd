package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rosterdns/roster/store"
)

// serviceJSON is a service in the list of services.
type serviceJSON struct {
	Name      string   `json:"name"`
	Instances int      `json:"instances"`
	Up        int      `json:"up"`
	Starting  int      `json:"starting,omitempty"`
	Down      int      `json:"down,omitempty"`
	Draining  int      `json:"draining,omitempty"`
	Tags      []string `json:"tags"`
}

func (j *serviceJSON) count(s store.Status) {
	j.Instances++
	switch s {
	case store.Up:
		j.Up++
	case store.Starting:
		j.Starting++
	case store.Down:
		j.Down++
	case store.Draining:
		j.Draining++
	}
}

// filter is what ?tag= and ?status= ask for.
type filter struct {
	tags   []string // all of them
	status *store.Status
	patience
	grant *Grant // of who asks
}

func (f filter) takes(i *store.Instance) bool {
	for _, t := range f.tags {
		if !slices.Contains(i.Tags, t) {
			return false
		}
	}
	return f.status == nil || i.Status == *f.status
}

// readFilter reads the filter where the named parameters are taken.
func (s *Server) readFilter(r *http.Request, names ...string) (filter, error) {
	if err := takeQuery(r, names...); err != nil {
		return filter{}, err
	}
	q := r.URL.Query() // takeQuery has seen that it can be read
	patience, err := readPatience(q)
	if err != nil {
		return filter{}, err
	}
	f := filter{tags: q["tag"], patience: patience, grant: s.grant(r)}
	switch list := q["status"]; {
	case len(list) > 1:
		return filter{}, problemf(http.StatusBadRequest, "status: %d of them; ask for one, or leave it out for all", len(list))
	case len(list) == 1:
		status, err := store.ParseStatus(list[0])
		if err != nil {
			return filter{}, err
		}
		f.status = &status
	}
	return f, nil
}

// takeQuery refuses query parameters that the request has no use for: a
// misspelt filter would otherwise be a filter left out.
func takeQuery(r *http.Request, names ...string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problemf(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for name := range q {
		if !slices.Contains(names, name) {
			what := "none is taken here"
			if len(names) > 0 {
				what = "taken are " + strings.Join(names, ", ")
			}
			return problemf(http.StatusBadRequest, "query parameter %q is not taken; %s", name, what)
		}
	}
	return nil
}

// servicesJSON is the list of services.
type servicesJSON struct {
	Revision store.Revision `json:"revision"`
	Services []serviceJSON  `json:"services"`
}

// services is GET /v1/services.
func (s *Server) services(w http.ResponseWriter, r *http.Request) error {
	f, err := s.readFilter(r, "after", "status", "tag", "wait")
	if err != nil {
		return err
	}
	if f.wait > 0 {
		return s.await(w, r, waiting{
			patience: f.patience,
			wants:    func(e *store.Event) bool { return s.changesSummary(f, e) },
			answer: func() (string, any) {
				list, _ := s.summaries(f)
				if !f.grant.all() {
					return "", list
				}
				return etag(list.Revision), list
			},
		})
	}
	leave, err := s.roomFor(r.Context(), w.Header(), "")
	if err != nil {
		return err
	}
	defer leave()
	list, settled := s.summaries(f)
	// A part of the list has no ETag: it changes with the rights as well.
	if settled && f.grant.all() && unchanged(w, r, list.Revision) {
		return nil
	}
	return writeJSON(w, http.StatusOK, list)
}

// summaries lists the services, and reports whether the list stays the same
// until the revision moves.
func (s *Server) summaries(f filter) (servicesJSON, bool) {
	revision, now := s.registry.Revision(), s.registry.Now() // before the views: never newer than they are
	list, settled := []serviceJSON{}, true
	for v := range s.registry.Services {
		if !f.grant.May(Read, v.Service) {
			continue
		}
		settled = settled && v.Settled(now)
		if j := summarize(v, f, now); j.Instances > 0 {
			list = append(list, j)
		}
	}
	slices.SortFunc(list, func(a, b serviceJSON) int { return cmp.Compare(a.Name, b.Name) })
	return servicesJSON{revision, list}, settled
}

func summarize(v *store.View, f filter, now store.Instant) serviceJSON {
	j := serviceJSON{Name: v.Service, Tags: v.Tags()}
	for m := range v.Members(now) {
		if f.takes(m.Instance) {
			j.count(m.Status)
		}
	}
	return j
}

// instancesJSON is a service.
type instancesJSON struct {
	Revision  store.Revision `json:"revision"`
	Service   string         `json:"service"`
	Instances []instanceJSON `json:"instances"`
}

// service is GET /v1/services/{service}.
func (s *Server) service(w http.ResponseWriter, r *http.Request) error {
	name, err := pathVar(r, "service")
	if err != nil {
		return err
	}
	f, err := s.readFilter(r, "after", "status", "tag", "wait")
	if err != nil {
		return err
	}
	if f.wait > 0 {
		if err := store.CheckLabel("service", name); err != nil {
			return err // nothing will ever be there
		}
		return s.await(w, r, waiting{
			patience: f.patience,
			service:  name,
			wants:    f.changesInstances,
			answer:   func() (string, any) { d := s.list(name, f); return etag(d.Revision), d },
		})
	}
	now := s.registry.Now()
	v := s.registry.Service(name)
	if v == nil || !anyLive(v, now) {
		return problemf(http.StatusNotFound, "service %s: %v", name, store.ErrNotFound)
	}
	if v.Settled(now) && unchanged(w, r, v.Revision) {
		return nil
	}
	return s.writeList(w, r, name, func() any { return instancesJSON{v.Revision, name, s.instances(v, f)} })
}

func anyLive(v *store.View, now store.Instant) bool {
	for range v.Members(now) {
		return true
	}
	return false
}

// list is a service as it is, which may be not there at all.
func (s *Server) list(name string, f filter) instancesJSON {
	revision := s.registry.Revision() // before the view: never newer than that
	v := s.registry.Service(name)
	if v == nil {
		return instancesJSON{revision, name, []instanceJSON{}}
	}
	return instancesJSON{v.Revision, name, s.instances(v, f)}
}

// instances returns the live ones that the filter leaves, by ID.
func (s *Server) instances(v *store.View, f filter) []instanceJSON {
	list := []instanceJSON{}
	for m := range v.Members(s.registry.Now()) {
		if f.takes(m.Instance) {
			list = append(list, s.describe(m.Instance, s.expires(m)))
		}
	}
	slices.SortFunc(list, func(a, b instanceJSON) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// unchanged sets the ETag of a reply and answers 304 where the client has it.
// The tag is a weak one: heartbeats move expires without moving the revision.
func unchanged(w http.ResponseWriter, r *http.Request, at store.Revision) bool {
	w.Header().Set("ETag", etag(at))
	tag := strings.TrimPrefix(etag(at), "W/")
	for have := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if have = strings.TrimSpace(have); have == "*" || strings.TrimPrefix(have, "W/") == tag {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

func etag(at store.Revision) string { return fmt.Sprintf(`W/"%d"`, at) }
