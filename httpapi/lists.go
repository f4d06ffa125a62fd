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
}

func (f filter) takes(i *store.Instance) bool {
	for _, t := range f.tags {
		if !slices.Contains(i.Tags, t) {
			return false
		}
	}
	return f.status == nil || i.Status == *f.status
}

func readFilter(r *http.Request) (filter, error) {
	if err := takeQuery(r, "tag", "status"); err != nil {
		return filter{}, err
	}
	q := r.URL.Query() // takeQuery has seen that it can be read
	f := filter{tags: q["tag"]}
	switch list := q["status"]; {
	case len(list) > 1:
		return filter{}, problemf(http.StatusBadRequest, "status: %d of them; ask for one, or leave it out for all", len(list))
	case len(list) == 1:
		s, err := store.ParseStatus(list[0])
		if err != nil {
			return filter{}, err
		}
		f.status = &s
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

// services is GET /v1/services.
func (s *Server) services(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilter(r)
	if err != nil {
		return err
	}
	revision, now := s.registry.Revision(), s.registry.Now() // before the views: never newer than they are
	grant := s.grant(r)
	list, settled := []serviceJSON{}, true
	for v := range s.registry.Services {
		if !grant.May(Read, v.Service) {
			continue
		}
		settled = settled && v.Settled(now)
		if j := summarize(v, f, now); j.Instances > 0 {
			list = append(list, j)
		}
	}
	// A part of the list has no ETag: it changes with the rights as well.
	if settled && grant.all() && unchanged(w, r, revision) {
		return nil
	}
	slices.SortFunc(list, func(a, b serviceJSON) int { return cmp.Compare(a.Name, b.Name) })
	return writeJSON(w, http.StatusOK, struct {
		Revision store.Revision `json:"revision"`
		Services []serviceJSON  `json:"services"`
	}{revision, list})
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

// service is GET /v1/services/{service}.
func (s *Server) service(w http.ResponseWriter, r *http.Request) error {
	name, err := pathVar(r, "service")
	if err != nil {
		return err
	}
	f, err := readFilter(r)
	if err != nil {
		return err
	}
	now := s.registry.Now()
	v := s.registry.Service(name)
	known, settled := false, false
	list := []instanceJSON{}
	if v != nil {
		settled = v.Settled(now)
		for m := range v.Members(now) {
			known = true
			if f.takes(m.Instance) {
				list = append(list, s.describe(m.Instance, s.expires(m)))
			}
		}
	}
	if !known {
		return problemf(http.StatusNotFound, "service %s: %v", name, store.ErrNotFound)
	}
	if settled && unchanged(w, r, v.Revision) {
		return nil
	}
	slices.SortFunc(list, func(a, b instanceJSON) int { return cmp.Compare(a.ID, b.ID) })
	return writeJSON(w, http.StatusOK, struct {
		Revision  store.Revision `json:"revision"`
		Service   string         `json:"service"`
		Instances []instanceJSON `json:"instances"`
	}{v.Revision, name, list})
}

// unchanged sets the ETag of a reply and answers 304 where the client has it.
// The tag is a weak one: heartbeats move expires without moving the revision.
func unchanged(w http.ResponseWriter, r *http.Request, at store.Revision) bool {
	tag := fmt.Sprintf(`"%d"`, at)
	w.Header().Set("ETag", "W/"+tag)
	for have := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if have = strings.TrimSpace(have); have == "*" || strings.TrimPrefix(have, "W/") == tag {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}
