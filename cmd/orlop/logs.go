package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
)

func newLogsCommand(o *options) *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs COMPONENT",
		Short: "Print the log of a component",
		Long: `Print the log of a component: one that 'orlop status' lists, or "supervisor".
(The logs of pods are with 'orlop kubectl logs'.)`,
		Example: `  orlop logs kubelet -f`,
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			l, err := o.layout()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			names, err := logged(l)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := o.layout()
			if err != nil {
				return err
			}
			known, err := logged(l)
			if err != nil {
				return err
			}
			if !slices.Contains(known, args[0]) {
				return fmt.Errorf("there is no component %q: choose one of %s", args[0], strings.Join(known, ", "))
			}
			return printLog(cmd.Context(), cmd.OutOrStdout(), l.LogFile(args[0]), lines, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what is added")
	cmd.Flags().IntVarP(&lines, "tail", "n", -1, "print only the last `N` lines")
	return cmd
}

// logged lists those that have a log. What the rotation has put aside (<component>.log.1) is not among them.
func logged(l cluster.Layout) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(l.LogFile("*")))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("the logs are root's: run it with sudo (%w)", err)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no cluster was started in %s yet: there are no logs", l.DataDir)
	}
	return names, nil
}

func printLog(ctx context.Context, w io.Writer, path string, lines int, follow bool) (err error) {
	var events <-chan fsnotify.Event
	var failures <-chan error
	if follow {
		watcher, werr := fsnotify.NewWatcher()
		if werr != nil {
			return werr
		}
		defer func() { err = errors.Join(err, watcher.Close()) }()
		// The directory, so that a rotation is seen, and before the file is opened, so that none is missed.
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			return err
		}
		events, failures = watcher.Events, watcher.Errors
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if lines >= 0 {
		if err := seekLines(f, lines); err != nil {
			return err
		}
	}
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if !follow {
			return nil
		}
		next, err := rotatedTo(f, path)
		if err != nil {
			return err
		}
		if next != nil {
			// What was added to the old file in the meantime, then the new one from its start.
			_, err := io.Copy(w, f)
			old := f
			f = next
			if err = errors.Join(err, old.Close()); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case err := <-failures:
			// Events were dropped: looking at the file makes up for them.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
		}
	}
}

// rotatedTo opens the file at path if that is another than f; nil when it is the same, or not there.
func rotatedTo(f *os.File, path string) (*os.File, error) {
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && os.SameFile(opened, there) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	next, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return next, err
}

// seekLines moves f to the start of its last n lines.
func seekLines(f *os.File, n int) error {
	const chunk = 64 << 10
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := make([]byte, chunk)
	// The line end that the file closes with begins no further line.
	for n++; end > 0; {
		start := max(0, end-chunk)
		part := buf[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] != '\n' {
				continue
			}
			if n--; n == 0 {
				_, err := f.Seek(start+int64(i)+1, io.SeekStart)
				return err
			}
		}
		end = start
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
