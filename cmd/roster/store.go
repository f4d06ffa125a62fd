package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rosterdns/roster/store/bolt"
)

func storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "store",
		Short:   "Check, back up or compact a store's file",
		Example: "  roster store check roster.db\n  roster store backup --server http://127.0.0.1:8054 copy.db",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(storeCheckCommand(), storeBackupCommand(), storeCompactCommand())
	return cmd
}

func storeCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check PATH",
		Short: "Check every page and checksum of a file",
		Long: "Check every page and checksum of a file, and print what is in it. Nothing is changed.\n" +
			"Ends with 1 where something is wrong. While a server has the file open, check a backup.",
		Example: "  roster store check roster.db",
		Args:    aFile("etcdctl endpoint status shows how etcd is, and a server checks each record that it reads"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := bolt.Check(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s\n", args[0], describeStore(s))
			return err
		},
	}
}

func describeStore(s bolt.Summary) string {
	return fmt.Sprintf("%d instances in %d services at revision %d; %d KiB, of which %d are used",
		s.Instances, s.Services, s.Revision, s.Size>>10, s.Used>>10)
}

func storeCompactCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compact PATH",
		Short: "Write a file anew without the free pages in it",
		Long: "Write a file anew without the free pages in it, checked before it takes the old one's place.\n" +
			"It needs room for the new one beside it. Stop the server first.",
		Example: "  roster store compact roster.db",
		Args:    aFile("roster serve --etcd-compact has etcd drop its history, and etcdctl defrag gives back the room"),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, after, err := bolt.Compact(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s had %d KiB and has %d now: %s\n", args[0], before.Size>>10, after.Size>>10, describeStore(after))
			return err
		},
	}
}

// backupFlags are the flags of roster store backup. --server and --token may
// also be environment variables.
type backupFlags struct {
	server string
	token  string
	force  bool
}

func storeBackupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup [PATH] OUT",
		Short: "Copy a store as it is at one moment, of a running server too",
		Long: "Copy a store as it is at one moment to a new file. With one argument it is that of a running\n" +
			"server (--server), which goes on meanwhile, and the token needs the rights read and register for\n" +
			"all services; with two it is a file that no server has open. OUT is there once the copy is whole,\n" +
			"on disk and checked, and not before.",
		Example: "  roster store backup --server http://127.0.0.1:8054 copy.db\n  roster store backup roster.db copy.db",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usageError{fmt.Errorf("%s takes OUT, or PATH and OUT; it was given %d arguments", cmd.CommandPath(), len(args))}
			}
			if len(args) == 2 && cmd.Flags().Changed("server") {
				return usageError{errors.New("give --server or PATH, not both")}
			}
			return noEtcd(args[0], "etcdctl snapshot save FILE backs it up")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fromEnv(cmd.Flags(), clientEnv); err != nil {
				return err
			}
			out := args[len(args)-1]
			source := func(w io.Writer) error { return f.download(cmd.Context(), w) }
			if len(args) == 2 {
				source = func(w io.Writer) error { return bolt.Copy(args[0], w) }
			}
			s, err := backUp(out, f.force, source)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is written and good: %s\n", out, describeStore(s))
			return err
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.server, "server", "http://127.0.0.1:8054", "the server's `URL`, several with commas: the first that answers (or ROSTER_SERVER)")
	fs.StringVar(&f.token, "token", "", "the `token` for it (or ROSTER_TOKEN)")
	fs.BoolVar(&f.force, "force", false, "replace OUT if it is there")
	return cmd
}

// clientEnv is os.LookupEnv for what a client takes from the environment.
func clientEnv(name string) (string, bool) {
	if name != "ROSTER_SERVER" && name != "ROSTER_TOKEN" {
		return "", false
	}
	return os.LookupEnv(name)
}

// aFile takes one argument, PATH. instead is what to use for an etcd.
func aFile(instead string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s takes PATH; it was given %d arguments", cmd.CommandPath(), len(args))}
		}
		return noEtcd(args[0], instead)
	}
}

// noEtcd refuses an etcd in place of a file.
func noEtcd(path, instead string) error {
	if !strings.HasPrefix(path, etcdScheme) {
		return nil
	}
	return usageError{fmt.Errorf("the store of --store etcd:// is no file: %s", instead)}
}

// backUp has source write a file beside out, and gives it that name when it is
// whole: written, synced, checked, renamed, and then the folder synced.
func backUp(out string, force bool, source func(io.Writer) error) (bolt.Summary, error) {
	if err := free(out, force); err != nil {
		return bolt.Summary{}, err
	}
	f, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".partial-*")
	if err != nil {
		return bolt.Summary{}, fmt.Errorf("write %s: %w", out, err)
	}
	defer os.Remove(f.Name()) // which is out by then, where all went well
	err = source(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return bolt.Summary{}, fmt.Errorf("back up to %s: %w", out, err)
	}
	s, err := bolt.Check(f.Name())
	if err != nil {
		return bolt.Summary{}, fmt.Errorf("back up to %s: what came is no good: %w", out, err)
	}
	if err := free(out, force); err != nil { // somebody may have put it there meanwhile
		return bolt.Summary{}, err
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return bolt.Summary{}, fmt.Errorf("write %s: %w", out, err)
	}
	dir, err := os.Open(filepath.Dir(out))
	if err != nil {
		return bolt.Summary{}, fmt.Errorf("write %s: %w", out, err)
	}
	defer dir.Close()
	return s, dir.Sync()
}

// free returns an error where out is there and may not be replaced.
func free(out string, force bool) error {
	if _, err := os.Lstat(out); err == nil && !force {
		return fmt.Errorf("%s is there already: name another file, or replace it with --force", out)
	}
	return nil
}

// download writes a running server's store to w.
func (f *backupFlags) download(ctx context.Context, w io.Writer) error {
	var errs []error
	for server := range strings.SplitSeq(f.server, ",") {
		resp, err := f.ask(ctx, strings.TrimSuffix(strings.TrimSpace(server), "/"))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer resp.Body.Close()
		if _, err := io.Copy(w, resp.Body); err != nil {
			return fmt.Errorf("the server %s cut it off: %w; try again", server, err)
		}
		return nil
	}
	return errors.Join(errs...)
}

// headTime is how long a server may take to begin its answer.
const headTime = 30 * time.Second

// ask requests the backup from one server.
func (f *backupFlags) ask(ctx context.Context, server string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/v1/backup", nil)
	if err != nil {
		return nil, fmt.Errorf("--server %s: %w", server, err)
	}
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: headTime}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server (--server): %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // as much of it as there is
		return nil, fmt.Errorf("the server %s refuses: %s: %s", server, resp.Status, strings.TrimSpace(string(text)))
	}
	return resp, nil
}
