package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// build compiles pause the way a node gets it.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pause")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// start runs a shell script as PID 1 of a new PID namespace and stops it at the end of the test.
func start(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// eventually polls until ok is true, and fails the test after a time that no loaded machine needs.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// status returns one field of /proc/PID/status, empty when the process is gone.
func status(pid int, field string) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ready waits until pause has replaced the shell and set its signals.
func ready(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "pause ignores SIGCHLD and catches SIGTERM", func() bool {
		var ignored, caught uint64
		if status(pid, "Name") != "pause" {
			return false
		}
		if _, err := fmt.Sscanf(status(pid, "SigIgn"), "%x", &ignored); err != nil {
			return false
		}
		if _, err := fmt.Sscanf(status(pid, "SigCgt"), "%x", &caught); err != nil {
			return false
		}
		bit := func(sig syscall.Signal) uint64 { return 1 << (uint(sig) - 1) }
		return ignored&bit(syscall.SIGCHLD) != 0 && caught&bit(syscall.SIGTERM) != 0
	})
}

func TestExitsOnSignal(t *testing.T) {
	bin := build(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := start(t, "exec "+bin)
			ready(t, cmd.Process.Pid)
			for _, survived := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGPIPE} {
				if err := cmd.Process.Signal(survived); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("want exit status 0 after %v, got %v", sig, err)
			}
		})
	}
}

func TestReapsOrphans(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The inner shell is orphaned to PID 1 at once and lives until the FIFO is opened for writing.
	cmd := start(t, "(read x <"+fifo+" &) ; exec "+build(t))
	pid := cmd.Process.Pid
	ready(t, pid)

	children := func() string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	eventually(t, "the orphan is a child of pause", func() bool { return children() != "" })
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan is reaped", func() bool { return children() == "" })
}
