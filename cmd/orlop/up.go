package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

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
	switch {
	case err == nil && status.Phase == cluster.PhaseReady:
		if err := sameMode(cmd, mode, status); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "The cluster in %s is running already.\n", l.DataDir)
		printNext(cmd.OutOrStdout(), l, status)
		return nil
	case err == nil && status.Phase == cluster.PhaseStopping:
		return fmt.Errorf("the cluster in %s is being stopped: run 'orlop up' again when that is done", l.DataDir)
	case err == nil:
		// Another `up` is at it: watch with it.
	default:
		if err := startSupervisor(cmd, l, mode); err != nil {
			return err
		}
	}
	view := newProgress(cmd.OutOrStdout())
	status, err = follow(ctx, client, view, func(s *cluster.Status) bool {
		return s.Phase == cluster.PhaseReady || s.Phase == cluster.PhaseFailed
	})
	view.done()
	if errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("the supervisor ended while starting the cluster; its log is %s:\n%s",
			l.LogFile("supervisor"), lastLines(l.LogFile("supervisor"), 8))
	}
	if err != nil {
		return err
	}
	if status.Phase == cluster.PhaseFailed {
		return errors.Join(startFailure(status), stopFailed(client, view))
	}
	printNext(cmd.OutOrStdout(), l, status)
	return nil
}

// sameMode refuses flags that contradict the cluster that is running.
func sameMode(cmd *cobra.Command, mode modeFlags, s *cluster.Status) error {
	netns, plain := mode.asked(cmd)
	if netns != nil && *netns != (s.Netns != "") || plain != nil && *plain != s.Plain {
		return fmt.Errorf("the cluster in %s is running with --netns=%t --plain=%t and stays so: leave the flags out, or choose another --data-dir",
			s.DataDir, s.Netns != "", s.Plain)
	}
	return nil
}

// startSupervisor runs `orlop supervise` in a session of its own, and returns once it answers or has said why not.
func startSupervisor(cmd *cobra.Command, l cluster.Layout, mode modeFlags) (err error) {
	if err := l.Check(); err != nil {
		return err
	}
	log, err := openSupervisorLog(l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	args := []string{"supervise", "--data-dir=" + l.DataDir}
	netns, plain := mode.asked(cmd)
	if netns != nil {
		args = append(args, fmt.Sprintf("--netns=%t", *netns))
	}
	if plain != nil {
		args = append(args, fmt.Sprintf("--plain=%t", *plain))
	}
	child := exec.Command(filepath.Join(l.BinDir, "orlop"), args...)
	child.Dir = "/"
	child.Stdout, child.Stderr = log, log
	child.ExtraFiles = []*os.File{writer}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the supervisor: %w", err), writer.Close())
	}
	if err := writer.Close(); err != nil {
		return err
	}
	said, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	if len(said) > 0 {
		// It ends by itself now; what it said is the error.
		_ = child.Wait()
		return errors.New(string(said))
	}
	return child.Process.Release()
}

func openSupervisorLog(l cluster.Layout) (*os.File, error) {
	path := l.LogFile("supervisor")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("data directory %s cannot be made: %w; choose another with --data-dir", l.DataDir, err)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory %s cannot be written: %w; choose another with --data-dir", l.DataDir, err)
	}
	return log, nil
}

// startFailure says which component did not start, why, and its last words.
func startFailure(s *cluster.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the cluster did not start: %s", s.Error)
	for _, c := range s.Components {
		if c.Restarts == 0 || len(c.LastLog) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\nlast lines of %s (all of it: %s):", c.Name, c.Log)
		for _, line := range c.LastLog {
			b.WriteString("\n  " + line)
		}
	}
	return errors.New(b.String())
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

func upForeground(cmd *cobra.Command, o *options, l cluster.Layout, mode modeFlags) error {
	netns, plain := mode.asked(cmd)
	view := newProgress(cmd.OutOrStdout())
	watchCtx, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	watched := make(chan struct{})
	err := supervise(cmd.Context(), o, netns, plain, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
		func(c *cluster.Cluster) error {
			go func() {
				defer close(watched)
				said := false
				for watchCtx.Err() == nil {
					s := c.Status()
					view.show(&s)
					if s.Phase == cluster.PhaseReady && !said {
						said = true
						printNext(cmd.OutOrStdout(), l, &s)
					}
					c.Wait(watchCtx, s.Version)
				}
			}()
			return nil
		})
	if errors.Is(err, cluster.ErrRunning) {
		return fmt.Errorf("the cluster in %s is running in the background already: 'orlop down' stops it", l.DataDir)
	}
	stopWatching()
	if watched != nil && err == nil {
		<-watched
	}
	return err
}

// printNext says what to type now.
func printNext(w io.Writer, l cluster.Layout, s *cluster.Status) {
	orlop := "orlop"
	if l.DataDir != defaultDataDir {
		orlop += " --data-dir " + l.DataDir
	}
	fmt.Fprintf(w, "\nKubernetes is at %s.\n\n", s.Server)
	fmt.Fprintf(w, "  %s kubectl get nodes\n", orlop)
	if !s.Plain {
		fmt.Fprintf(w, "  %s kubectl get storageclass\n", orlop)
	}
	fmt.Fprintf(w, "  export KUBECONFIG=%s     # for helm, k9s, any other client\n", l.Kubeconfig())
	fmt.Fprintf(w, "  %s down\n", orlop)
}
