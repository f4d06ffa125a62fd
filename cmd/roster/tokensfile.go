package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/rosterdns/roster/httpapi"
)

// parseTokens reads a tokens file. It is taken whole or not at all: whatever
// is not understood is an error, which names the line, the entry and the
// field. No error shows what stands in a sha256, for it may be the token.
func parseTokens(b []byte, clientCA bool) (*httpapi.Rights, error) {
	root, err := oneDocument(b)
	if err != nil {
		return nil, err
	}
	cfg := httpapi.RightsConfig{Certificates: clientCA}
	err = fields(root, map[string]func(*yaml.Node) error{
		"anonymous": func(n *yaml.Node) (err error) {
			cfg.Anonymous, err = actions(n)
			return err
		},
		"tokens": func(n *yaml.Node) error {
			return items(n, func(n *yaml.Node) error {
				g, err := tokenEntry(n, clientCA)
				if err != nil {
					return fmt.Errorf("%s: %w", entryName(n, len(cfg.Grants)), err)
				}
				cfg.Grants = append(cfg.Grants, g)
				return nil
			})
		},
	})
	if err != nil {
		return nil, err
	}
	return httpapi.NewRights(cfg)
}

// entryName is what errors call the entry at an index.
func entryName(n *yaml.Node, at int) string {
	n = follow(n)
	for k := 0; k+1 < len(n.Content); k += 2 {
		if v := follow(n.Content[k+1]); n.Content[k].Value == "name" && v.Kind == yaml.ScalarNode {
			return fmt.Sprintf("entry %d (%s)", at+1, v.Value)
		}
	}
	return fmt.Sprintf("entry %d", at+1)
}

func tokenEntry(n *yaml.Node, clientCA bool) (g httpapi.Grant, err error) {
	err = fields(n, map[string]func(*yaml.Node) error{
		"name": func(n *yaml.Node) (err error) {
			g.Name, err = text(n)
			return err
		},
		"sha256": func(n *yaml.Node) (err error) {
			g.SHA256, err = hash(n)
			return err
		},
		"services": func(n *yaml.Node) error {
			return some(n, "leave it out for all services", func(s string) error {
				p, err := httpapi.ParsePattern(s)
				g.Services = append(g.Services, p)
				return err
			})
		},
		"actions": func(n *yaml.Node) (err error) {
			g.Actions, err = actions(n)
			return err
		},
		"addresses": func(n *yaml.Node) error {
			return some(n, "leave it out for any address", func(s string) error {
				p, err := network(s)
				g.Addresses = append(g.Addresses, p)
				return err
			})
		},
	})
	switch {
	case err != nil:
	case g.Name == "":
		err = fmt.Errorf("line %d: name: it is missing", n.Line)
	case g.Actions == 0:
		err = fmt.Errorf("line %d: actions: none are there; allowed: read, register", n.Line)
	case g.SHA256 == nil && !clientCA:
		err = fmt.Errorf("line %d: sha256: it is missing, and without --client-ca nobody could come by this entry", n.Line)
	}
	return g, err
}

func actions(n *yaml.Node) (all httpapi.Action, err error) {
	err = items(n, func(n *yaml.Node) error {
		s, err := text(n)
		if err != nil {
			return err
		}
		a, err := httpapi.ParseAction(s)
		all |= a
		return err
	})
	return all, err
}

func hash(n *yaml.Node) (*[sha256.Size]byte, error) {
	s, err := text(n)
	if err != nil {
		return nil, err
	}
	var h [sha256.Size]byte
	if b, err := hex.DecodeString(s); err != nil || copy(h[:], b) != len(h) || len(b) != len(h) {
		return nil, errors.New("it is no SHA-256 in 64 hexadecimal digits; roster token new prints one")
	}
	return &h, nil
}

func network(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is no network; write 10.1.0.0/16, 2001:db8::/32, or 10.1.2.3/32 for one address", s)
	}
	if p.Masked() != p {
		return p, fmt.Errorf("%s has bits after its prefix; write %s", s, p.Masked())
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%s is of IPv4-mapped addresses, which no instance has; write the IPv4 network", s)
	}
	return p, nil
}

// oneDocument returns the root of a file with one YAML document in it.
func oneDocument(b []byte) (*yaml.Node, error) {
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	switch err := dec.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty; write tokens: [] for a file that lets nobody in")
	case err != nil:
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document in it; one is all")
	}
	return root.Content[0], nil
}

// fields calls take for each key of a mapping. Every error names the line and
// the key.
func fields(n *yaml.Node, take map[string]func(*yaml.Node) error) error {
	n = follow(n)
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: keys with values are expected here: %s", n.Line, known(take))
	}
	seen := map[string]bool{}
	for k := 0; k+1 < len(n.Content); k += 2 {
		key, value := n.Content[k], n.Content[k+1]
		f := take[key.Value]
		switch {
		case f == nil:
			return fmt.Errorf("line %d: there is no key %s; allowed: %s", key.Line, shown(key.Value), known(take))
		case seen[key.Value]:
			return fmt.Errorf("line %d: %s: it stands there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		if err := f(value); err != nil {
			if key.Value == "tokens" {
				return err // it names the entry
			}
			return fmt.Errorf("line %d: %s: %w", value.Line, key.Value, err)
		}
	}
	return nil
}

// shown returns a key for an error. A long one is no misspelt key: it may be
// a token that was pasted there.
func shown(key string) string {
	const most = 20
	if len(key) > most {
		return "of that name"
	}
	return strconv.Quote(key)
}

func known(take map[string]func(*yaml.Node) error) string {
	var keys []string
	for k := range take {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}

// items calls take for each item of a list.
func items(n *yaml.Node, take func(*yaml.Node) error) error {
	n = follow(n)
	if n.Kind != yaml.SequenceNode {
		return errors.New("a list is expected, such as [a, b]")
	}
	for _, item := range n.Content {
		if err := take(item); err != nil {
			return err
		}
	}
	return nil
}

// some calls take for each text of a list that must not be empty: that could
// be read as all, and as none.
func some(n *yaml.Node, otherwise string, take func(string) error) error {
	if len(follow(n).Content) == 0 && follow(n).Kind == yaml.SequenceNode {
		return errors.New("the list is empty; " + otherwise)
	}
	return items(n, func(n *yaml.Node) error {
		s, err := text(n)
		if err != nil {
			return err
		}
		return take(s)
	})
}

func text(n *yaml.Node) (string, error) {
	n = follow(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" || strings.ContainsFunc(n.Value, unicode.IsControl) {
		return "", errors.New("a plain text is expected")
	}
	return n.Value, nil
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
