package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// output is how a command shows what it has: a table for people, which has
// more columns if wide, or JSON or YAML for programs.
type output struct {
	format string
	colour bool
	w      io.Writer
}

const outputFormats = "table, wide, json, yaml"

func (o *output) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "a `form`: "+outputFormats)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(strings.Split(outputFormats, ", "), cobra.ShellCompDirectiveNoFileComp))
}

// to has it written to the command's output. It is coloured on a terminal,
// unless NO_COLOR is set (no-color.org) or the terminal can do no more than
// print.
func (o *output) to(cmd *cobra.Command) error {
	o.w = cmd.OutOrStdout()
	o.colour = isTerminal(o.w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	switch o.format {
	case "table", "wide", "json", "yaml":
		return nil
	}
	return usageError{fmt.Errorf("--output %s: allowed are %s", o.format, outputFormats)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (o *output) wide() bool { return o.format == "wide" }

// forProgram reports whether it is not for people.
func (o *output) forProgram() bool { return o.format == "json" || o.format == "yaml" }

// show writes v for programs, or the table for people.
func (o *output) show(v any, people func() *table) error {
	switch o.format {
	case "json":
		e := json.NewEncoder(o.w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		return writeYAML(o.w, v)
	}
	return people().write(o.w, o.colour)
}

// writeYAML writes what JSON would say, so that both have the same names, in
// the same order.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil { // JSON is YAML
		return err
	}
	asBlocks(&n)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return e.Close()
}

// asBlocks takes away the braces and quotes of JSON.
func asBlocks(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		asBlocks(c)
	}
}

// A cell of a table may have a colour.
type cell struct {
	text   string
	colour string
}

// The colours, as terminals take them (ECMA-48 SGR).
const (
	green  = "32"
	red    = "31"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

// table is rows in aligned columns.
type table struct {
	rows [][]cell
}

// newTable makes a table with a heading.
func newTable(heading ...string) *table {
	t := &table{}
	var row []cell
	for _, h := range heading {
		row = append(row, cell{h, bold})
	}
	t.rows = append(t.rows, row)
	return t
}

// add adds a row of cells and of what is printed as it is.
func (t *table) add(values ...any) {
	var row []cell
	for _, v := range values {
		c, ok := v.(cell)
		if !ok {
			c = cell{text: fmt.Sprint(v)}
		}
		c.text = printable(c.text)
		if c.text == "" {
			c.text = "-"
		}
		row = append(row, c)
	}
	t.rows = append(t.rows, row)
}

// printable writes what is no printable text as Go does. Tags and meta are any
// text, and whoever may register is not to move a reader's cursor.
func printable(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

func (t *table) write(w io.Writer, colour bool) error {
	var width []int
	for _, row := range t.rows {
		for k, c := range row {
			if k == len(width) {
				width = append(width, 0)
			}
			width[k] = max(width[k], utf8.RuneCountInString(c.text))
		}
	}
	var b bytes.Buffer
	for _, row := range t.rows {
		for k, c := range row {
			text := c.text
			if colour && c.colour != "" {
				text = "\x1b[" + c.colour + "m" + text + "\x1b[0m"
			}
			b.WriteString(text)
			if k < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[k]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := w.Write(b.Bytes())
	return err
}
