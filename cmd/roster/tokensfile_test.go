package main

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/rosterdns/roster/httpapi"
)

func sum(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

func TestTokensFile(t *testing.T) {
	t.Parallel()
	rights, err := parseTokens([]byte(`
anonymous: [read]
tokens:
  - name: web-team
    sha256: `+sum("one")+`
    services: &teams ["web", "API-*"]
    actions: [register, read]
    addresses: ["10.1.0.0/16", 2001:db8::/32]
  - {name: ops, sha256: `+strings.ToUpper(sum("two"))+`, actions: [register]}
  - {name: same, sha256: `+sum("three")+`, actions: [read], services: *teams}
`), false)
	if err != nil {
		t.Fatal(err)
	}
	if rights.Len() != 3 {
		t.Errorf("%d entries", rights.Len())
	}
	if g, _ := rights.For("", nil); !g.May(httpapi.Read, "x") || g.May(httpapi.Register, "x") {
		t.Error("anonymous is not what it says")
	}
	g, ok := rights.For("one", nil)
	if !ok || g.Name != "web-team" || !g.May(httpapi.Register, "api-x") || g.May(httpapi.Read, "db") ||
		!g.Owns(netip.MustParseAddr("2001:db8::1")) || g.Owns(netip.MustParseAddr("10.2.0.1")) {
		t.Errorf("web-team is %+v", g)
	}
	if g, ok := rights.For("two", nil); !ok || !g.May(httpapi.Register, "db") || g.May(httpapi.Read, "db") || !g.Owns(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("ops is %+v", g)
	}
	if g, ok := rights.For("three", nil); !ok || !g.May(httpapi.Read, "web") || g.May(httpapi.Read, "db") {
		t.Errorf("same is %+v", g)
	}
	for _, nobody := range []string{"tokens: []", "anonymous: []", "anonymous: []\ntokens: []"} {
		rights, err := parseTokens([]byte(nobody), false)
		if err != nil {
			t.Errorf("%q: %v", nobody, err)
			continue
		}
		if g, ok := rights.For("", nil); !ok || g.May(httpapi.Read, "") || g.May(httpapi.Register, "") {
			t.Errorf("%q lets somebody in", nobody)
		}
	}
	if _, err := parseTokens([]byte("tokens: [{name: by.cert, actions: [read]}]"), true); err != nil {
		t.Errorf("an entry for a certificate only: %v", err)
	}
}

// Every mistake refuses the file as a whole, and the error says where it is.
func TestTokensFileRefuses(t *testing.T) {
	t.Parallel()
	entry := func(fields string) string {
		return "tokens:\n  - {name: a, sha256: " + sum("a") + ", actions: [read]}\n  - " + fields + "\n"
	}
	h := "sha256: " + sum("b")
	for _, c := range []struct{ file, want string }{
		{"", "it is empty"},
		{"# nothing\n", "it is empty"},
		{"[]", "line 1: keys with values are expected here: anonymous, tokens"},
		{"anonymus: [read]", `line 1: there is no key "anonymus"; allowed: anonymous, tokens`},
		{"anonymous: read", "line 1: anonymous: a list is expected"},
		{"anonymous: [write]", `line 1: anonymous: "write" is no action; allowed: read, register`},
		{"anonymous:", "line 1: anonymous: a list is expected"},
		{"anonymous: []\nanonymous: []", "line 2: anonymous: it stands there twice"},
		{"tokens: []\n---\ntokens: []", "second document"},
		{"tokens: [", "yaml: line 1"},
		{"tokens: {}", "a list is expected"},
		{"tokens: [a]", "entry 1: line 1: keys with values are expected here"},
		{entry("{" + h + ", actions: [read]}"), "entry 2: line 3: name: it is missing"},
		{entry("{name: '', " + h + ", actions: [read]}"), "line 3: name: a plain text is expected"},
		{entry("{name: [b], " + h + ", actions: [read]}"), "entry 2: line 3: name: a plain text"},
		{entry("{name: b, actions: [read]}"), "entry 2 (b): line 3: sha256: it is missing"},
		{entry("{name: b, sha256: abc, actions: [read]}"), "entry 2 (b): line 3: sha256: it is no SHA-256"},
		{entry("{name: b, sha256: " + sum("b") + "00, actions: [read]}"), "sha256: it is no SHA-256"},
		{entry("{name: b, sha256: " + strings.Repeat("xy", 32) + ", actions: [read]}"), "sha256: it is no SHA-256"},
		{entry("{name: b, " + h + "}"), "entry 2 (b): line 3: actions: none are there"},
		{entry("{name: b, " + h + ", actions: []}"), "entry 2 (b): line 3: actions: none are there"},
		{entry("{name: b, " + h + ", actions: [Read]}"), `entry 2 (b): line 3: actions: "Read" is no action`},
		{entry("{name: b, " + h + ", actions: [read], services: []}"), "services: the list is empty; leave it out for all services"},
		{entry("{name: b, " + h + ", actions: [read], services: ['a*b*']}"), `entry 2 (b): line 3: services: "a*b*" is no pattern`},
		{entry("{name: b, " + h + ", actions: [read], services: [null]}"), "services: a plain text"},
		{entry("{name: b, " + h + ", actions: [read], addresses: []}"), "addresses: the list is empty; leave it out for any address"},
		{entry("{name: b, " + h + ", actions: [read], addresses: [10.1.0.0]}"), `entry 2 (b): line 3: addresses: "10.1.0.0" is no network`},
		{entry("{name: b, " + h + ", actions: [read], addresses: [10.1.0.0/33]}"), "is no network"},
		{entry("{name: b, " + h + ", actions: [read], addresses: [10.1.2.3/16]}"), "bits after its prefix; write 10.1.0.0/16"},
		{entry("{name: b, " + h + ", actions: [read], addresses: ['::ffff:10.1.0.0/112']}"), "IPv4-mapped"},
		{entry("{name: b, " + h + ", actions: [read], service: [web]}"), `entry 2 (b): line 3: there is no key "service"; allowed: actions, addresses, name`},
		{entry("{name: a, " + h + ", actions: [read]}"), "the name a stands there twice"},
		{entry("{name: b, sha256: " + sum("a") + ", actions: [read]}"), "a and b have the same token"},
	} {
		if _, err := parseTokens([]byte(c.file), false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.file, err, c.want)
		}
	}
}

// A token that was pasted into the file is in no error.
func TestTokensFileKeepsSecrets(t *testing.T) {
	t.Parallel()
	const token = "roster_0123456789abcdefghijklmnopqrstuvwxyz"
	for _, file := range []string{
		token, token + ":", token + ": x", "tokens:\n" + token + "\n  - name: b", "tokens: " + token, "tokens: [" + token + "]",
		"tokens: [{name: b, sha256: " + token + ", actions: [read]}]", "tokens: [{" + token + ": b}]", "tokens: []\n" + token + "\n",
	} {
		if _, err := parseTokens([]byte(file), false); err == nil || strings.Contains(err.Error(), token[:20]) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func FuzzTokensFile(f *testing.F) {
	for _, file := range []string{
		"anonymous: [read]", "tokens: [{name: b, sha256: " + sum("b") + ", actions: [read], services: ['a*'], addresses: [10.0.0.0/8]}]",
		"tokens: &a [*a]", "a: &a {b: *a}", "tokens:\n- <<: {name: b}",
	} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		rights, err := parseTokens(file, true)
		if (rights == nil) != (err != nil) {
			t.Errorf("rights %v with error %v", rights, err)
		}
	})
}
