package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/rosterdns/roster/store"
)

// This file is the API that roster began with, its seed: register, deregister
// and list, with plain texts. Its registrations are permanent unless they
// bring a ttl; the server probes the permanent ones that have a port.

// seedRequest is the body of both POSTs.
type seedRequest struct {
	ServiceName    string `json:"serviceName"`
	ServiceAddress string `json:"serviceAddress"`
	TTL            *int   `json:"ttl"` // seconds
}

// seedInvalid is the seed's one error.
func seedInvalid(w http.ResponseWriter) error {
	http.Error(w, "Invalid request data", http.StatusBadRequest)
	return nil
}

// seedRegister is POST /register.
func (s *Server) seedRegister(w http.ResponseWriter, r *http.Request) error {
	req, in, ok := readSeed(w, r)
	if !ok || in.Normalize() != nil {
		return seedInvalid(w)
	}
	if err := s.grant(r).register(in); err != nil {
		return err
	}
	if _, err := s.registry.Register(r.Context(), in, false); err != nil {
		if d := documentOf(err); d.Status == http.StatusConflict {
			return seedInvalid(w)
		}
		return err
	}
	return writeText(w, fmt.Sprintf("Service %s registered.", req.ServiceName))
}

// seedDeregister is POST /deregister. What is not there is deregistered.
func (s *Server) seedDeregister(w http.ResponseWriter, r *http.Request) error {
	req, in, ok := readSeed(w, r)
	if !ok || in.Normalize() != nil {
		return seedInvalid(w)
	}
	if err := s.grant(r).check(Register, in.Service); err != nil {
		return err
	}
	_, err := s.registry.Deregister(r.Context(), in.Service, in.ID)
	if err != nil && documentOf(err).Status != http.StatusNotFound {
		return err
	}
	return writeText(w, fmt.Sprintf("Service %s deregistered.", req.ServiceName))
}

// readSeed reads the body and makes the instance that it names.
func readSeed(w http.ResponseWriter, r *http.Request) (seedRequest, *store.Instance, bool) {
	var req seedRequest
	b, err := readAll(w, r)
	if err != nil || json.Unmarshal(b, &req) != nil {
		return req, nil, false
	}
	addr, port, err := parseSeedAddress(req.ServiceAddress)
	if err != nil {
		return req, nil, false
	}
	in := &store.Instance{
		Service:   req.ServiceName,
		ID:        store.DeriveID(addr, port, store.TCP),
		Addresses: []netip.Addr{addr},
		Port:      port,
		Priority:  store.DefaultPriority,
		Weight:    store.DefaultWeight,
		Given:     req.ServiceAddress,
	}
	if req.TTL != nil {
		raw := json.RawMessage(strconv.Itoa(*req.TTL))
		if in.TTL, err = leaseLength(raw); err != nil {
			return req, nil, false
		}
	}
	if in.Permanent() && port != 0 {
		// Where it may not be probed (--check-allow) the checker leaves it
		// alone: the seed took any address.
		peer, _ := peerAddr(r)
		in.Check = store.SeedCheck(peer)
	}
	return req, in, true
}

// parseSeedAddress reads host:port, [v6]:port, a bare IP address (port 0) or a
// URL. The host is an IP address.
func parseSeedAddress(s string) (netip.Addr, uint16, error) {
	if strings.Contains(s, "://") {
		return parseSeedURL(s)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a, 0, nil
	}
	p, err := netip.ParseAddrPort(s)
	if err == nil && p.Port() == 0 {
		err = fmt.Errorf("port 0 in %q", s)
	}
	return p.Addr(), p.Port(), err
}

func parseSeedURL(s string) (netip.Addr, uint16, error) {
	u, err := url.Parse(s)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return netip.Addr{}, 0, err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if port == "" {
		return a, 0, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err == nil && n == 0 {
		err = fmt.Errorf("port 0 in %q", s)
	}
	return a, uint16(n), err
}

// seedServices is GET /services: every live instance, up or not, by service,
// as far as the caller may read.
func (s *Server) seedServices(w http.ResponseWriter, r *http.Request) error {
	grant := s.grant(r)
	return s.writeList(w, r, "", func() any { return s.allAddresses(grant) })
}

func (s *Server) allAddresses(grant *Grant) map[string][]string {
	now := s.registry.Now()
	all := map[string][]string{}
	for v := range s.registry.Services {
		if !grant.May(Read, v.Service) {
			continue
		}
		for m := range v.Members(now) {
			all[v.Service] = append(all[v.Service], seedAddresses(m.Instance)...)
		}
		slices.Sort(all[v.Service])
	}
	return all
}

// seedAddresses gives an address back as it came, or as the seed would have
// been given it.
func seedAddresses(i *store.Instance) []string {
	if i.Given != "" {
		return []string{i.Given}
	}
	var list []string
	for _, a := range i.Addresses {
		if i.Port == 0 {
			list = append(list, a.String())
		} else {
			list = append(list, netip.AddrPortFrom(a, i.Port).String())
		}
	}
	return list
}
