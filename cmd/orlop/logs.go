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
			return logged(l), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := o.layout()
			if err != nil {
				return err
			}
			known := logged(l)
			if len(known) == 0 {
				return fmt.Errorf("no cluster was started in %s yet: there are no logs", l.DataDir)
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

// logged lists those that have a log.
func logged(l cluster.Layout) []string {
	files, err := filepath.Glob(l.LogFile("*"))
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".log")
		// A rotated log is named <component>-<time>.log.
		if !strings.Contains(name, "T") {
			names = append(names, name)
		}
	}
	return names
}

func printLog(ctx context.Context, w io.Writer, path string, lines int, follow bool) (err error) {
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
	if !follow {
		_, err = io.Copy(w, f)
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watcher.Close()) }()
	// The directory, so that a rotation is seen.
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return err
	}
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			return err
		case e := <-watcher.Events:
			if e.Name != path || !e.Has(fsnotify.Create) {
				continue
			}
			// Rotated: what was added to the old file up to now, then the new one from its start.
			if _, err := io.Copy(w, f); err != nil {
				return err
			}
			next, err := os.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return errors.Join(err, next.Close())
			}
			f = next
		}
	}
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
