package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rosterdns/roster/httpapi/client"
)

// listCommand makes a command that lists what a query asks for.
func listCommand(cmd *cobra.Command, args int, do func(ctx context.Context, c *client.Client, o *output, q client.Query, args []string) error) *cobra.Command {
	var (
		f      clientFlags
		o      output
		tags   []string
		status string
	)
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringSliceVar(&tags, "tag", nil, "only instances with this tag, a `text`, several: all of them")
	fs.StringVar(&status, "status", "", "only these, a `word`: up, starting, down, draining")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{"up", "starting", "down", "draining"}, cobra.ShellCompDirectiveNoFileComp))
	o.register(cmd)
	f.register(fs)
	cmd.ValidArgsFunction = f.names(args)
	cmd.RunE = f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
		if err := o.to(cmd); err != nil {
			return err
		}
		return do(ctx, c, &o, client.Query{Tags: tags, Status: client.Status(status)}, args)
	})
	return cmd
}

func servicesCommand() *cobra.Command {
	return listCommand(&cobra.Command{
		Use:     "services",
		Short:   "List the services",
		Example: "  roster services\n  roster services --tag v2 -o json",
		Args:    noArgs,
	}, 0, func(ctx context.Context, c *client.Client, o *output, q client.Query, _ []string) error {
		list, err := c.Services(ctx, q)
		if err != nil {
			return err
		}
		return o.show(list, func() *table { return serviceTable(list.Services, o.wide()) })
	})
}

func serviceTable(list []client.Service, wide bool) *table {
	heading := []string{"SERVICE", "INSTANCES", "UP", "TAGS"}
	if wide {
		heading = append(heading, "STARTING", "DOWN", "DRAINING")
	}
	t := newTable(heading...)
	for _, s := range list {
		up := cell{strconv.Itoa(s.Up), green}
		switch {
		case s.Up == 0:
			up.colour = red
		case s.Up < s.Instances:
			up.colour = yellow
		}
		row := []any{s.Name, s.Instances, up, strings.Join(s.Tags, ",")}
		if wide {
			row = append(row, s.Starting, s.Down, s.Draining)
		}
		t.add(row...)
	}
	return t
}

func instancesCommand() *cobra.Command {
	return listCommand(&cobra.Command{
		Use:     "instances SERVICE",
		Short:   "List the instances of a service",
		Example: "  roster instances web\n  roster instances web --status up -o wide",
		Args:    takes("SERVICE"),
	}, 1, func(ctx context.Context, c *client.Client, o *output, q client.Query, args []string) error {
		list, err := c.Instances(ctx, args[0], q)
		if err != nil {
			return err
		}
		return o.show(list, func() *table { return instanceTable(list.Instances, o.wide()) })
	})
}

func instanceTable(list []client.Instance, wide bool) *table {
	heading := []string{"ID", "ADDRESS", "PRIORITY", "WEIGHT", "STATUS", "LEASE", "TAGS"}
	if wide {
		heading = append(heading, "NAME", "PROTOCOL", "TTL", "PORTS", "CHECK", "META")
	}
	t := newTable(heading...)
	for _, i := range list {
		row := []any{i.ID, endpoint(i), i.Priority, i.Weight, statusCell(i.Status), left(i.Expires), strings.Join(i.Tags, ",")}
		if wide {
			ttl := ""
			if !i.Permanent {
				ttl = strconv.Itoa(i.TTL)
			}
			row = append(row, i.DNSName, i.Protocol, ttl, pairs(i.Ports, "%s=%d"), checkText(i.Check), pairs(i.Meta, "%s=%s"))
		}
		t.add(row...)
	}
	return t
}

// endpoint is where an instance is, its addresses with the port.
func endpoint(i client.Instance) string {
	var list []string
	for _, a := range i.Addresses {
		if i.Port == 0 {
			list = append(list, a.String())
		} else {
			list = append(list, net.JoinHostPort(a.String(), strconv.Itoa(int(i.Port))))
		}
	}
	return strings.Join(list, ",")
}

func statusCell(s client.Status) cell {
	switch s {
	case client.Up:
		return cell{string(s), green}
	case client.Down:
		return cell{string(s), red}
	default:
		return cell{string(s), yellow}
	}
}

func checkText(c *client.Check) string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d%s every %gs", c.Type, c.Port, c.Path, c.Interval)
}

// pairs puts a map into words, sorted by key.
func pairs[K cmp.Ordered, V any](m map[K]V, format string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(list, ",")
}
