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
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	err := client.Stop(cmd.Context())
	if err == nil {
		view := newProgress(cmd.OutOrStdout())
		view.stopping = true
		_, err = follow(cmd.Context(), client, view, func(*cluster.Status) bool { return false })
		view.done()
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	// What the supervisor undid is not undone twice; what it left, or never got to, is undone here.
	if err := cluster.Teardown(cmd.Context(), l.DataDir, l.BinDir); err != nil {
		return fmt.Errorf("the cluster in %s is stopped, but not all could be cleaned up: %w", l.DataDir, err)
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
