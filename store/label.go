package store

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
)

const maxLabel = 63 // octets (RFC 1035 2.3.4)

// CheckLabel reports a lower-case name that cannot be a service, or the name
// of a port, as an *[InvalidError] for field.
func CheckLabel(field, name string) error {
	if !isServiceLabel(name) {
		return invalid(field, name, "1 to 63 octets of a-z 0-9 - _, first and last a letter or digit")
	}
	return nil
}

// TagLabel returns the label by which a tag is used in names, its lower-case
// form, and whether it has one: a tag that is no label is only in the API.
func TagLabel(tag string) (string, bool) {
	l := FoldName(tag)
	return l, isServiceLabel(l)
}

// tagIsLabel reports whether the tag, used in a name, reads as label l.
func tagIsLabel(tag, l string) bool {
	return len(tag) == len(l) && FoldName(tag) == l
}

// Label returns the DNS label of an instance ID: the ID itself where it is a
// lower-case label of letters, digits and hyphens, otherwise a folded and
// shortened form of it with a hash, so that two IDs do not share one.
func Label(id string) string {
	if isHostLabel(id) {
		return id
	}
	return string(appendDerivedLabel(nil, []byte(id)))
}

// appendDerivedLabel appends the label of an ID that is none itself.
func appendDerivedLabel(dst, id []byte) []byte {
	const hashed = 5                       // octets, which make 8 characters
	const most = maxLabel - 1 - hashed*8/5 // what is kept of the ID
	start := len(dst)
	for _, c := range id {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if !isLetterOrDigit(c) {
			c = '-'
		}
		if len(dst)-start == most {
			break
		}
		if c != '-' || len(dst) > start { // none at the front
			dst = append(dst, c)
		}
	}
	for len(dst) > start && dst[len(dst)-1] == '-' {
		dst = dst[:len(dst)-1]
	}
	if len(dst) > start {
		dst = append(dst, '-')
	}
	sum := sha256.Sum256(id)
	return labelHash.AppendEncode(dst, sum[:hashed])
}

var labelHash = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeriveID returns the ID of an instance that gave none: the same address,
// port and protocol give the same ID, so that a process that registers again
// is the same instance.
func DeriveID(addr netip.Addr, port uint16, p Protocol) string {
	host := strings.NewReplacer(".", "-", ":", "-").Replace(addr.StringExpanded())
	id := fmt.Sprintf("%s-%d", host, port)
	if p != TCP {
		id += "-" + p.String()
	}
	return id
}

// isServiceLabel: 1 to 63 octets of a-z 0-9 - _, letters or digits at the ends.
func isServiceLabel(s string) bool {
	return boundedLabel(s, func(c byte) bool { return c == '-' || c == '_' })
}

// isHostLabel: the same without the underscore, which host names lack.
func isHostLabel[T string | []byte](s T) bool {
	return boundedLabel(s, func(c byte) bool { return c == '-' })
}

func boundedLabel[T string | []byte](s T, inner func(byte) bool) bool {
	if len(s) == 0 || len(s) > maxLabel || !isLetterOrDigit(s[0]) || !isLetterOrDigit(s[len(s)-1]) {
		return false
	}
	for k := range len(s) {
		if !isLetterOrDigit(s[k]) && !inner(s[k]) {
			return false
		}
	}
	return true
}

func isLetterOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// FoldName lower-cases ASCII letters and nothing else: DNS compares names so
// (RFC 4343), and Unicode's rules would make two names equal that DNS keeps
// apart.
func FoldName(s string) string {
	for k := range len(s) {
		if 'A' <= s[k] && s[k] <= 'Z' {
			b := []byte(s)
			for j, c := range b {
				if 'A' <= c && c <= 'Z' {
					b[j] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
