package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

// statusNotRunning is the exit status for a cluster that does not run, as of `systemctl status`.
const statusNotRunning exitError = 3

func newStatusCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the cluster runs, and each of its components",
		Long: `Show whether the cluster runs, and each of its components.

Exit status: 0 when it is ready, 1 when it is starting, stopping or failed, 3 when it does not run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output %q is unknown: the only format is json", output)
			}
			l, err := o.layout()
			if err != nil {
				return err
			}
			client := control.NewClient(l.ControlSocket())
			defer client.Close()
			s, err := client.Status(cmd.Context(), nil)
			if errors.Is(err, control.ErrNotRunning) {
				s, err = stoppedStatus(l), nil
			}
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), s, output); err != nil {
				return err
			}
			switch s.Phase {
			case cluster.PhaseReady:
				return nil
			case cluster.PhaseStopped:
				return statusNotRunning
			default:
				return exitError(1)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}

// stoppedStatus is what can be said of a cluster that does not run.
func stoppedStatus(l cluster.Layout) *cluster.Status {
	s := &cluster.Status{DataDir: l.DataDir, Phase: cluster.PhaseStopped}
	if state, err := cluster.ReadState(l.DataDir); err == nil {
		s.ID, s.Node, s.Plain, s.Kubeconfig = state.ID, state.Node, state.Plain, l.Kubeconfig()
		// Whether it can be told is no reason to fail.
		s.Orphans, _ = state.Orphans()
	}
	return s
}

func printStatus(w io.Writer, s *cluster.Status, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	switch {
	case s.Phase == cluster.PhaseStopped && s.ID == "":
		_, err := fmt.Fprintf(w, "There is no cluster in %s.\n", s.DataDir)
		return err
	case s.Phase == cluster.PhaseStopped && s.Orphans:
		_, err := fmt.Fprintf(w, "The supervisor of the cluster in %s is gone, and its pods go on running: "+
			"'orlop up' takes them over, 'orlop down' ends them.\n", s.DataDir)
		return err
	case s.Phase == cluster.PhaseStopped:
		_, err := fmt.Fprintf(w, "The cluster in %s is stopped.\n", s.DataDir)
		return err
	}
	fmt.Fprintf(w, "cluster    %s (%s)\n", s.ID, s.Phase)
	if s.Error != "" {
		fmt.Fprintf(w, "error      %s\n", s.Error)
	}
	fmt.Fprintf(w, "server     %s\nnode       %s %s\n", s.Server, s.Node, s.NodeIP)
	if s.Netns != "" {
		fmt.Fprintf(w, "netns      %s\n", s.Netns)
	}
	fmt.Fprintf(w, "data       %s\n\n", s.DataDir)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "COMPONENT\tSTATE\tPID\tRESTARTS\tFOR\tREASON")
	for _, c := range s.Components {
		pid := "-"
		if c.PID != 0 {
			pid = strconv.Itoa(c.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", c.Name, c.State, pid, c.Restarts,
			time.Since(c.Since).Round(time.Second), c.Reason)
	}
	return t.Flush()
}
