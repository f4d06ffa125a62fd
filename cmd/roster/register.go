package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rosterdns/roster/httpapi/client"
)

// registrationFlags say what is registered. Their values are checked by the
// server, which names the field.
type registrationFlags struct {
	id        string
	addresses []string
	port      uint16
	ports     map[string]string
	protocol  string
	priority  uint16
	weight    uint16
	ttl       int
	tags      []string
	meta      []string
}

func (f *registrationFlags) register(fs *pflag.FlagSet, ttl int, addresses string) {
	fs.Uint16Var(&f.port, "port", 0, "the port, a `number`; without one there is no SRV record")
	fs.StringSliceVar(&f.addresses, "address", nil, "an `IP` address, several (default "+addresses+")")
	fs.IntVar(&f.ttl, "ttl", ttl, "the lease in `seconds`")
	fs.StringSliceVar(&f.tags, "tag", nil, "a tag, several, each a `text`")
	fs.StringArrayVar(&f.meta, "meta", nil, "for its TXT record, several, each a `key=value`")
	fs.StringVar(&f.id, "id", "", "its `ID` in the service (default from address and port)")
	fs.Uint16Var(&f.weight, "weight", 10, "its share among equals, a `number`")
	fs.Uint16Var(&f.priority, "priority", 10, "a `number`, lower is better")
	fs.StringToStringVar(&f.ports, "named-port", nil, "another port, several, each a `name=port`")
	fs.StringVar(&f.protocol, "protocol", "tcp", "a `word`: tcp or udp")
}

func (f *registrationFlags) registration(service string) (client.Registration, error) {
	r := client.Registration{
		Service:  service,
		ID:       f.id,
		Port:     f.port,
		Protocol: f.protocol,
		Priority: &f.priority,
		Weight:   &f.weight,
		TTL:      f.ttl,
		Tags:     f.tags,
	}
	if f.ttl == 0 { // which the client leaves out
		return r, usagef("--ttl 0: allowed are 1 to 86400 seconds")
	}
	for _, text := range f.addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return r, usagef("--address %s: it is no IP address such as 10.0.0.5 or 2001:db8::5", text)
		}
		r.Addresses = append(r.Addresses, a)
	}
	for _, text := range f.meta {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return r, usagef("--meta %s: write key=value", text)
		}
		if r.Meta == nil {
			r.Meta = map[string]string{}
		}
		r.Meta[key] = value
	}
	for name, text := range f.ports {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return r, usagef("--named-port %s=%s: the port is no number from 0 to 65535", name, text)
		}
		if r.Ports == nil {
			r.Ports = map[string]uint16{}
		}
		r.Ports[name] = uint16(n)
	}
	return r, nil
}

func registerCommand() *cobra.Command {
	var (
		f     clientFlags
		what  registrationFlags
		probe string
		keep  bool
		o     output
	)
	cmd := &cobra.Command{
		Use:     "register SERVICE",
		Short:   "Register an instance once",
		Long:    "Register an instance once. It is gone after --ttl seconds unless heartbeats come;\n'roster run' sends them for a program.",
		Example: "  roster register web --port 8080 --address 10.0.0.5 --tag v2",
		Args:    takes("SERVICE"),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	what.register(fs, 30, "where it comes from")
	fs.BoolVar(&keep, "permanent", false, "no lease: it stays until it is deregistered")
	fs.StringVar(&probe, "check", "", "what the server `probes`: http:/PATH, tcp or grpc")
	o.register(cmd)
	f.register(fs)
	cmd.ValidArgsFunction = f.names(1)
	cmd.RunE = f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
		if err := o.to(cmd); err != nil {
			return err
		}
		r, err := what.registration(args[0])
		if err != nil {
			return err
		}
		if r.Check, err = parseProbe(probe); err != nil {
			return usageError{err}
		}
		if keep {
			r.Permanent, r.TTL = true, 0
		}
		i, err := c.Register(ctx, r)
		if err != nil {
			return err
		}
		for _, w := range i.Warnings {
			cmd.PrintErrln("roster: warning:", w)
		}
		return o.show(i, func() *table { return instanceTable([]client.Instance{i}, o.wide()) })
	})
	return cmd
}

// parseProbe reads --check of register: what the server probes.
func parseProbe(text string) (*client.Check, error) {
	if text == "" {
		return nil, nil
	}
	kind, path, _ := strings.Cut(text, ":")
	if !slices.Contains([]string{"http", "tcp", "grpc"}, kind) || path != "" && (kind != "http" || path[0] != '/') {
		return nil, fmt.Errorf("--check %s: allowed are http, http:/PATH, tcp, grpc", text)
	}
	return &client.Check{Type: kind, Path: path}, nil
}

func heartbeatCommand() *cobra.Command {
	var (
		f      clientFlags
		o      output
		weight uint16
		ttl    int
		status string
	)
	cmd := &cobra.Command{
		Use:     "heartbeat SERVICE ID",
		Short:   "Renew the lease of an instance",
		Long:    "Renew the lease of an instance, and change its weight, lease or status on the way.",
		Example: "  roster heartbeat web a1\n  roster heartbeat web a1 --weight 20 --status draining",
		Args:    takes("SERVICE", "ID"),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Uint16Var(&weight, "weight", 0, "its share among equals, a `number` (default as it is)")
	fs.IntVar(&ttl, "ttl", 0, "the lease from now on, in `seconds` (default as it is)")
	fs.StringVar(&status, "status", "", "a `word`: up, down or draining (default as it is)")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{"up", "down", "draining"}, cobra.ShellCompDirectiveNoFileComp))
	o.register(cmd)
	f.register(fs)
	cmd.ValidArgsFunction = f.names(2)
	cmd.RunE = f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
		if err := o.to(cmd); err != nil {
			return err
		}
		b := client.Beat{TTL: ttl, Status: client.Status(status)}
		if cmd.Flags().Changed("ttl") && ttl == 0 {
			return usagef("--ttl 0: allowed are 1 to 86400 seconds")
		}
		if cmd.Flags().Changed("weight") {
			b.Weight = &weight
		}
		l, err := c.Heartbeat(ctx, args[0], args[1], b)
		if err != nil {
			return err
		}
		return o.show(l, func() *table {
			t := newTable("SERVICE", "ID", "LEASE")
			t.add(args[0], args[1], left(l.Expires))
			return t
		})
	})
	return cmd
}

func deregisterCommand() *cobra.Command {
	var (
		f           clientFlags
		o           output
		drain, wait bool
	)
	cmd := &cobra.Command{
		Use:   "deregister SERVICE ID",
		Short: "Take an instance out of DNS",
		Long: "Take an instance out of DNS, and say when the last cache has forgotten it. With --drain\n" +
			"its own name answers until then, so that who has found it can still connect.",
		Example: "  roster deregister web a1\n  roster deregister web a1 --drain --wait && systemctl stop web",
		Args:    takes("SERVICE", "ID"),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&drain, "drain", false, "leave it under its own name until no cache has it any more")
	fs.BoolVar(&wait, "wait", false, "end when no cache has it any more")
	o.register(cmd)
	f.register(fs)
	cmd.ValidArgsFunction = f.names(2)
	cmd.RunE = f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
		if err := o.to(cmd); err != nil {
			return err
		}
		remove := c.Deregister
		if drain {
			remove = c.Drain
		}
		r, err := remove(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		if err := o.show(r, func() *table {
			t := newTable("SERVICE", "ID", "SAFE TO STOP")
			t.add(args[0], args[1], within(r.SafeIn))
			return t
		}); err != nil || !wait {
			return err
		}
		select {
		case <-time.After(r.SafeIn):
			return nil
		case <-ctx.Done():
			return fmt.Errorf("caches may have %s/%s until %s", args[0], args[1], r.SafeAfter.Format(time.RFC3339))
		}
	})
	return cmd
}

// within says when something will be.
func within(d time.Duration) string {
	if d <= 0 {
		return "now"
	}
	return "in " + seconds(d)
}

// seconds is a duration as tables have it.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s" }

// left says how much of a lease is left.
func left(expires time.Time) string {
	if expires.IsZero() {
		return "permanent"
	}
	return seconds(max(0, time.Until(expires)))
}

// routeTo returns the address of this host from which it reaches the first of
// the servers that it has a route to. Nothing is sent: to connect a UDP socket
// is to ask the kernel for the route.
func routeTo(ctx context.Context, servers []string) (netip.Addr, error) {
	var last error
	var d net.Dialer // which looks up a name for no longer than ctx
	for _, s := range servers {
		u, err := client.ParseServer(s)
		if err != nil {
			return netip.Addr{}, err
		}
		conn, err := d.DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), portOf(u)))
		if err != nil {
			last = err
			continue
		}
		defer conn.Close()
		a, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err != nil {
			return netip.Addr{}, err
		}
		return a.Addr().Unmap().WithZone(""), nil
	}
	return netip.Addr{}, fmt.Errorf("no route to a server: %w; say which address to register with --address", last)
}

func portOf(u *url.URL) string {
	if u.Port() != "" {
		return u.Port()
	}
	return "80" // any will do
}
