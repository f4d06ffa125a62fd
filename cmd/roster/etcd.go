package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/etcd"
)

// etcdFlags are the flags of roster serve that are for --store etcd://.
type etcdFlags struct {
	ca, cert, key      string
	user, passwordFile string
	compact            time.Duration
}

const (
	etcdScheme     = "etcd:"
	etcdPort       = "2379"
	etcdPrefix     = "/roster"
	defaultCompact = 10 * time.Minute
)

// secure reports whether members are talked to by TLS.
func (f *etcdFlags) secure() bool { return f.ca != "" || f.cert != "" || f.key != "" }

// check returns the first mistake in them.
func (f *etcdFlags) check(spec string) error {
	if !strings.HasPrefix(spec, etcdScheme) {
		return f.checkUnused(spec)
	}
	if _, _, err := parseEtcd(spec); err != nil {
		return err
	}
	switch {
	case (f.cert == "") != (f.key == ""):
		return errors.New("--etcd-cert and --etcd-key: give both, or none to show etcd no certificate")
	case (f.user == "") != (f.passwordFile == ""):
		return errors.New("--etcd-user and --etcd-password-file: give both; without them etcd knows this server by --etcd-cert, or not at all")
	case f.compact != 0 && f.compact < time.Second:
		return fmt.Errorf("--etcd-compact %v: allowed are 1s and more, such as 10m, and 0 to drop nothing of etcd's history", f.compact)
	}
	return nil
}

// checkUnused returns an error where one of them is given, with a store that
// has no use for it.
func (f *etcdFlags) checkUnused(spec string) error {
	for _, given := range []struct {
		flag string
		is   bool
	}{
		{"--etcd-ca", f.ca != ""}, {"--etcd-cert", f.cert != ""}, {"--etcd-key", f.key != ""},
		{"--etcd-user", f.user != ""}, {"--etcd-password-file", f.passwordFile != ""},
		{"--etcd-compact", f.compact != defaultCompact},
	} {
		if given.is {
			return fmt.Errorf("%s: it is for --store etcd://HOST, and --store is %s; leave it out", given.flag, spec)
		}
	}
	return nil
}

var (
	hostName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?$`)
	keyPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
)

// parseEtcd reads etcd://HOST[:PORT],...[/PREFIX].
func parseEtcd(spec string) (members []string, prefix string, err error) {
	rest, ok := strings.CutPrefix(spec, etcdScheme+"//")
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		// What stands before it may be a password: no error shows it.
		return nil, "", fmt.Errorf("--store etcd://...%s: it names a user, and everybody on this host could read it there; "+
			"leave out what is before the @, and give --etcd-user NAME and --etcd-password-file FILE", rest[at:])
	}
	if !ok {
		return nil, "", fmt.Errorf("--store %s: write etcd://HOST:%s,HOST:%[2]s/PREFIX", spec, etcdPort)
	}
	hosts, path, hasPath := strings.Cut(rest, "/")
	prefix = etcdPrefix
	if hasPath && path != "" {
		prefix = "/" + strings.TrimSuffix(path, "/")
	}
	for member := range strings.SplitSeq(hosts, ",") {
		m, err := parseMember(member)
		if err != nil {
			return nil, "", fmt.Errorf("--store %s: %w", spec, err)
		}
		if slices.Contains(members, m) {
			return nil, "", fmt.Errorf("--store %s: the member %s is in it twice", spec, m)
		}
		members = append(members, m)
	}
	if !keyPrefix.MatchString(prefix) {
		return nil, "", fmt.Errorf("--store %s: the prefix %q is no path of A-Z a-z 0-9 . _ -; write one such as %s", spec, prefix, etcdPrefix)
	}
	return members, prefix, nil
}

// parseMember reads HOST[:PORT], where a host is a name, an IPv4 address or an
// IPv6 address in brackets.
func parseMember(text string) (string, error) {
	if text == "" {
		return "", fmt.Errorf("a host is missing: write etcd://HOST:%s,HOST:%[1]s/PREFIX", etcdPort)
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() {
		return "", fmt.Errorf("the host %s needs brackets: write [%[1]s]:%s", text, etcdPort)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil { // it has no port, or is wrong in a way that shows now
		host, port, err = net.SplitHostPort(text + ":" + etcdPort)
	}
	if err != nil {
		return "", fmt.Errorf("the member %q is no HOST:PORT: %w", text, err)
	}
	a, err := netip.ParseAddr(host)
	if isV6 := err == nil && a.Is6(); isV6 != strings.HasPrefix(text, "[") || !isV6 && !hostName.MatchString(host) {
		return "", fmt.Errorf("the host %q of member %q is neither a name nor an address", host, text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("the port %q of member %q is no number from 1 to 65535", port, text)
	}
	return net.JoinHostPort(host, port), nil
}

// etcdConfig makes of the flags, and of the files that they name, how etcd is
// talked to: nil where the store is another one. check has checked them.
func (f *serveFlags) etcdConfig(files *reloadable, log logrus.FieldLogger) (*etcd.Config, error) {
	if !strings.HasPrefix(f.store, etcdScheme) {
		return nil, nil
	}
	members, prefix, err := parseEtcd(f.store)
	if err != nil {
		return nil, usageError{err}
	}
	cfg := &etcd.Config{
		Endpoints: members,
		Prefix:    prefix,
		Name:      f.identity(),
		User:      f.etcd.user,
		Compact:   f.etcd.compact,
		Trouble:   func(err error) { logCutOff(log, members, f.staleFor, err) },
		Waiting:   func(err error) { logWaiting(log, err) },
		Clocks:    func(server string, by float64) { logClocks(log, server, by) },
		Reread:    func(why error, by store.Difference) { logReread(log, members, why, by) },
	}
	if cfg.TLS, err = f.etcd.tls(files.etcdCert); err != nil {
		return nil, err
	}
	if f.etcd.passwordFile != "" {
		if cfg.Password, err = readPassword(f.etcd.passwordFile); err != nil {
			return nil, fmt.Errorf("read --etcd-password-file %s: %w", f.etcd.passwordFile, err)
		}
		if cfg.TLS == nil && slices.ContainsFunc(members, func(m string) bool { return !isLoopback(m) }) {
			log.Warn("the password for etcd passes over the network in the clear: there is no TLS to etcd (--etcd-ca)")
		}
	}
	return cfg, nil
}

// tls is how the members are talked to, nil for in the clear. The certificate
// that etcd is shown is the one that was last read.
func (f *etcdFlags) tls(cert *clientCertificate) (*tls.Config, error) {
	if !f.secure() {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pool, err := readPool(f.ca)
		if err != nil {
			return nil, fmt.Errorf("read --etcd-ca %s: %w", f.ca, err)
		}
		cfg.RootCAs = pool
	}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cert.current.Load(), nil
		}
	}
	return cfg, nil
}

// readPassword reads a password from the first line of a file, which is the
// only one.
func readPassword(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	switch password := strings.TrimRight(string(b), "\r\n"); {
	case password == "":
		return "", errors.New("there is no password in it")
	case strings.ContainsAny(password, "\r\n"):
		return "", errors.New("there is more than one line in it, and a password is one")
	default:
		return password, nil
	}
}

// logCutOff says that etcd cannot be reached, or, with nil, that it can again.
func logCutOff(log logrus.FieldLogger, members []string, staleFor time.Duration, err error) {
	where := strings.Join(members, ", ")
	if err == nil {
		log.Infof("etcd (%s) is reached again: registrations and heartbeats are taken", where)
		return
	}
	dns := "DNS answers from memory are marked stale, after " + staleFor.String() + " they are SERVFAIL"
	if staleFor == 0 {
		dns = "DNS answers are SERVFAIL (--stale-for)"
	}
	log.WithError(err).Errorf("cut off from etcd (%s): registrations and heartbeats get 503; %s", where, dns)
}

// logWaiting says that etcd does not answer yet.
func logWaiting(log logrus.FieldLogger, err error) {
	log.WithError(err).Warn("etcd does not answer yet: the start waits for it, for 30 seconds at most")
}

// logClocks says that another server's clock goes faster by that many
// thousandths than this one's, or slower.
func logClocks(log logrus.FieldLogger, server string, thousandths float64) {
	log.Warnf("the clock of server %s goes at %+.0f thousandths of this one's rate (more than 10 make leases end early on one of them): "+
		"see to the clocks of both hosts", server, thousandths)
}

// logReread says that the registry is now what is stored in etcd, and was not.
func logReread(log logrus.FieldLogger, members []string, why error, by store.Difference) {
	if by == (store.Difference{}) { // as when servers are started together
		log.WithError(why).Infof("everything in etcd (%s) was read again, watchers begin anew: no instance has changed", strings.Join(members, ", "))
		return
	}
	gone := ""
	if by.Gone > 0 {
		gone = "; those that are gone register again when their next heartbeat gets 404, permanent ones have to be registered by hand"
	}
	log.WithError(why).Warnf("everything in etcd (%s) was read again, watchers begin anew: %d instances registered, %d changed, %d gone%s",
		strings.Join(members, ", "), by.Registered, by.Changed, by.Gone, gone)
}

// membersTime is how long the ready line waits for the names of the members.
const membersTime = 2 * time.Second

// describeEtcd says which members a server talks to, and beside how many other
// servers.
func describeEtcd(ctx context.Context, s *etcd.Store, cfg *etcd.Config) string {
	ctx, cancel := context.WithTimeout(ctx, membersTime)
	defer cancel()
	var members []string
	list, err := s.Members(ctx)
	for _, m := range list {
		members = append(members, strings.TrimSpace(m.Name+" "+strings.Join(m.URLs, " ")))
	}
	if err != nil { // it is no reason to be less ready
		members = cfg.Endpoints
	}
	others := "no other server"
	switch n := len(s.Servers()); n {
	case 0:
	case 1:
		others = "1 other server"
	default:
		others = fmt.Sprintf("%d other servers", n)
	}
	return fmt.Sprintf(" (members %s, with %s)", strings.Join(members, ", "), others)
}

// noBackup is what those are told who ask the server for a backup that it
// cannot give.
func (p *plan) noBackup() string {
	if p.etcd == nil {
		return ""
	}
	return "the instances are in etcd (--store " + p.flags.store + "): etcdctl snapshot save FILE backs it up"
}
