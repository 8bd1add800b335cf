package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

// upForeground runs the cluster in this very process until it is interrupted, or cannot start.
func upForeground(cmd *cobra.Command, o *options, l cluster.Layout, mode modeFlags) error {
	netns, plain := mode.asked(cmd)
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	watchCtx, stopWatching := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	var failure error // the watcher's, until it has ended
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	err := supervise(ctx, o, netns, plain, logger, func(c *cluster.Cluster) error {
		watching.Go(func() { failure = watch(watchCtx, cmd.OutOrStdout(), l, c, stop) })
		return nil
	})
	stopWatching()
	watching.Wait()
	if errors.Is(err, cluster.ErrRunning) {
		return fmt.Errorf("the cluster in %s is running already: 'orlop down' stops it", l.DataDir)
	}
	return errors.Join(failure, err)
}

// watch shows what becomes of the cluster until ctx ends. A cluster that fails to start is stopped; the error says why
// it did.
func watch(ctx context.Context, out io.Writer, l cluster.Layout, source control.Source, stop func()) (failure error) {
	view := newProgress(out)
	settled := false
	for {
		s := source.Status()
		view.show(&s)
		switch {
		case s.Phase == cluster.PhaseReady && !settled:
			settled = true
			view.settle(&s)
			printNext(out, l, &s)
		case s.Phase == cluster.PhaseFailed && failure == nil && !settled:
			failure = startFailure(&s)
			stop()
		}
		if ctx.Err() != nil {
			return failure
		}
		source.Wait(ctx, s.Version)
	}
}
