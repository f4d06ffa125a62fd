package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/rosterdns/roster/dnsserver"
)

// serveFlags are the flags of roster serve. Each may also be an environment
// variable (--max-ttl: ROSTER_MAX_TTL) or a key of the file (max-ttl); a flag
// beats the environment, and that the file.
type serveFlags struct {
	config      string
	zone        string
	dns         []string
	http        string
	store       string
	staleFor    time.Duration
	ns          []string
	maxTTL      uint32
	negativeTTL uint32
	ednsSize    uint16
	rrl         uint16
	cookieKey   string
	checkAllow  []string
	reverse     []string
	nsid        string

	allowTransfer []string
	notify        []string
	tsigKeys      string
	dot           []string

	etcd etcdFlags

	tokens    string
	tlsCert   string
	tlsKey    string
	clientCA  string
	open      bool
	metrics   string
	ui        bool
	logLevel  string
	logFormat string
}

func (f *serveFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.zone, "zone", "service.", "the zone to answer for")
	fs.StringSliceVar(&f.dns, "dns", []string{"127.0.0.1:8053"}, "`address`es for DNS over UDP and TCP")
	fs.StringVar(&f.http, "http", "127.0.0.1:8054", "`address` for the HTTP API")
	fs.StringVar(&f.store, "store", "bolt:roster.db", "where registrations last: bolt:PATH, etcd://HOST:2379,HOST:2379/PREFIX or memory:")
	fs.Uint32Var(&f.maxTTL, "max-ttl", 30, "the largest TTL of any record, in `seconds`")
	fs.Uint32Var(&f.negativeTTL, "negative-ttl", 1, "how long caches may keep that a name does not exist, in `seconds`")
	fs.StringSliceVar(&f.ns, "ns", nil, "a name server of the zone, `NAME[=IP]` (default ns below the zone, where --dns listens)")
	fs.Uint16Var(&f.ednsSize, "edns-size", 1232, "the largest answer over UDP, in `octets`")
	fs.StringSliceVar(&f.reverse, "reverse", nil, "answer reverse names of addresses in this prefix as well, `CIDR`: its in-addr.arpa or ip6.arpa zones")
	fs.StringVar(&f.nsid, "nsid", "", "this server's identity, `text` of at most 255 octets (default the host name)")
	fs.Uint16Var(&f.rrl, "rrl", 0, "identical responses a second to one /24 or /56 before the others say TC; 0: no limit")
	fs.StringVar(&f.cookieKey, "cookie-secret", "", "the key of DNS cookies, 32 `hex` digits, the same for servers that share an address (default one of its own)")
	fs.StringVar(&f.tokens, "tokens", "", "a YAML `file` of who may do what; SIGHUP has it read again")
	fs.StringVar(&f.tlsCert, "tls-cert", "", "the server's certificate, a PEM `file`: HTTPS on --http; SIGHUP has it read again")
	fs.StringVar(&f.tlsKey, "tls-key", "", "the key of --tls-cert, a PEM `file`")
	fs.StringVar(&f.clientCA, "client-ca", "", "a PEM `file` of authorities whose client certificates are taken in place of a token")
	fs.StringSliceVar(&f.allowTransfer, "allow-transfer", nil, "who may have the zone whole (AXFR, IXFR): `CIDR|key:NAME` (default nobody)")
	fs.StringSliceVar(&f.notify, "notify", nil, "a secondary that is told of changes (NOTIFY), `HOST:PORT[=key:NAME]`")
	fs.StringVar(&f.tsigKeys, "tsig-keys", "", "a `file` with TSIG keys as tsig-keygen prints them")
	fs.StringSliceVar(&f.dot, "dot", nil, "`address`es for DNS over TLS, with --tls-cert and --tls-key")
	fs.StringSliceVar(&f.checkAllow, "check-allow", nil, "a `network` that checks may connect to (default private ranges and whoever registers the check)")
	fs.BoolVar(&f.open, "open", false, "allow an --http address that is not loopback with neither --tokens nor --client-ca, where anybody who reaches it may register; and such an address for --metrics")
	fs.StringVar(&f.metrics, "metrics", "", "an `address` of their own for /metrics and /debug/pprof, which ask for no token (default /metrics on --http)")
	fs.BoolVar(&f.ui, "ui", true, "serve the page for people at /ui/ of --http")
	fs.DurationVar(&f.staleFor, "stale-for", 5*time.Minute, "for how long DNS is answered while this server is cut off from a --store that servers share, with TTL 1; then SERVFAIL")
	fs.StringVar(&f.etcd.ca, "etcd-ca", "", "TLS to etcd: a PEM `file` of the authorities that its members are to be from (default the system's)")
	fs.StringVar(&f.etcd.cert, "etcd-cert", "", "TLS to etcd: the certificate that this server shows it, a PEM `file`; SIGHUP has it read again")
	fs.StringVar(&f.etcd.key, "etcd-key", "", "the key of --etcd-cert, a PEM `file`")
	fs.StringVar(&f.etcd.user, "etcd-user", "", "the `name` by which etcd knows this server")
	fs.StringVar(&f.etcd.passwordFile, "etcd-password-file", "", "a `file` with the password of --etcd-user")
	fs.DurationVar(&f.etcd.compact, "etcd-compact", defaultCompact, "how old etcd's history gets, all of that etcd's, before a server has it dropped; 0: never")
	fs.StringVar(&f.logLevel, "log-level", "info", "error, warn, info or debug")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&f.config, "config", "", "a YAML `file` with the flags' names as keys")
}

// layer fills the flags that the command line left out from the environment,
// and what that leaves out from the file. Every error names its source.
func layer(fs *pflag.FlagSet, lookupEnv func(string) (string, bool)) error {
	if err := fromEnv(fs, lookupEnv); err != nil {
		return err
	}
	path, err := fs.GetString("config")
	if err != nil || path == "" {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config: %w", err)
	}
	if err := fromFile(fs, b); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

func fromEnv(fs *pflag.FlagSet, lookupEnv func(string) (string, bool)) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "ROSTER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookupEnv(name)
		if !ok || value == "" || f.Changed || f.Name == "help" { // empty is unset, as compose files write it
			return
		}
		if f.Name == "port" && strings.Contains(value, "://") {
			return // what Kubernetes sets for a Service whose name is roster
		}
		if err := fs.Set(f.Name, value); err != nil {
			errs = append(errs, usageError{fmt.Errorf("environment variable %s: %w", name, err)})
		}
	})
	return errors.Join(errs...)
}

func fromFile(fs *pflag.FlagSet, b []byte) error {
	var keys map[string]yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	switch err := dec.Decode(&keys); {
	case errors.Is(err, io.EOF):
		return nil // an empty file
	case err != nil:
		return err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is a second document in it; one is all")
	}
	for _, key := range sortedKeys(keys) {
		f := fs.Lookup(key)
		if f == nil || key == "config" || key == "help" {
			return fmt.Errorf("there is no key %q; the keys are the flags' names without dashes before them", key)
		}
		values, err := scalars(keys[key])
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if f.Changed {
			continue
		}
		if err := set(f, values); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		f.Changed = true
	}
	return nil
}

func set(f *pflag.Flag, values []string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	if len(values) != 1 {
		return errors.New("it takes one value, not a list")
	}
	if err := f.Value.Set(values[0]); err != nil {
		return fmt.Errorf("invalid value %q: %w", values[0], err)
	}
	return nil
}

func scalars(n yaml.Node) ([]string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return []string{n.Value}, nil
	case n.Kind == yaml.SequenceNode:
		var values []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, errors.New("its list holds something that is no plain value")
			}
			values = append(values, item.Value)
		}
		return values, nil
	}
	return nil, errors.New("it has no plain value and is no list of them")
}

func sortedKeys(m map[string]yaml.Node) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// check returns the first mistake in the flags that a parser of single values
// does not see.
func (f *serveFlags) check() error {
	if f.ednsSize < dns.MinMsgSize || f.ednsSize > 4096 {
		return fmt.Errorf("--edns-size %d: allowed are 512 to 4096", f.ednsSize)
	}
	if _, ok := f.cookieSecret(); !ok {
		return errors.New("--cookie-secret: what was given is not 32 hex digits, some of them not 0; openssl rand -hex 16 makes them")
	}
	if f.maxTTL > math.MaxInt32 || f.negativeTTL > math.MaxInt32 {
		return errors.New("--max-ttl and --negative-ttl: allowed are 0 to 2147483647") // RFC 2181 section 8
	}
	if f.staleFor < 0 {
		return fmt.Errorf("--stale-for %v: it is below 0; 0 has DNS answer SERVFAIL as soon as the server is cut off", f.staleFor)
	}
	if len(f.nsid) > 255 {
		return fmt.Errorf("--nsid: it has %d octets; allowed are 255", len(f.nsid)) // one TXT string (RFC 1035 section 3.3)
	}
	if err := f.checkAddresses(); err != nil {
		return err
	}
	if err := f.etcd.check(f.store); err != nil {
		return err
	}
	return f.checkAccess()
}

// checkAddresses returns the first mistake in what is listened on.
func (f *serveFlags) checkAddresses() error {
	if len(f.dns) == 0 {
		return errors.New("--dns: give at least one address")
	}
	for _, a := range f.dns {
		if err := checkAddress("--dns", a); err != nil {
			return err
		}
	}
	for _, a := range f.dot {
		if err := checkAddress("--dot", a); err != nil {
			return err
		}
	}
	if len(f.dot) > 0 && f.tlsCert == "" {
		return errors.New("--dot: DNS over TLS needs a certificate: give --tls-cert and --tls-key")
	}
	if err := checkAddress("--http", f.http); err != nil {
		return err
	}
	if f.metrics != "" {
		return checkAddress("--metrics", f.metrics)
	}
	return nil
}

func checkAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s: %w; write host:port, such as 127.0.0.1:8053 or [::1]:8053", flag, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%s %s: the port is no number from 0 to 65535", flag, address)
	}
	return nil
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// zones reads --zone, --ns and --reverse.
func (f *serveFlags) zones() (zone string, servers []dnsserver.NameServer, reverse []netip.Prefix, err error) {
	if zone, err = dnsserver.Zone(f.zone); err != nil {
		return "", nil, nil, fmt.Errorf("--zone: %w", err)
	}
	if servers, err = f.nameServers(zone); err != nil {
		return "", nil, nil, err
	}
	reverse, err = dnsserver.Reverse(f.reverse, zone)
	return zone, servers, reverse, err
}

// nameServers reads --ns. The addresses of one name may come one by one.
func (f *serveFlags) nameServers(zone string) ([]dnsserver.NameServer, error) {
	var servers []dnsserver.NameServer
	for _, text := range f.ns {
		name, ip, hasIP := strings.Cut(text, "=")
		name = dns.Fqdn(name)
		if _, ok := dns.IsDomainName(name); !ok || name == "." || strings.ContainsAny(name, "\\ \"();@$") || strings.EqualFold(name, zone) {
			return nil, fmt.Errorf("--ns %s: %q can be no name server's name; write ns1.%s=192.0.2.1 or ns1.example.org", text, name, zone)
		}
		at := slices.IndexFunc(servers, func(s dnsserver.NameServer) bool { return strings.EqualFold(s.Name, name) })
		if at < 0 {
			at = len(servers)
			servers = append(servers, dnsserver.NameServer{Name: name})
		}
		if !hasIP {
			continue
		}
		if !dns.IsSubDomain(zone, name) {
			return nil, fmt.Errorf("--ns %s: the zone %s has no place for the address of a name outside of it; write NAME.%[2]s=%s, or leave out the address", text, zone, ip)
		}
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, fmt.Errorf("--ns %s: %w", text, err)
		}
		servers[at].Addrs = append(servers[at].Addrs, a)
	}
	if len(servers) == 0 {
		servers = []dnsserver.NameServer{{Name: "ns." + zone}}
	}
	return servers, nil
}

// backend returns what --store names, for people.
func (f *serveFlags) backend() string {
	scheme, _, _ := strings.Cut(f.store, ":")
	return scheme
}

// identity returns --nsid, or the host name.
func (f *serveFlags) identity() string {
	if f.nsid != "" {
		return f.nsid
	}
	name, err := os.Hostname()
	if err != nil {
		return "" // then the server has none
	}
	return name
}

// cookieSecret reads --cookie-secret; without one the server makes it. It is
// checked here, and not by the flag's own type, for what a flag's parser says
// of a mistake has the value.
func (f *serveFlags) cookieSecret() (secret dnsserver.CookieSecret, ok bool) {
	if f.cookieKey == "" {
		return secret, true
	}
	b, err := hex.DecodeString(f.cookieKey)
	if err != nil || len(b) != len(secret) {
		return secret, false
	}
	copy(secret[:], b)
	return secret, secret != dnsserver.CookieSecret{}
}

// logger returns the logger that the flags ask for, on w.
func (f *serveFlags) logger(w io.Writer) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(w)
	level, err := logrus.ParseLevel(f.logLevel)
	if err != nil || level < logrus.ErrorLevel || level > logrus.DebugLevel {
		return nil, fmt.Errorf("--log-level %s: allowed are error, warn, info, debug", f.logLevel)
	}
	log.SetLevel(level)
	switch f.logFormat {
	case "text":
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{})
	default:
		return nil, fmt.Errorf("--log-format %s: allowed are text, json", f.logFormat)
	}
	return log, nil
}
