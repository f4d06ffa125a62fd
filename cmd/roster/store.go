package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rosterdns/roster/httpapi/client"
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

func storeBackupCommand() *cobra.Command {
	var f clientFlags
	var force bool
	cmd := &cobra.Command{
		Use:   "backup [PATH] OUT",
		Short: "Copy a store as it is at one moment, of a running server too",
		Long: "Copy a store as it is at one moment to a new file. With one argument it is that of a running\n" +
			"server (--server), which goes on meanwhile, and the token or the client certificate needs the\n" +
			"rights read and register for all services; with two it is a file that no server has open. OUT is\n" +
			"there once the copy is whole, on disk and checked, and not before.",
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
			if len(args) == 2 {
				if err := layer(cmd.Flags(), os.LookupEnv); err != nil { // asking does that otherwise
					return err
				}
				return backUp(cmd, args[1], force, func(w io.Writer) error { return bolt.Copy(args[0], w) })
			}
			return f.asking(func(ctx context.Context, cmd *cobra.Command, c *client.Client, args []string) error {
				return backUp(cmd, args[0], force, func(w io.Writer) error { return c.Backup(ctx, w) })
			})(cmd, args)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "replace OUT if it is there")
	return cmd
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

// backUp makes a copy, and says what is in it.
func backUp(cmd *cobra.Command, out string, force bool, source func(io.Writer) error) error {
	s, err := write(out, force, source)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is written and good: %s\n", out, describeStore(s))
	return err
}

// write has source write a file beside out, and gives it that name when it is
// whole: written, synced, checked, renamed, and then the folder synced.
func write(out string, force bool, source func(io.Writer) error) (bolt.Summary, error) {
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
