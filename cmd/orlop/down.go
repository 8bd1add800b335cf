package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

func newDownCommand(o *options) *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster",
		Long: `Stop the cluster: pods first, each given ten seconds to end, then the components. Nothing is left
behind in the kernel: no process, mount, loop device or network namespace. The data stays,
and 'orlop up' brings everything back.

With --purge the data goes as well, volumes included. There is no way back from that.

A cluster whose supervisor was killed is cleaned up in the same way.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := requireRoot(); err != nil {
				return err
			}
			l, err := o.layout()
			if err != nil {
				return err
			}
			return down(cmd, l, purge)
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the data directory's content too: every volume, every object")
	return cmd
}

func down(cmd *cobra.Command, l cluster.Layout, purge bool) error {
	if _, err := cluster.ReadState(l.DataDir); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(cmd.OutOrStdout(), "There is no cluster in %s.\n", l.DataDir)
		return nil
	} else if err != nil {
		return err
	}
	if err := stopCluster(cmd, l); err != nil {
		return err
	}
	if !purge {
		fmt.Fprintf(cmd.OutOrStdout(), "The cluster in %s is stopped. Its data is kept: 'orlop up' brings it back.\n", l.DataDir)
		return nil
	}
	if err := cluster.Purge(cmd.Context(), l.DataDir); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The cluster in %s is stopped and its data removed.\n", l.DataDir)
	return nil
}

// stopCluster stops a cluster that runs, and cleans up after it, or after one whose supervisor was killed.
func stopCluster(cmd *cobra.Command, l cluster.Layout) error {
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	var err error
	// Again when an `up` holds the data directory that does not answer yet: it will a moment later.
	for range 3 {
		if err := stopRunning(cmd, client, l); err != nil {
			return err
		}
		// For what the supervisor left, or never got to. What is gone already costs a look.
		err = cluster.Teardown(cmd.Context(), l.DataDir, l.BinDir)
		if !errors.Is(err, cluster.ErrRunning) {
			break
		}
	}
	if errors.Is(err, cluster.ErrRunning) {
		return fmt.Errorf("another orlop holds %s and does not answer: see %s, then run 'orlop down' again",
			l.DataDir, l.LogFile("supervisor"))
	}
	if err != nil {
		return fmt.Errorf("the cluster in %s is stopped, but not all could be cleaned up: %w", l.DataDir, err)
	}
	return nil
}

// stopRunning has the supervisor stop, if one answers, and returns when none does any more.
func stopRunning(cmd *cobra.Command, client *control.Client, l cluster.Layout) error {
	err := client.Stop(cmd.Context())
	if err == nil {
		view := newProgress(cmd.OutOrStdout())
		view.stopping = true
		_, err = follow(cmd.Context(), client, view, func(*cluster.Status) bool { return false })
		view.done()
	}
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return nil
	case cmd.Context().Err() != nil:
		return fmt.Errorf("interrupted; the cluster in %s may go on stopping: 'orlop status' tells", l.DataDir)
	default:
		return err
	}
}
