// Command roster is the roster server and its command line client.
//
// main.go has the table of commands and turns errors into exit codes, serve.go
// wires the server, config.go reads flags, environment and file.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// rootCommand is all commands.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "roster",
		Short: "DNS-based service discovery: who is on duty, by dig",
		Long: "roster serves a DNS zone with the service instances that are alive right now.\n" +
			"They register over HTTP and stay alive with heartbeats.",
		Example:       "  roster serve\n  roster run web --port 8080 -- ./server\n  roster resolve web",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	inOrder()
	root.AddCommand(serveCommand(), runCommand(), registerCommand(), heartbeatCommand(), deregisterCommand(),
		servicesCommand(), instancesCommand(), watchCommand(), resolveCommand(),
		storeCommand(), tokenCommand(), completionCommand(), versionCommand())
	useHelp(root)
	return root
}

// inOrder keeps commands in the order of a first look. It is for the whole program,
// of which tests run several at a time.
var inOrder = sync.OnceFunc(func() { cobra.EnableCommandSorting = false })

func run(args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if ended := new(endedError); errors.As(err, ended) {
		return ended.status // the program has said itself what there was to say
	}
	fmt.Fprintf(stderr, "roster: %v\n", err)
	if errors.As(err, new(usageError)) {
		fmt.Fprintf(stderr, "Run '%s --help' for the flags.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailure
}

// noArgs refuses arguments, and with them commands that do not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{fmt.Errorf("there is no command %q", args[0])}
	}
	return usageError{fmt.Errorf("%s takes no arguments; it was given %q", cmd.CommandPath(), args[0])}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  roster version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "roster %s\n", version())
			return err
		},
	}
}

// version returns what this program is, for people.
func version() string {
	v, goVersion := build()
	if goVersion == "" {
		return v
	}
	return fmt.Sprintf("%s (%s)", v, goVersion)
}

// build returns what the build recorded: the module's version, or where it was
// built from a checkout, the commit; and the version of Go.
func build() (v, goVersion string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	v = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = "commit " + s.Value
		}
	}
	return v, info.GoVersion
}
