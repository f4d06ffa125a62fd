package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
)

// dnsTimeout is how long an answer may take; over UDP it is asked for three
// times.
const (
	dnsTimeout  = 2 * time.Second
	dnsAttempts = 3
)

func resolveCommand() *cobra.Command {
	var (
		f            clientFlags
		o            output
		server, zone string
	)
	cmd := &cobra.Command{
		Use:   "resolve NAME [TYPE]",
		Short: "Ask DNS what a client would get, and show why",
		Long: "Ask the server's DNS side for a name, and show what a client would get: priority, share\n" +
			"of the weight and TTL. Without a type it asks for SRV, A and AAAA. A name without a dot\n" +
			"at its end is one in the zone.",
		Example: "  roster resolve web\n  roster resolve _metrics._tcp.web SRV\n  roster resolve a1.web TXT",
		Args:    takes("NAME", "[TYPE]"),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&server, "dns-server", "127.0.0.1:8053", "where it answers, an `address` host:port")
	fs.StringVar(&zone, "zone", "service.", "its zone, a `name`")
	o.register(cmd)
	f.register(fs)
	services := f.names(1)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return []cobra.Completion{"A", "AAAA", "SRV", "TXT", "PTR"}, cobra.ShellCompDirectiveNoFileComp
		}
		return services(cmd, args, word)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := layer(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if err := o.to(cmd); err != nil {
			return err
		}
		types := []string{"SRV", "A", "AAAA"}
		if len(args) == 2 {
			types = []string{strings.ToUpper(args[1])}
		}
		r, err := newResolution(server, zone, args[0], types)
		if err != nil {
			return usageError{err}
		}
		if err := r.resolve(cmd.Context()); err != nil {
			return err
		}
		if r.stale != "" {
			cmd.PrintErrf("roster: warning: %s: %s, and this may be out of date: ask another server (--dns-server)\n", server, r.stale)
		}
		if o.forProgram() || len(r.Records) > 0 {
			if err := o.show(r, r.table); err != nil {
				return err
			}
		}
		return r.why()
	}
	return cmd
}

// resolution is a name and what DNS says of it.
type resolution struct {
	Name      string   `json:"name"`
	Server    string   `json:"server"`
	Transport []string `json:"transport"` // of each answer
	Rcode     string   `json:"rcode"`
	Records   []record `json:"records"`
	Reasons   []string `json:"reasons,omitempty"` // Extended DNS Errors (RFC 8914)

	types []uint16
	stale string // why what was answered may be out of date; "": it is not
}

// record is one of an answer.
type record struct {
	Type      string   `json:"type"`
	TTL       uint32   `json:"ttl"`
	Priority  *uint16  `json:"priority,omitempty"`
	Weight    *uint16  `json:"weight,omitempty"`
	Share     *float64 `json:"share,omitempty"` // of the clients, in percent; 0 while a better priority has somebody
	Standby   bool     `json:"-"`               // a better priority has somebody
	Value     string   `json:"value"`           // an address, a text, or target:port
	Addresses []string `json:"addresses,omitempty"`
}

func newResolution(server, zone, name string, types []string) (*resolution, error) {
	if err := checkAddress("--dns-server", server); err != nil {
		return nil, err
	}
	zone = dns.Fqdn(zone)
	if !dns.IsFqdn(name) {
		if !dns.IsSubDomain(zone, dns.Fqdn(name)) {
			name += "." + zone
		}
		name = dns.Fqdn(name)
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%q is no domain name", name)
	}
	r := &resolution{Name: name, Server: server, Records: []record{}}
	for _, t := range types {
		n, ok := dns.StringToType[t]
		if !ok || n == dns.TypeAXFR || n == dns.TypeIXFR {
			return nil, fmt.Errorf("type %s: allowed are A, AAAA, SRV, TXT, PTR and the like", t)
		}
		r.types = append(r.types, n)
	}
	return r, nil
}

// resolve asks for each type.
func (r *resolution) resolve(ctx context.Context) error {
	for _, t := range r.types {
		resp, transport, err := r.ask(ctx, t)
		if err != nil {
			return fmt.Errorf("ask %s for %s %s: %w\nIs the server there? Say where its DNS side is with --dns-server or ROSTER_DNS_SERVER.", //nolint:staticcheck // two sentences for people
				r.Server, r.Name, dns.TypeToString[t], err)
		}
		r.take(resp, transport)
	}
	return nil
}

// ask asks over UDP, and again over TCP where the answer did not fit.
func (r *resolution) ask(ctx context.Context, t uint16) (resp *dns.Msg, transport string, err error) {
	q := new(dns.Msg).SetQuestion(r.Name, t)
	q.Id = uint16(rand.Uint32())
	q.SetEdns0(dns.DefaultMsgSize, false)
	c := dns.Client{Timeout: dnsTimeout}
	for range dnsAttempts {
		if resp, _, err = c.ExchangeContext(ctx, q, r.Server); err == nil || !isTimeout(err) {
			break
		}
	}
	if err != nil {
		return nil, "", err
	}
	if !resp.Truncated {
		return resp, "udp", nil
	}
	c.Net = "tcp"
	resp, _, err = c.ExchangeContext(ctx, q, r.Server)
	return resp, "tcp", err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// take adds what an answer says.
func (r *resolution) take(resp *dns.Msg, transport string) {
	r.Transport = append(r.Transport, transport)
	r.Rcode = dns.RcodeToString[resp.Rcode]
	r.takeErrors(resp.IsEdns0())
	addresses := map[string][]string{}
	for _, rr := range resp.Extra {
		switch a := rr.(type) {
		case *dns.A:
			addresses[a.Hdr.Name] = append(addresses[a.Hdr.Name], a.A.String())
		case *dns.AAAA:
			addresses[a.Hdr.Name] = append(addresses[a.Hdr.Name], a.AAAA.String())
		}
	}
	var list []record
	for _, rr := range resp.Answer {
		list = append(list, newRecord(rr, addresses))
	}
	share(list)
	slices.SortStableFunc(list, func(a, b record) int {
		if a.Priority == nil || b.Priority == nil {
			return cmp.Compare(a.Value, b.Value)
		}
		return cmp.Or(cmp.Compare(*a.Priority, *b.Priority), cmp.Compare(*b.Weight, *a.Weight), cmp.Compare(a.Value, b.Value))
	})
	r.Records = append(r.Records, list...)
}

// takeErrors adds what the Extended DNS Errors of an answer say.
func (r *resolution) takeErrors(opt *dns.OPT) {
	if opt == nil {
		return
	}
	for _, o := range opt.Option {
		e, ok := o.(*dns.EDNS0_EDE)
		if !ok || e.ExtraText == "" {
			continue
		}
		if e.InfoCode == dns.ExtendedErrorCodeStaleAnswer || e.InfoCode == dns.ExtendedErrorCodeStaleNXDOMAINAnswer {
			r.stale = e.ExtraText
		}
		if !slices.Contains(r.Reasons, e.ExtraText) {
			r.Reasons = append(r.Reasons, e.ExtraText)
		}
	}
}

func newRecord(rr dns.RR, addresses map[string][]string) record {
	h := rr.Header()
	out := record{Type: dns.TypeToString[h.Rrtype], TTL: h.Ttl}
	if srv, ok := rr.(*dns.SRV); ok {
		out.Priority, out.Weight = &srv.Priority, &srv.Weight
		out.Value = fmt.Sprintf("%s:%d", srv.Target, srv.Port)
		out.Addresses = addresses[srv.Target]
		slices.Sort(out.Addresses)
		return out
	}
	out.Value = strings.TrimPrefix(rr.String(), h.String())
	return out
}

// share works out how clients spread over SRV records (RFC 2782): by weight,
// over those of the best priority. Where all weights are 0, evenly.
func share(list []record) {
	var best uint16 = 65535
	for _, r := range list {
		if r.Priority != nil {
			best = min(best, *r.Priority)
		}
	}
	total, n := 0, 0
	for _, r := range list {
		if r.Priority != nil && *r.Priority == best {
			total += int(*r.Weight)
			n++
		}
	}
	for k, r := range list {
		switch {
		case r.Priority == nil:
		case *r.Priority != best:
			list[k].Share, list[k].Standby = new(0.0), true
		case total == 0:
			list[k].Share = new(100 / float64(n))
		default:
			list[k].Share = new(100 * float64(*r.Weight) / float64(total))
		}
	}
}

// table shows the records.
func (r *resolution) table() *table {
	t := newTable("TYPE", "TTL", "PRIORITY", "WEIGHT", "SHARE", "VALUE", "ADDRESSES")
	for _, rec := range r.Records {
		priority, weight, share := "", "", cell{}
		if rec.Priority != nil {
			priority, weight = fmt.Sprint(*rec.Priority), fmt.Sprint(*rec.Weight)
			share = cell{fmt.Sprintf("%.0f%%", *rec.Share), green}
			if rec.Standby {
				share = cell{"standby", dim}
			}
		}
		t.add(rec.Type, rec.TTL, priority, weight, share, rec.Value, strings.Join(rec.Addresses, ","))
	}
	return t
}

// why says why there is nothing, where there is nothing.
func (r *resolution) why() error {
	if len(r.Records) > 0 {
		return nil
	}
	text, advice := "the server says "+r.Rcode, ""
	switch r.Rcode {
	case "NXDOMAIN":
		text, advice = "there is no such name (NXDOMAIN)", "\nList what there is with 'roster services'."
	case "NOERROR":
		text = "nobody is there (NOERROR, no records)"
	case "REFUSED":
		text, advice = "the server does not answer for it (REFUSED)", "\nSay which zone it has with --zone or ROSTER_ZONE."
	}
	if len(r.Reasons) > 0 {
		text += ": " + strings.Join(r.Reasons, "; ")
	}
	return fmt.Errorf("%s: %s%s", r.Name, text, advice)
}
