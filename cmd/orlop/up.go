package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

func newUpCommand(o *options) *cobra.Command {
	var mode modeFlags
	var foreground bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster and wait until it is ready",
		Long: `Start the cluster of the data directory, making it first if there is none, and return when its
node is Ready and its storage registered. It goes on running in the background.

A cluster that is running already is left alone. After a reboot, 'orlop up' brings back the
cluster with all its data.

--netns and --plain fix at the first start what the cluster is; later starts need not
repeat them.

Exit status: 0 when the cluster is ready, 1 when it could not be started.`,
		Example: `  sudo orlop up
  sudo orlop up --data-dir /srv/second --netns`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := requireRoot(); err != nil {
				return err
			}
			l, err := o.layout()
			if err != nil {
				return err
			}
			if foreground {
				return upForeground(cmd, o, l, mode)
			}
			return up(cmd, l, mode)
		},
	}
	mode.add(cmd)
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay in the foreground; stop the cluster on Ctrl-C")
	return cmd
}

func up(cmd *cobra.Command, l cluster.Layout, mode modeFlags) error {
	ctx := cmd.Context()
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	status, err := client.Status(ctx, nil)
	if errors.Is(err, control.ErrNotRunning) {
		if err := launch(cmd, l, mode, client); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if err := sameMode(cmd, mode, status); err != nil {
		return err
	} else if status.Phase == cluster.PhaseReady {
		fmt.Fprintf(cmd.OutOrStdout(), "The cluster in %s is running already.\n", l.DataDir)
		printNext(cmd.OutOrStdout(), l, status)
		return nil
	}
	// When it answered, another `up` is at it: watch with it.
	view := newProgress(cmd.OutOrStdout())
	status, err = follow(ctx, client, view, func(s *cluster.Status) bool { return s.Phase != cluster.PhaseStarting })
	view.done()
	switch {
	case ctx.Err() != nil:
		return errStartGoesOn
	case errors.Is(err, control.ErrNotRunning):
		return fmt.Errorf("the supervisor ended while starting the cluster; its log is %s:\n%s",
			l.LogFile("supervisor"), lastLines(l.LogFile("supervisor"), 8))
	case err != nil:
		return err
	case status.Phase == cluster.PhaseFailed:
		return errors.Join(startFailure(status), stopFailed(client, view))
	case status.Phase != cluster.PhaseReady:
		return fmt.Errorf("the cluster in %s is being stopped: run 'orlop up' again when that is done", l.DataDir)
	}
	printNext(cmd.OutOrStdout(), l, status)
	return nil
}

var errStartGoesOn = errors.New("interrupted; the cluster goes on starting in the background: " +
	"'orlop status' shows how far it is, 'orlop down' stops it")

// sameMode refuses flags that contradict the cluster that is running.
func sameMode(cmd *cobra.Command, mode modeFlags, s *cluster.Status) error {
	netns, plain := mode.asked(cmd)
	if netns != nil && *netns != (s.Netns != "") || plain != nil && *plain != s.Plain {
		return fmt.Errorf("the cluster in %s is running with --netns=%t --plain=%t and stays so: leave the flags out, or choose another --data-dir",
			s.DataDir, s.Netns != "", s.Plain)
	}
	return nil
}

// startFailure says which component did not start, why, and its last words.
func startFailure(s *cluster.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the cluster did not start: %s", s.Error)
	for _, c := range s.Components {
		if c.Name != s.FailedComponent || len(c.LastLog) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\nlast lines of %s (all of it: %s):", c.Name, c.Log)
		for _, line := range c.LastLog {
			b.WriteString("\n  " + shorten(line, 400))
		}
	}
	return errors.New(b.String())
}

// shorten cuts what is longer than n bytes.
func shorten(line string, n int) string {
	if len(line) <= n {
		return line
	}
	return strings.ToValidUTF8(line[:n], "") + "…"
}

// stopFailed stops what a failed start left running: half a cluster would hold its ports and restart for ever.
func stopFailed(client *control.Client, view *progress) error {
	ctx := context.Background()
	if err := client.Stop(ctx); err != nil {
		return err
	}
	_, err := follow(ctx, client, view, func(*cluster.Status) bool { return false })
	if errors.Is(err, control.ErrNotRunning) {
		err = nil
	}
	return err
}

// printNext says what to type now.
func printNext(w io.Writer, l cluster.Layout, s *cluster.Status) {
	orlop := "orlop"
	if l.DataDir != defaultDataDir {
		orlop += " --data-dir " + shellWord(l.DataDir)
	}
	fmt.Fprintf(w, "\nKubernetes is at %s.\n\n", s.Server)
	fmt.Fprintf(w, "  %s kubectl get nodes\n", orlop)
	if !s.Plain {
		fmt.Fprintf(w, "  %s kubectl get storageclass\n", orlop)
	}
	fmt.Fprintf(w, "  export KUBECONFIG=%s     # for helm, k9s, any other client\n", shellWord(l.Kubeconfig()))
	fmt.Fprintf(w, "  %s down\n", orlop)
}

// shellWord quotes what a shell would take for more than one word, or for something else. Quotes are in no data
// directory (see Layout.Check).
func shellWord(s string) string {
	if strings.ContainsAny(s, " &()*<>[]|~!^=") {
		return "'" + s + "'"
	}
	return s
}
