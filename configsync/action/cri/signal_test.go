package cri

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/configsync/action"
)

const hup = action.Signal(syscall.SIGHUP)

// process starts a shell that runs the script, and waits until it says "ready". It is the first of a PID namespace, like
// a container's, where first says so.
func process(t *testing.T, first bool, script string) (pid int, says *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if first {
		if os.Geteuid() != 0 {
			t.Skip("skipped: a PID namespace needs root")
		}
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	says = bufio.NewReader(out)
	if line, err := says.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	return cmd.Process.Pid, says
}

// group is a part of the name of the control group that this process and its children are in.
func group(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw[strings.LastIndexByte(string(raw), ':'):]))
}

// The scripts wait for their standard input's end, that is the test's.
const handler = "trap 'echo got' HUP; echo ready; while read -r x || [ $? -gt 128 ]; do :; done"

func TestSignal(t *testing.T) {
	for name, first := range map[string]bool{"first process": true, "not the first": false} {
		t.Run(name, func(t *testing.T) {
			pid, says := process(t, first, handler)
			s := &server{state: cri.ContainerState_CONTAINER_RUNNING, pid: pid}
			r := serve(t, s)
			// The server's container has another name than the test's control group.
			if err := r.Signal(t.Context(), "c1", hup); err == nil || !strings.Contains(err.Error(), "is not the container's") {
				t.Errorf("a process of another control group: %v", err)
			}
			if err := signalProcess(pid, group(t), hup); err != nil {
				t.Fatal(err)
			}
			if line, err := says.ReadString('\n'); line != "got\n" {
				t.Errorf("the process says %q, %v", line, err)
			}
		})
	}
}

// A signal that the kernel would drop is not taken for one that was heard.
func TestUnhandled(t *testing.T) {
	for name, script := range map[string]string{"no handler": "echo ready; read x", "ignored": "trap '' HUP; echo ready; read x"} {
		pid, _ := process(t, true, script)
		if err := signalProcess(pid, group(t), hup); !errors.Is(err, action.ErrUnhandled) {
			t.Errorf("%s: %v", name, err)
		}
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	pid, _ := process(t, false, "trap '' HUP; echo ready; read x")
	if err := signalProcess(pid, group(t), hup); !errors.Is(err, action.ErrUnhandled) {
		t.Errorf("ignored, not the first: %v", err)
	}
}

// A process that has ended, and whose number is free, is sent nothing.
func TestSignalGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := signalProcess(cmd.Process.Pid, group(t), hup); !errors.Is(err, action.ErrNotRunning) {
		t.Errorf("%v", err)
	}
}
