package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A screen of help: what a terminal shows without scrolling, less the line for
// the next prompt.
const (
	helpLines   = 23
	helpColumns = 80
)

// useHelp gives all commands below root their help. It begins with an example
// and fits on a screen: flags that find no room are named only, and
// 'roster help COMMAND' has all of them.
func useHelp(root *cobra.Command) {
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { cmd.Print(help(cmd, helpLines)) })
	root.SetUsageFunc(func(cmd *cobra.Command) error { cmd.Print(help(cmd, helpLines)); return nil })
	root.SetHelpCommand(&cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Say all that there is to say of a command",
		Example: "  roster help serve",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("there is no command %q", strings.Join(args, " "))}
			}
			about.InitDefaultHelpFlag()
			cmd.Print(help(about, 0))
			return nil
		},
	})
}

// help is the help of a command in so many lines; 0 is for as many as it takes.
func help(cmd *cobra.Command, lines int) string {
	var b strings.Builder
	if cmd.Example != "" {
		b.WriteString(cmd.Example + "\n\n")
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	b.WriteString(strings.Join(wrap(text, helpColumns), "\n") + "\n")
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\n" + subcommands(cmd) + "\nRun 'roster COMMAND --help' for the flags of a command.\n")
		return b.String()
	}
	all := flagsOf(cmd)
	b.WriteString("\nUsage: " + usageLine(cmd, len(all) > 0) + "\n")
	room := lines - strings.Count(b.String(), "\n")
	shown := len(all)
	text = flagHelp(all)
	for lines > 0 && strings.Count(text, "\n") > room && shown > 0 {
		shown-- // as many as there is room for, with the names of the others below
		text = flagHelp(all[:shown]) + names(cmd, all[shown:])
	}
	b.WriteString(text)
	return b.String()
}

// usageLine is how a command is called.
func usageLine(cmd *cobra.Command, hasFlags bool) string {
	line := cmd.Parent().CommandPath() + " " + cmd.Use
	if hasFlags && !strings.Contains(line, "[flags]") {
		line += " [flags]"
	}
	return line
}

func subcommands(cmd *cobra.Command) string {
	var b strings.Builder
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			fmt.Fprintf(&b, "  %-12s %s\n", c.Name(), c.Short)
		}
	}
	return b.String()
}

func flagsOf(cmd *cobra.Command) []*pflag.Flag {
	var list []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			list = append(list, f)
		}
	})
	return list
}

// flagHelp puts flags into words, aligned.
func flagHelp(flags []*pflag.Flag) string {
	left, usage := make([]string, len(flags)), make([]string, len(flags))
	width := 0
	for k, f := range flags {
		var kind string
		kind, usage[k] = pflag.UnquoteUsage(f)
		left[k] = "  --" + f.Name
		if f.Shorthand != "" {
			left[k] += ", -" + f.Shorthand
		}
		if kind != "" {
			left[k] += " " + kind
		}
		usage[k] += defaultOf(f)
		width = max(width, len(left[k]))
	}
	var b strings.Builder
	indent := strings.Repeat(" ", width+2)
	for k := range flags {
		words := wrap(usage[k], helpColumns-len(indent))
		b.WriteString(left[k] + indent[len(left[k]):] + strings.Join(words, "\n"+indent) + "\n")
	}
	return b.String()
}

// defaultOf says which value a flag has that is left out.
func defaultOf(f *pflag.Flag) string {
	switch v := f.DefValue; {
	case strings.Contains(f.Usage, "(default"), v == "", v == "false", v == "[]", v == "0":
		return ""
	default:
		return fmt.Sprintf(" (default %s)", strings.Trim(v, "[]"))
	}
}

// names has the names of the flags that are not described.
func names(cmd *cobra.Command, flags []*pflag.Flag) string {
	var b strings.Builder
	fmt.Fprintf(&b, "More, by 'roster help %s':", strings.TrimPrefix(cmd.CommandPath(), "roster "))
	for _, f := range flags {
		b.WriteString(" --" + f.Name)
	}
	return strings.Join(wrap(b.String(), helpColumns), "\n") + "\n"
}

// wrap breaks a text into lines.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
