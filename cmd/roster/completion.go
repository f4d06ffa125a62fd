package main

import (
	"io"

	"github.com/spf13/cobra"
)

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that has a shell complete words",
		Long: "Print a script that has the shell complete commands and flags, and the names of\n" +
			"services and instances, which it asks the server for (ROSTER_SERVER).",
		Example: "  source <(roster completion bash)\n" +
			"  source <(roster completion zsh)\n" +
			"  roster completion fish > ~/.config/fish/completions/roster.fish",
		Args:              takes("the shell"),
		ValidArgsFunction: cobra.FixedCompletions([]string{"bash", "zsh", "fish"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			script := map[string]func(io.Writer) error{
				"bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
				"zsh":  root.GenZshCompletion,
				"fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
			}[args[0]]
			if script == nil {
				return usagef("roster completion %s: allowed are bash, zsh, fish", args[0])
			}
			return script(w)
		},
	}
}
