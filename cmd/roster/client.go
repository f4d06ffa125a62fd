package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rosterdns/roster/httpapi/client"
)

// clientFlags are what every command has that asks a server over HTTP. Each may
// also be an environment variable (--server: ROSTER_SERVER) or a key of the
// file.
type clientFlags struct {
	servers []string
	token   string
	ca      string
	cert    string
	key     string
	config  string
}

func (f *clientFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringSliceVar(&f.servers, "server", []string{client.DefaultServer}, "the server, several with commas, each a `URL`")
	fs.StringVar(&f.token, "token", "", "the `text` of a token; better in ROSTER_TOKEN")
	fs.StringVar(&f.ca, "ca", "", "authorities for https, a PEM `file` (default the system's)")
	fs.StringVar(&f.cert, "cert", "", "a client certificate in place of a token, a PEM `file`")
	fs.StringVar(&f.key, "key", "", "the key of --cert, a PEM `file`")
	fs.StringVar(&f.config, "config", "", "a YAML `file` with the flags' names as keys")
}

// client returns the client that the flags describe, once they are layered.
func (f *clientFlags) client() (*client.Client, error) {
	c := &client.Client{Servers: f.servers, Token: f.token}
	if len(f.servers) == 0 {
		return nil, usageError{errors.New("--server: give at least one URL, such as " + client.DefaultServer)}
	}
	for _, s := range f.servers {
		if _, err := client.ParseServer(s); err != nil {
			return nil, usageError{fmt.Errorf("--server: %w", err)}
		}
	}
	t, err := f.tls()
	if err != nil {
		return nil, err
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("internal error: the default transport is none of net/http")
	}
	transport = transport.Clone()
	transport.TLSClientConfig = t
	c.HTTP = &http.Client{Transport: transport}
	return c, nil
}

func (f *clientFlags) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("read --ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("read --ca: there is no certificate in %s", f.ca)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return nil, usageError{errors.New("--cert and --key: give both, or neither")}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("read --cert %s and --key %s: %w", f.cert, f.key, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// asking wraps what a command does with a server: the flags are layered, the
// first SIGINT or SIGTERM ends ctx, and errors say what to do.
func (f *clientFlags) asking(do func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := layer(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		c, err := f.client()
		if err != nil {
			return err
		}
		c.OnStale = func(s client.Stale) { cmd.PrintErrln("roster:", staleText(s)) }
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		context.AfterFunc(ctx, stop) // a second signal ends it at once
		return advise(do(ctx, cmd, c, args))
	}
}

// advise adds to an error what the caller can do about it.
func advise(err error) error {
	var e *client.Error
	switch {
	case errors.As(err, new(*client.UnreachableError)):
		return fmt.Errorf("%w\nStart one with 'roster serve', or say where it is with --server or ROSTER_SERVER.", err) //nolint:staticcheck // two sentences for people
	case errors.As(err, &e) && e.Status == http.StatusUnauthorized:
		return fmt.Errorf("%w\nGive a token with --token or ROSTER_TOKEN; 'roster token new' makes one.", err) //nolint:staticcheck // two sentences for people
	}
	return err
}

// staleText says what became of a server that is cut off from the others.
func staleText(s client.Stale) string {
	from := cmp.Or(s.From, "its store") // which answers do not name
	switch {
	case s.Watching == "":
		return fmt.Sprintf("warning: %s has been cut off from %s for %v, and no other in --server knows better, so this may be out of date: name one that does, or ask again later", s.Server, from, s.Since)
	case s.Over:
		return fmt.Sprintf("%s is in touch with %s again", s.Server, from)
	case s.Watching != s.Server:
		return fmt.Sprintf("%s is cut off from %s; watching %s", s.Server, from, s.Watching)
	}
	return fmt.Sprintf("%s is cut off from %s, and no other in --server is better: changes do not show until one is in touch again", s.Server, from)
}

// completionTime is how long a server may take to complete a word.
const completionTime = 2 * time.Second

// names completes the first argument with services, and the second with
// instances where the command has one.
func (f *clientFlags) names(count int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		if len(args) >= count || layer(cmd.Flags(), os.LookupEnv) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := f.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return candidates(ctx, c, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// candidates lists the services, or the instances of the one that was given, each
// with a word on how it is. A server that does not answer knows none.
func candidates(ctx context.Context, c *client.Client, args []string) []cobra.Completion {
	var list []cobra.Completion
	if len(args) == 0 {
		services, _ := c.Services(ctx, client.Query{})
		for _, s := range services.Services {
			list = append(list, cobra.CompletionWithDesc(s.Name, fmt.Sprintf("%d of %d up", s.Up, s.Instances)))
		}
		return list
	}
	instances, _ := c.Instances(ctx, args[0], client.Query{})
	for _, i := range instances.Instances {
		list = append(list, cobra.CompletionWithDesc(i.ID, fmt.Sprintf("%s, %s", endpoint(i), i.Status)))
	}
	return list
}

// takes refuses another number of arguments than the words that say what they
// are; the last may be optional, in brackets.
func takes(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		least := len(words)
		if least > 0 && words[least-1][0] == '[' {
			least--
		}
		switch {
		case len(args) < least:
			return usageError{fmt.Errorf("%s: %s is missing", cmd.CommandPath(), words[len(args)])}
		case len(args) > len(words):
			return usageError{fmt.Errorf("%s: %q is one argument too many", cmd.CommandPath(), args[len(words)])}
		}
		return nil
	}
}
