package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rosterdns/roster/httpapi/client"
)

func watchCommand() *cobra.Command {
	var (
		f clientFlags
		o output
	)
	cmd := &cobra.Command{
		Use:   "watch [SERVICE]",
		Short: "Show what changes, as it happens",
		Long: "Show the instances of a service, or of all, as they are at every moment. In a pipe it\n" +
			"prints a line for each instance that is there, and then one for each change.",
		Example: "  roster watch web\n  roster watch -o json | jq .instance.id",
		Args:    takes("[SERVICE]"),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	o.register(cmd)
	f.register(fs)
	cmd.ValidArgsFunction = f.names(1)
	cmd.RunE = f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
		if err := o.to(cmd); err != nil {
			return err
		}
		service := strings.Join(args, "")
		if isTerminal(o.w) && !o.forProgram() {
			return watchScreen(ctx, c, service, &o)
		}
		for e, err := range c.Watch(ctx, service) {
			switch {
			case client.IsFinal(err):
				return err
			case err != nil:
				cmd.PrintErrln("roster:", err.Error()+"; trying again")
			default:
				if err := o.event(e); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return cmd
}

// event writes an event for programs, or as lines for people.
func (o *output) event(e client.Event) error {
	switch o.format {
	case "json":
		return json.NewEncoder(o.w).Encode(e) // on one line
	case "yaml":
		if _, err := fmt.Fprintln(o.w, "---"); err != nil {
			return err
		}
		return writeYAML(o.w, e)
	}
	list := e.Instances
	if e.Instance != nil {
		list = []client.Instance{*e.Instance}
	}
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	for _, i := range list {
		if _, err := fmt.Fprintf(o.w, "%s %s %s/%s %s %s\n", now, e.Kind, i.Service, i.ID, endpoint(i), i.Status); err != nil {
			return err
		}
	}
	return nil
}

// watched is what a watch has told so far.
type watched struct {
	instances map[[2]string]client.Instance // by service and ID
	last      string                        // what happened last
	lost      error                         // why nothing comes
	note      string                        // what there is to know of the server
}

func (w *watched) take(e client.Event, err error) {
	if w.lost = err; err != nil {
		return
	}
	w.note = ""
	if e.Kind == client.Reset {
		w.instances = map[[2]string]client.Instance{}
		for _, i := range e.Instances {
			w.instances[[2]string{i.Service, i.ID}] = i
		}
		return
	}
	i := *e.Instance
	w.last = fmt.Sprintf("%s %s %s/%s", time.Now().Format("15:04:05"), e.Kind, i.Service, i.ID)
	if e.Kind == client.Deregistered || e.Kind == client.Expired {
		delete(w.instances, [2]string{i.Service, i.ID})
		return
	}
	w.instances[[2]string{i.Service, i.ID}] = i
}

// redraw is how often a terminal is drawn at most.
const redraw = 100 * time.Millisecond

// watchScreen draws what is there on a terminal, again and again.
func watchScreen(ctx context.Context, c *client.Client, service string, o *output) error {
	ctx, cancel := context.WithCancel(ctx)
	type news struct {
		event client.Event
		err   error
		stale *client.Stale
	}
	came := make(chan news)
	tell := func(n news) {
		select {
		case came <- n:
		case <-ctx.Done():
		}
	}
	c.OnStale = func(s client.Stale) { tell(news{stale: &s}) } // which would otherwise be written into the table
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range c.Watch(ctx, service) {
			tell(news{event: e, err: err})
		}
	}()
	defer func() { cancel(); <-ended }()
	w := &watched{}
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for changed := false; ; {
		select {
		case n := <-came:
			if client.IsFinal(n.err) {
				return n.err
			}
			if n.stale != nil {
				w.note = staleText(*n.stale)
			} else {
				w.take(n.event, n.err)
			}
			changed = true
		case <-tick.C:
			if !changed {
				continue
			}
			changed = false
			if err := w.draw(o.w, service, o.wide(), o.colour, height(o.w)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// height returns how many lines a terminal has.
func height(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if _, h, err := term.GetSize(int(f.Fd())); err == nil && h > 0 {
			return h
		}
	}
	return 24
}

// draw draws over what was drawn before. Lines that are too long are cut by the
// terminal, for to wrap them would move everything below (DECAWM).
func (w *watched) draw(out io.Writer, service string, wide, colour bool, lines int) error {
	list := make([]client.Instance, 0, len(w.instances))
	for _, i := range w.instances {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b client.Instance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	up := 0
	for _, i := range list {
		if i.Status == client.Up {
			up++
		}
	}
	title := cmp.Or(service, "all services")
	head := fmt.Sprintf("%s: %d instances, %d up", title, len(list), up)
	if w.last != "" {
		head += ", last: " + w.last
	}
	if w.lost != nil {
		head = "connection lost, trying again: " + w.lost.Error()
	}
	more := ""
	if room := max(1, lines-4); len(list) > room {
		more = fmt.Sprintf("and %d more\n", len(list)-room)
		list = list[:room]
	}
	heading := []string{"SERVICE", "ID", "ADDRESS", "PRIORITY", "WEIGHT", "STATUS", "TAGS"}
	if wide {
		heading = append(heading, "NAME", "META")
	}
	t := newTable(heading...)
	for _, i := range list {
		row := []any{i.Service, i.ID, endpoint(i), i.Priority, i.Weight, statusCell(i.Status), strings.Join(i.Tags, ",")}
		if wide {
			row = append(row, i.DNSName, pairs(i.Meta, "%s=%s"))
		}
		t.add(row...)
	}
	var b strings.Builder
	b.WriteString("\x1b[?7l\x1b[H\x1b[2J" + head + "\n" + w.note + "\n")
	if err := t.write(&b, colour); err != nil {
		return err
	}
	b.WriteString(more + "\x1b[?7h")
	_, err := io.WriteString(out, b.String())
	return err
}
