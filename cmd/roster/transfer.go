package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"

	"github.com/rosterdns/roster/dnsserver"
)

// transfers is what --tsig-keys, --allow-transfer and --notify say together.
type transfers struct {
	keys   []dnsserver.TSIGKey
	acl    dnsserver.TransferACL
	notify []dnsserver.Secondary
}

// transfers reads the keys and checks that what names one names one of them.
func (f *serveFlags) transfers() (t transfers, err error) {
	if f.tsigKeys != "" {
		b, err := os.ReadFile(f.tsigKeys)
		if err != nil {
			return t, fmt.Errorf("read --tsig-keys: %w", err)
		}
		if t.keys, err = dnsserver.ParseTSIGKeys(string(b)); err != nil {
			return t, usageError{fmt.Errorf("--tsig-keys %s: %w", f.tsigKeys, err)}
		}
	}
	for _, who := range f.allowTransfer {
		if err := t.allow(who); err != nil {
			return t, usageError{fmt.Errorf("--allow-transfer %s: %w", who, err)}
		}
	}
	for _, to := range f.notify {
		s, err := t.secondary(to)
		if err != nil {
			return t, usageError{fmt.Errorf("--notify %s: %w", to, err)}
		}
		t.notify = append(t.notify, s)
	}
	return t, nil
}

func (t *transfers) allow(who string) error {
	if name, ok := strings.CutPrefix(who, "key:"); ok {
		k, err := t.key(name)
		if err == nil {
			t.acl.Keys = append(t.acl.Keys, k.Name)
		}
		return err
	}
	p, err := parsePrefix(who)
	if err != nil {
		return fmt.Errorf("write a CIDR, such as 192.0.2.0/24, an address, or key:NAME of a key in --tsig-keys")
	}
	t.acl.Prefixes = append(t.acl.Prefixes, p)
	return nil
}

// secondary reads HOST:PORT, or HOST:PORT=key:NAME to have the message signed.
func (t *transfers) secondary(to string) (dnsserver.Secondary, error) {
	addr, name, signed := strings.Cut(to, "=key:")
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
		return dnsserver.Secondary{}, fmt.Errorf("write host:port, such as 192.0.2.2:53, with =key:NAME behind it to sign")
	}
	s := dnsserver.Secondary{Addr: addr}
	if !signed {
		return s, nil
	}
	k, err := t.key(name)
	s.Key = k
	return s, err
}

func (t *transfers) key(name string) (*dnsserver.TSIGKey, error) {
	for k := range t.keys {
		if t.keys[k].Name == dns.CanonicalName(name) {
			return &t.keys[k], nil
		}
	}
	return nil, fmt.Errorf("there is no key %q in --tsig-keys; make one with tsig-keygen %s", name, name)
}

// parsePrefix reads a CIDR, or an address that stands for itself.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}
