package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/control"
)

// launchPatience is how long one who holds the data directory and does not answer is waited for.
const launchPatience = 10 * time.Second

// launch starts a supervisor, and returns once it answers, or has said why not. Another one who holds the data
// directory is either an `up` of the same moment, which will answer, or a `down`, which will be gone.
func launch(cmd *cobra.Command, l cluster.Layout, mode modeFlags, client *control.Client) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), launchPatience)
	defer cancel()
	for {
		err := startSupervisor(cmd, l, mode)
		if !errors.Is(err, cluster.ErrRunning) {
			return err
		}
		if _, err := client.Status(ctx, nil); err == nil {
			return nil
		}
		select {
		case <-cmd.Context().Done():
			return errStartGoesOn
		case <-ctx.Done():
			return fmt.Errorf("another orlop holds %s and does not answer: see %s, then run 'orlop up' again",
				l.DataDir, l.LogFile("supervisor"))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// startSupervisor runs `orlop supervise` in a session of its own, and returns once it answers or has said why not:
// ErrRunning when another has the data directory.
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
	// An interrupt ends the waiting, not the supervisor.
	defer context.AfterFunc(cmd.Context(), func() { _ = reader.SetReadDeadline(time.Now()) })()
	said, err := io.ReadAll(reader)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.Join(errStartGoesOn, child.Process.Release())
	case err != nil:
		return err
	case len(said) == 0:
		return child.Process.Release()
	}
	// It ends by itself now; what it said is the error.
	_ = child.Wait()
	if child.ProcessState.ExitCode() == int(statusHeld) {
		return cluster.ErrRunning
	}
	return errors.New(string(said))
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
