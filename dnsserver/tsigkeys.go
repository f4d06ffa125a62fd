package dnsserver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// TSIGKey is a secret that the server shares with others, and by which the two
// know each other's messages (RFC 8945).
type TSIGKey struct {
	Name      string // fully qualified, lower case
	Algorithm string // as [dns.HmacSHA256]
	secret    string // base64, as the library takes it
}

// tsigAlgorithms are the names of algorithms in key files.
var tsigAlgorithms = map[string]string{
	"hmac-sha1": dns.HmacSHA1, "hmac-sha224": dns.HmacSHA224, "hmac-sha256": dns.HmacSHA256,
	"hmac-sha384": dns.HmacSHA384, "hmac-sha512": dns.HmacSHA512,
}

// ParseTSIGKeys reads keys in BIND's form, as tsig-keygen prints them:
//
//	key "name" { algorithm hmac-sha256; secret "base64"; };
//
// An error says in which line what is wrong; it never has a secret in it.
func ParseTSIGKeys(text string) ([]TSIGKey, error) {
	p := keyParser{text: text, line: 1}
	var keys []TSIGKey
	for {
		word, err := p.next()
		if err != nil {
			return nil, err
		}
		if word == "" {
			return keys, nil
		}
		line := p.line
		if word != "key" {
			return nil, fmt.Errorf("line %d: a key statement begins with the word key; write key \"NAME\" { algorithm hmac-sha256; secret \"...\"; };", line)
		}
		k, err := p.key()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(keys, func(o TSIGKey) bool { return o.Name == k.Name }) {
			return nil, fmt.Errorf("line %d: key %s is there twice; one server has one key of a name", line, k.Name)
		}
		keys = append(keys, k)
	}
}

// keyParser reads words, strings and punctuation.
type keyParser struct {
	text string
	line int
}

// key reads what follows the word key.
func (p *keyParser) key() (TSIGKey, error) {
	name, err := p.next()
	if err != nil {
		return TSIGKey{}, err
	}
	k := TSIGKey{Name: dns.CanonicalName(name)}
	if _, ok := dns.IsDomainName(name); !ok || k.Name == "." || strings.ContainsAny(name, "{};\\ ") {
		return k, fmt.Errorf("line %d: a key's name is a domain name; there is %q", p.line, name)
	}
	if err := p.expect("{"); err != nil {
		return k, err
	}
	for {
		word, err := p.next()
		switch {
		case err != nil:
			return k, err
		case word == "algorithm":
			err = p.algorithm(&k)
		case word == "secret":
			err = p.secret(&k)
		case word == "}":
			return k, errors.Join(p.complete(k), p.expect(";"))
		default:
			err = fmt.Errorf("line %d: key %s has an algorithm and a secret; there is %q, and ; ends each", p.line, k.Name, word)
		}
		if err != nil {
			return k, err
		}
	}
}

func (p *keyParser) complete(k TSIGKey) error {
	if k.Algorithm == "" || k.secret == "" {
		return fmt.Errorf("line %d: key %s needs both an algorithm and a secret", p.line, k.Name)
	}
	return nil
}

func (p *keyParser) algorithm(k *TSIGKey) error {
	word, err := p.next()
	if err != nil {
		return err
	}
	var ok bool
	if k.Algorithm, ok = tsigAlgorithms[strings.ToLower(strings.TrimSuffix(word, "."))]; !ok {
		return fmt.Errorf("line %d: key %s: algorithm %q; known are hmac-sha1, -sha224, -sha256, -sha384, -sha512", p.line, k.Name, word)
	}
	return p.expect(";")
}

func (p *keyParser) secret(k *TSIGKey) error {
	word, err := p.next()
	if err != nil {
		return err
	}
	if b, err := base64.StdEncoding.DecodeString(word); err != nil || len(b) == 0 {
		return fmt.Errorf("line %d: key %s: the secret is no base64; make one with tsig-keygen", p.line, k.Name)
	}
	k.secret = word
	return p.expect(";")
}

func (p *keyParser) expect(want string) error {
	got, err := p.next()
	if err == nil && got != want {
		return fmt.Errorf("line %d: %q belongs there", p.line, want)
	}
	return err
}

// next returns the next word, string without its quotes, or punctuation; ""
// at the end.
func (p *keyParser) next() (string, error) {
	if err := p.skip(); err != nil || p.text == "" {
		return "", err
	}
	if strings.ContainsRune("{};", rune(p.text[0])) {
		return p.take(1), nil
	}
	if p.text[0] != '"' {
		n := strings.IndexFunc(p.text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("{};\"", r) })
		if n < 0 {
			n = len(p.text)
		}
		return p.take(n), nil
	}
	n := strings.IndexAny(p.text[1:], "\"\n")
	if n < 0 || p.text[1+n] == '\n' {
		return "", fmt.Errorf("line %d: a string has no end", p.line)
	}
	return strings.Trim(p.take(n+2), `"`), nil
}

// skip goes past white space and comments, of which there are three kinds.
func (p *keyParser) skip() error {
	for p.text != "" {
		switch {
		case p.text[0] == '#' || strings.HasPrefix(p.text, "//"):
			n := strings.IndexByte(p.text, '\n')
			if n < 0 {
				n = len(p.text)
			}
			p.take(n)
		case strings.HasPrefix(p.text, "/*"):
			n := strings.Index(p.text, "*/")
			if n < 0 {
				return fmt.Errorf("line %d: a comment has no end", p.line)
			}
			p.take(n + 2)
		case unicode.IsSpace(rune(p.text[0])):
			p.take(1)
		default:
			return nil
		}
	}
	return nil
}

func (p *keyParser) take(n int) string {
	s := p.text[:n]
	p.line += strings.Count(s, "\n")
	p.text = p.text[n:]
	return s
}
