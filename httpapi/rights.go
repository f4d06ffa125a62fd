package httpapi

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/rosterdns/roster/store"
)

// This file decides who may do what. It knows nothing of requests: guard.go
// asks it.

// Action is a set of things to do.
type Action uint8

// The actions.
const (
	Read     Action = 1 << iota // the lists, one instance, events, metrics
	Register                    // register, heartbeat, deregister
)

// String returns the action's name in the tokens file.
func (a Action) String() string {
	var names []string
	for _, one := range []struct {
		action Action
		name   string
	}{{Read, "read"}, {Register, "register"}} {
		if a&one.action != 0 {
			names = append(names, one.name)
		}
	}
	return strings.Join(names, ", ")
}

// ParseAction reads the name of one action.
func ParseAction(s string) (Action, error) {
	for _, a := range []Action{Read, Register} {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%q is no action; allowed: read, register", s)
}

// Grant is what one caller may do.
type Grant struct {
	// Name is the caller's, for people: in errors and in the log.
	Name string

	// SHA256 is of the token; nil for who comes by client certificate only.
	SHA256 *[sha256.Size]byte

	// Services are patterns of services' names, with one * at most, that
	// stands for anything. None: all services.
	Services []string

	Actions Action

	// Addresses are what an instance may claim. None: any address.
	Addresses []netip.Prefix
}

// May reports whether the caller may do the action to the service. "" asks
// whether to any service at all.
func (g *Grant) May(a Action, service string) bool {
	return g.Actions&a != 0 && (service == "" || g.covers(service))
}

// all reports whether no service is hidden from the caller.
func (g *Grant) all() bool { return g.Actions&Read != 0 && len(g.Services) == 0 }

func (g *Grant) covers(service string) bool {
	for _, p := range g.Services {
		before, after, wild := strings.Cut(p, "*")
		if service == p || wild && len(service) >= len(before)+len(after) &&
			strings.HasPrefix(service, before) && strings.HasSuffix(service, after) {
			return true
		}
	}
	return len(g.Services) == 0
}

// check returns the error for who may not do the action to the service. It
// says which right is missing.
func (g *Grant) check(a Action, service string) error {
	switch {
	case g.May(a, service):
		return nil
	case g.Actions&a == 0:
		return problemf(http.StatusForbidden, "%s lacks the right %q: it may %s", g.Name, a, orNothing(g.Actions.String()))
	}
	return problemf(http.StatusForbidden, "%s lacks the right %q for service %s: its services are %s",
		g.Name, a, service, strings.Join(g.Services, ", "))
}

func orNothing(s string) string {
	if s == "" {
		return "do nothing"
	}
	return s
}

// register returns the error for an instance that the caller may not register:
// for its service, or for an address that it claims.
func (g *Grant) register(i *store.Instance) error {
	if err := g.check(Register, i.Service); err != nil {
		return err
	}
	for _, a := range i.Addresses {
		if !g.Owns(a) {
			var allowed []string
			for _, p := range g.Addresses {
				allowed = append(allowed, p.String())
			}
			return problemf(http.StatusForbidden, "%s may not register the address %s: its addresses are %s",
				g.Name, a, strings.Join(allowed, ", "))
		}
	}
	return nil
}

// Owns reports whether an instance of the caller's may have the address.
func (g *Grant) Owns(a netip.Addr) bool {
	for _, p := range g.Addresses {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return len(g.Addresses) == 0
}

// RightsConfig is what [NewRights] makes [Rights] from.
type RightsConfig struct {
	// Anonymous is what needs neither token nor certificate.
	Anonymous Action

	// Certified is what a client certificate allows that is verified and that
	// no grant is named for. It adds to Anonymous.
	Certified Action

	// Certificates says that client certificates are asked for at all, which
	// is for the words of an error only.
	Certificates bool

	// Grants have a name each that no other has, and a token that no other
	// has.
	Grants []Grant
}

// Rights say who may do what. They are never changed; new ones replace them.
type Rights struct {
	cfg       RightsConfig
	anonymous *Grant
	named     map[string]*Grant

	// Tokens are found by a hash of their hash that is keyed afresh in each
	// process: how long that takes tells nobody anything about the hashes.
	tokens map[[sha256.Size]byte]*Grant
	key    [sha256.Size]byte
}

// NewRights checks that no name and no token stands for two grants.
func NewRights(cfg RightsConfig) (*Rights, error) {
	r := &Rights{
		cfg:       cfg,
		anonymous: &Grant{Name: "who sends no token", Actions: cfg.Anonymous},
		named:     map[string]*Grant{},
		tokens:    map[[sha256.Size]byte]*Grant{},
	}
	rand.Read(r.key[:])
	for k := range cfg.Grants {
		g := &cfg.Grants[k]
		if r.named[g.Name] != nil {
			return nil, fmt.Errorf("the name %s stands there twice; give each entry one of its own", g.Name)
		}
		r.named[g.Name] = g
		if g.SHA256 == nil {
			continue
		}
		at := r.place(*g.SHA256)
		if other := r.tokens[at]; other != nil {
			return nil, fmt.Errorf("%s and %s have the same token (sha256); give each entry one of its own", other.Name, g.Name)
		}
		r.tokens[at] = g
	}
	return r, nil
}

func (r *Rights) place(hash [sha256.Size]byte) [sha256.Size]byte {
	var keyed [2 * sha256.Size]byte
	copy(keyed[:], r.key[:])
	copy(keyed[sha256.Size:], hash[:])
	return sha256.Sum256(keyed[:])
}

// Len returns the number of grants.
func (r *Rights) Len() int { return len(r.cfg.Grants) }

// For returns what the caller may do who presents a token, or "", and a client
// certificate that has been verified, or nil. A token decides alone; one that
// is not known has no grant, and ok is false. Then comes the certificate, by
// the first DNS name in it, or its common name where it has none.
func (r *Rights) For(token string, cert *x509.Certificate) (g *Grant, ok bool) {
	switch {
	case token != "":
		hash := sha256.Sum256([]byte(token))
		g := r.tokens[r.place(hash)]
		if g == nil || subtle.ConstantTimeCompare(g.SHA256[:], hash[:]) != 1 {
			return nil, false
		}
		return g, true
	case cert != nil:
		name := certificateName(cert)
		if g := r.named[name]; g != nil {
			return g, true
		}
		return &Grant{Name: "certificate " + name, Actions: r.cfg.Certified | r.cfg.Anonymous}, true
	}
	return r.anonymous, true
}

func certificateName(cert *x509.Certificate) string {
	if len(cert.DNSNames) > 0 {
		return cert.DNSNames[0]
	}
	return cert.Subject.CommonName
}

// ParsePattern reads a pattern of services' names for [Grant.Services].
func ParsePattern(s string) (string, error) {
	for k := range len(s) {
		if s[k] <= ' ' || s[k] > '~' {
			return "", fmt.Errorf("%q is no pattern of service names: they are printable ASCII without space", s)
		}
	}
	if s == "" || strings.Count(s, "*") > 1 {
		return "", fmt.Errorf("%q is no pattern of service names; write a name, or one * in it, such as api-*", s)
	}
	return store.FoldName(s), nil
}
