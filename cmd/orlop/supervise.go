package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

// modeFlags are the flags that fix what a cluster is.
type modeFlags struct{ netns, plain bool }

func (m *modeFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&m.netns, "netns", false, "put the node in a network namespace of its own, with addresses from 198.18.0.0/15")
	cmd.Flags().BoolVar(&m.plain, "plain", false, "an ordinary Kubernetes: upstream's volume controllers and none of Orlop's parts")
}

// asked returns the flags' values where they were given, and nil where not.
func (m *modeFlags) asked(cmd *cobra.Command) (netns, plain *bool) {
	if cmd.Flags().Changed("netns") {
		netns = &m.netns
	}
	if cmd.Flags().Changed("plain") {
		plain = &m.plain
	}
	return netns, plain
}

// reportFD is where the supervisor says why it cannot start.
const reportFD = 3

// statusHeld is the supervisor's exit status when another process has the data directory.
const statusHeld exitError = 4

// newSuperviseCommand is what `orlop up` runs in the background. A failure before the cluster can be asked about is
// written to reportFD, which is closed once it can.
func newSuperviseCommand(o *options) *cobra.Command {
	var mode modeFlags
	cmd := &cobra.Command{
		Use:    "supervise",
		Short:  "Hold the cluster up (started by orlop up)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The components must not inherit it: whoever waits for its end would wait for theirs.
			unix.CloseOnExec(reportFD)
			report := os.NewFile(reportFD, "report")
			logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
			netns, plain := mode.asked(cmd)
			err := supervise(cmd.Context(), o, netns, plain, logger, func(*cluster.Cluster) error {
				return report.Close()
			})
			if err != nil {
				// No reader is left when it failed after the start: then the log has it.
				_, _ = io.WriteString(report, err.Error())
			}
			if errors.Is(err, cluster.ErrRunning) {
				return statusHeld
			}
			return err
		},
	}
	mode.add(cmd)
	return cmd
}

// supervise runs the cluster until ctx ends or it is asked to stop; started is called once it answers.
func supervise(ctx context.Context, o *options, netns, plain *bool, logger *slog.Logger, started func(*cluster.Cluster) error) error {
	l, err := o.layout()
	if err != nil {
		return err
	}
	c, err := cluster.Prepare(ctx, cluster.Options{
		DataDir: l.DataDir, BinDir: l.BinDir, Netns: netns, Plain: plain, Logger: logger,
	})
	if err != nil {
		return err
	}
	listener, err := control.Listen(ctx, l.ControlSocket())
	if err != nil {
		return errors.Join(fmt.Errorf("control socket: %w", err), c.Close())
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	// The socket outlives the run: it answers while the cluster stops.
	serveCtx, stopServing := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error {
		err := control.Serve(serveCtx, listener, c, stop)
		if err != nil {
			stop()
			return fmt.Errorf("control socket: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		defer stopServing()
		return c.Run(runCtx)
	})
	if err := started(c); err != nil {
		stop()
		return errors.Join(err, group.Wait(), c.Close())
	}
	return errors.Join(group.Wait(), c.Close())
}
