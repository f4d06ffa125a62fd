package check

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/rosterdns/roster/store"
)

// Allow is which addresses checks may connect to. Empty it is the default: the
// private ranges (RFC 1918, RFC 4193), and whoever registered the check.
type Allow []netip.Prefix

// ParseAllow reads networks as --check-allow takes them. A plain address is a
// network of one.
func ParseAllow(networks []string) (Allow, error) {
	var a Allow
	for _, text := range networks {
		p, err := netip.ParsePrefix(text)
		if addr, e := netip.ParseAddr(text); e == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is no network; write 10.0.0.0/8 or 2001:db8::/32", text)
		}
		a = append(a, p.Masked())
	}
	return a, nil
}

// String says what is permitted, for errors.
func (a Allow) String() string {
	if len(a) == 0 {
		return "private ranges and the registering host's own address"
	}
	var list []string
	for _, p := range a {
		list = append(list, p.String())
	}
	return strings.Join(list, ", ")
}

// Permits reports whether a check that peer registered may connect to addr. A
// peer on this host has all of its loopback addresses; nobody else has any.
func (a Allow) Permits(addr, peer netip.Addr) bool {
	if len(a) == 0 {
		return addr.IsPrivate() || addr == peer || addr.IsLoopback() && peer.IsLoopback()
	}
	for _, p := range a {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// PermitsAll reports whether the check of i may connect to each of its
// addresses.
func (a Allow) PermitsAll(i *store.Instance) bool {
	_, refused := a.Refused(i)
	return !refused
}

// Refused returns the first address of i that its check may not connect to.
func (a Allow) Refused(i *store.Instance) (netip.Addr, bool) {
	for _, addr := range i.Addresses {
		if !a.Permits(addr, i.Check.Peer) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
