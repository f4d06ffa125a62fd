package store

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a registration that leaves a field out gets.
const (
	DefaultPriority = 10
	DefaultWeight   = 10
	DefaultTTL      = 30 * time.Second
)

// What [Instance.Normalize] takes at most.
const (
	MaxTTL     = 86400 * time.Second
	MaxID      = 255 // octets
	MaxTag     = 255 // octets
	MaxMeta    = 64  // pairs
	MaxMetaLen = 255 // octets of key=value, one TXT string (RFC 1035 3.3)

	// The contract sets no bound here; without one a single registration
	// could fill the 64 KiB body with thousands of names.
	MaxTags      = 256
	MaxAddresses = 256
	MaxPorts     = 64
)

// Protocol is the transport an instance speaks: the second label of its SRV
// name.
type Protocol uint8

// The protocols; tcp is the zero value and the default.
const (
	TCP Protocol = iota
	UDP
)

func (p Protocol) String() string {
	if p == UDP {
		return "udp"
	}
	return "tcp"
}

// ParseProtocol reads "tcp" or "udp".
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	}
	return 0, invalid("protocol", s, "tcp, udp")
}

// Status says whether an instance takes new clients. Only instances
// that are up are in a service's answers.
type Status uint8

// The statuses. The zero value is Up: an instance without a check is up from
// its registration on.
const (
	Up       Status = iota
	Starting        // has a check that has not passed yet
	Down            // its check fails, or it said so itself
	Draining        // leaving: no new clients
)

var statusNames = [...]string{Up: "up", Starting: "starting", Down: "down", Draining: "draining"}

func (s Status) String() string {
	if int(s) >= len(statusNames) {
		return "unknown"
	}
	return statusNames[s]
}

// ParseStatus reads any of the four statuses.
func ParseStatus(s string) (Status, error) {
	if i := slices.Index(statusNames[:], s); i >= 0 {
		return Status(i), nil
	}
	return 0, invalid("status", s, "up, starting, down, draining")
}

// NamedPort is a further port of an instance, such as its metrics.
type NamedPort struct {
	Name string // a label as [CheckLabel] takes it, at most 62 octets
	Port uint16 // 1 to 65535
}

// Pair is one entry of an instance's meta.
type Pair struct{ Key, Value string }

// Instance is one registered process of a service. A value that the registry
// has returned is shared with every reader and must not be modified; copy it
// first.
type Instance struct {
	Service string // its service's name: one lower-case DNS label
	ID      string // unique within the service
	Label   string // its DNS label, [Label] of the ID; set by Normalize

	Addresses []netip.Addr // sorted, at least one
	Port      uint16       // 0: no SRV record
	Ports     []NamedPort  // sorted by name
	Protocol  Protocol
	Priority  uint16 // lower is better (RFC 2782)
	Weight    uint16 // share among equals (RFC 2782)
	Tags      []string
	Meta      []Pair // sorted by key

	TTL    time.Duration // the lease, whole seconds; 0: permanent, ends only by Deregister
	Check  *Check        // nil: the server does not probe it
	Status Status

	// Failing: the instance is down because its check fails, and not because
	// it said so; only then can the check bring it up again.
	Failing bool

	// Leaving is set by Drain: the instance is removed when no cache holds it
	// any more, whatever heartbeats come. Its Status is Draining.
	Leaving bool

	// Given is the address as the seed API was given it, which its list gives
	// back letter for letter; "" for a registration by any other way.
	Given string

	Revision Revision // of the last change
}

// Permanent reports whether the instance lives without heartbeats.
func (i *Instance) Permanent() bool { return i.TTL == 0 }

// String returns "service/id", as errors and logs name an instance.
func (i *Instance) String() string { return i.Service + "/" + i.ID }

// HasTags reports whether the instance carries all the tags, as names in DNS
// spell them: lower-case labels.
func (i *Instance) HasTags(labels ...string) bool {
	for _, l := range labels {
		if !slices.ContainsFunc(i.Tags, func(t string) bool { return tagIsLabel(t, l) }) {
			return false
		}
	}
	return true
}

// PortNamed returns the named port, or 0.
func (i *Instance) PortNamed(name string) uint16 {
	for _, p := range i.Ports {
		if p.Name == name {
			return p.Port
		}
	}
	return 0
}

// Normalize brings i into the one form in which it is stored (names folded,
// lists sorted and without duplicates, Label set) and reports the first field
// that is not allowed as an *[InvalidError].
func (i *Instance) Normalize() error {
	// Texts of their own: as parts of a request they would have all of it kept
	// for as long as the instance.
	i.Service, i.ID = strings.Clone(FoldName(i.Service)), strings.Clone(i.ID)
	if err := CheckLabel("service", i.Service); err != nil {
		return err
	}
	if err := CheckID(i.ID); err != nil {
		return err
	}
	i.Label = Label(i.ID)
	for _, step := range []func() error{i.normalizeAddresses, i.normalizePorts, i.normalizeTags, i.normalizeMeta, i.normalizeCheck} {
		if err := step(); err != nil {
			return err
		}
	}
	return CheckTTL(i.TTL)
}

func (i *Instance) normalizeAddresses() error {
	const allowed = "unicast IPv4 or IPv6 addresses"
	if n := len(i.Addresses); n == 0 || n > MaxAddresses {
		return Invalid("addresses", strconv.Itoa(n)+" addresses", fmt.Sprintf("1 to %d %s", MaxAddresses, allowed))
	}
	for _, a := range i.Addresses {
		switch {
		case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.Is4In6(), a == limitedBroadcast:
			return invalid("addresses", a.String(), allowed)
		case a.Zone() != "":
			return invalid("addresses", a.String(), allowed+" without a zone: a name in DNS cannot carry one")
		}
	}
	slices.SortFunc(i.Addresses, netip.Addr.Compare)
	i.Addresses = slices.Compact(i.Addresses)
	return nil
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (i *Instance) normalizePorts() error {
	if len(i.Ports) > MaxPorts {
		return Invalid("ports", strconv.Itoa(len(i.Ports))+" ports", fmt.Sprintf("at most %d", MaxPorts))
	}
	for k := range i.Ports {
		p := &i.Ports[k]
		p.Name = FoldName(p.Name)
		if err := CheckLabel("ports", p.Name); err != nil || len(p.Name) > 62 {
			return invalid("ports", p.Name, "names of 1 to 62 octets of a-z 0-9 - _, first and last a letter or digit")
		}
		if p.Port == 0 {
			return Invalid("ports."+p.Name, "0", "1 to 65535")
		}
	}
	slices.SortFunc(i.Ports, func(a, b NamedPort) int { return cmp.Compare(a.Name, b.Name) })
	for k := 1; k < len(i.Ports); k++ {
		if i.Ports[k].Name == i.Ports[k-1].Name {
			return invalid("ports", i.Ports[k].Name, "each name once, whatever its case")
		}
	}
	return nil
}

func (i *Instance) normalizeTags() error {
	if len(i.Tags) > MaxTags {
		return Invalid("tags", strconv.Itoa(len(i.Tags))+" tags", fmt.Sprintf("at most %d", MaxTags))
	}
	for _, t := range i.Tags {
		if t == "" || len(t) > MaxTag {
			return invalid("tags", t, fmt.Sprintf("1 to %d octets each", MaxTag))
		}
	}
	slices.Sort(i.Tags)
	i.Tags = slices.Compact(i.Tags)
	return nil
}

func (i *Instance) normalizeMeta() error {
	if len(i.Meta) > MaxMeta {
		return Invalid("meta", strconv.Itoa(len(i.Meta))+" entries", fmt.Sprintf("at most %d", MaxMeta))
	}
	for _, p := range i.Meta {
		// RFC 6763 6.4: a key is printable ASCII without "=".
		bad := func(r rune) bool { return r < 0x20 || r > 0x7e || r == '=' }
		if p.Key == "" || strings.ContainsFunc(p.Key, bad) {
			return invalid("meta", p.Key, "keys of printable ASCII without =")
		}
		if len(p.Key)+1+len(p.Value) > MaxMetaLen {
			return invalid("meta."+p.Key, p.Value, fmt.Sprintf("key=value of at most %d octets", MaxMetaLen))
		}
	}
	slices.SortFunc(i.Meta, func(a, b Pair) int { return cmp.Compare(a.Key, b.Key) })
	for k := 1; k < len(i.Meta); k++ {
		if i.Meta[k].Key == i.Meta[k-1].Key {
			return invalid("meta", i.Meta[k].Key, "each key once")
		}
	}
	return nil
}

// Warnings says what about i is allowed but seldom meant.
func (i *Instance) Warnings() []string {
	var w []string
	for _, a := range i.Addresses {
		switch {
		case a.IsLoopback():
			w = append(w, fmt.Sprintf("addresses: %s is a loopback address: only clients on the instance's own host reach it", a))
		case a.IsLinkLocalUnicast():
			w = append(w, fmt.Sprintf("addresses: %s is a link-local address: only clients on the same link reach it", a))
		}
	}
	return w
}

// sameAs reports whether a registration as o would change nothing of i.
// Status is not compared: a registration does not set it.
func (i *Instance) sameAs(o *Instance) bool {
	return i.ID == o.ID && i.Port == o.Port && i.Protocol == o.Protocol &&
		i.Priority == o.Priority && i.Weight == o.Weight && i.TTL == o.TTL && i.Given == o.Given && i.Leaving == o.Leaving && i.Check.same(o.Check) &&
		slices.Equal(i.Addresses, o.Addresses) && slices.Equal(i.Ports, o.Ports) &&
		slices.Equal(i.Tags, o.Tags) && slices.Equal(i.Meta, o.Meta)
}

// CheckID reports an instance ID that is not allowed as an *[InvalidError].
func CheckID(id string) error {
	bad := func(r rune) bool { return r <= 0x20 || r > 0x7e }
	if id == "" || len(id) > MaxID || strings.ContainsFunc(id, bad) {
		return invalid("id", id, fmt.Sprintf("1 to %d printable ASCII characters without space", MaxID))
	}
	return nil
}

// CheckTTL reports a lease that is not allowed as an *[InvalidError]. Zero is
// allowed: it stands for permanent.
func CheckTTL(ttl time.Duration) error {
	if ttl < 0 || ttl > MaxTTL || ttl%time.Second != 0 {
		return Invalid("ttl", ttl.String(), "1 to 86400 whole seconds")
	}
	return nil
}
