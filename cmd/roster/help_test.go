package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The help of every command begins with an example of it, fits on a screen of
// 24 lines and 80 columns, and has every flag, if only its name.
func TestHelpFitsAScreen(t *testing.T) {
	t.Parallel()
	n := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		n++
		path := strings.Fields(cmd.CommandPath())
		var out bytes.Buffer
		if status := run(append(path[1:], "--help"), &out, &out); status != 0 {
			t.Errorf("%s --help ended with %d", cmd.CommandPath(), status)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) >= 24 {
			t.Errorf("%s --help has %d lines:\n%s", cmd.CommandPath(), len(lines), out.String())
		}
		for _, l := range lines {
			if len(l) > 80 {
				t.Errorf("%s --help: %d columns: %s", cmd.CommandPath(), len(l), l)
			}
		}
		if !strings.Contains(lines[0], cmd.CommandPath()) || !strings.HasPrefix(lines[0], "  ") {
			t.Errorf("%s --help begins with %q, which is no example", cmd.CommandPath(), lines[0])
		}
		for _, f := range flagsOf(cmd) {
			if !slices.Contains(strings.Fields(strings.ReplaceAll(out.String(), ",", " ")), "--"+f.Name) {
				t.Errorf("%s --help does not name --%s", cmd.CommandPath(), f.Name)
			}
		}
		var whole bytes.Buffer
		if status := run(append([]string{"help"}, path[1:]...), &whole, &whole); status != 0 || strings.Contains(whole.String(), "More, by") {
			t.Errorf("help %s: %d, %s", cmd.CommandPath(), status, whole.String())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	if n < 14 {
		t.Errorf("only %d commands", n)
	}
}
