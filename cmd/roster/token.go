package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/rosterdns/roster/httpapi"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "Make tokens for the HTTP API",
		Example: "  roster token new --name web-team --service web --service 'api-*'",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenCommand())
	return cmd
}

// entry is an entry of the tokens file, as roster token new writes it.
type entry struct {
	Name      string   `yaml:"name"`
	SHA256    string   `yaml:"sha256"`
	Services  []string `yaml:"services,omitempty,flow"`
	Actions   []string `yaml:"actions,flow"`
	Addresses []string `yaml:"addresses,omitempty,flow"`
}

func newTokenCommand() *cobra.Command {
	var e entry
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Print a new token and its entry for the tokens file",
		Long: "Print a new random token, for the client, and its entry for the file of roster serve --tokens.\n" +
			"The token is in the first line. It is stored nowhere: the entry has its hash only.",
		Example: "  roster token new --name web-team\n" +
			"  roster token new --name web-team --service 'api-*' --address 10.1.0.0/16",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return newToken(cmd.OutOrStdout(), e) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&e.Name, "name", "", "the entry's `name`, which the log shows (default made from the hash)")
	fs.StringSliceVar(&e.Services, "service", nil, "a service or a `pattern` such as api-*, several (default all)")
	fs.StringSliceVar(&e.Actions, "action", []string{"register", "read"}, "an `action`, several: register, read")
	fs.StringSliceVar(&e.Addresses, "address", nil, "a `network` whose addresses instances may have, such as 10.1.0.0/16, several (default any)")
	return cmd
}

// check returns the first mistake that the server would not take.
func (e entry) check() error {
	for _, s := range e.Services {
		if _, err := httpapi.ParsePattern(s); err != nil {
			return fmt.Errorf("--service: %w", err)
		}
	}
	for _, s := range e.Addresses {
		if _, err := network(s); err != nil {
			return fmt.Errorf("--address: %w", err)
		}
	}
	for _, s := range e.Actions {
		if _, err := httpapi.ParseAction(s); err != nil {
			return fmt.Errorf("--action: %w", err)
		}
	}
	if len(e.Actions) == 0 {
		return errors.New("--action: give at least one; allowed: read, register")
	}
	if strings.ContainsFunc(e.Name, unicode.IsControl) {
		return fmt.Errorf("--name: %q is no plain text", e.Name)
	}
	return nil
}

// newToken prints a token and its entry.
func newToken(w io.Writer, e entry) error {
	if err := e.check(); err != nil {
		return usageError{err}
	}
	var secret [32]byte
	rand.Read(secret[:])
	token := "roster_" + base64.RawURLEncoding.EncodeToString(secret[:])
	e.SHA256 = fmt.Sprintf("%x", sha256.Sum256([]byte(token)))
	if e.Name == "" {
		e.Name = "token-" + e.SHA256[:8]
	}
	list, err := yaml.Marshal([]entry{e})
	if err != nil {
		return fmt.Errorf("write the entry: %w", err)
	}
	indented := "  " + strings.ReplaceAll(strings.TrimSpace(string(list)), "\n", "\n  ")
	_, err = fmt.Fprintf(w, "%s\n\n# its entry, below tokens: in the file of roster serve --tokens\n%s\n", token, indented)
	return err
}
