package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
)

// roleEnv makes the test binary play a part of its own.
const roleEnv = "ORLOP_SUPERVISOR_TEST_LOGS"

// play is the supervising process of TestChildrenDieWithTheirSupervisor: it prints its children's pids and stays.
func play(logDir string) int {
	s, err := New([]Spec{sh("a", forever), sh("b", forever, "a")}, logDir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		ctx := context.Background()
		for _, name := range []string{"a", "b"} {
			if err := s.WaitReady(ctx, name); err != nil {
				fmt.Println(err)
			}
		}
		statuses, _ := s.Status()
		fmt.Println(statuses[0].PID, statuses[1].PID)
	}()
	if err := s.Run(context.Background(), context.Background()); err != nil {
		fmt.Println(err)
	}
	return 1
}

func TestChildrenDieWithTheirSupervisor(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	var pids [2]int
	_, scanErr := fmt.Sscan(line, &pids[0], &pids[1])
	// Watched from before the kill, so that no other process can be taken for them.
	var fds [2]int
	for i, pid := range pids {
		if scanErr == nil {
			if fds[i], err = unix.PidfdOpen(pid, 0); err != nil {
				t.Errorf("child %d: %v", pid, err)
			}
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the supervising process ended well")
	}
	if readErr != nil || scanErr != nil {
		t.Fatalf("the supervising process said %q: %v", line, errors.Join(readErr, scanErr))
	}
	for i, fd := range fds {
		// A pidfd is readable once its process has ended.
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(patience.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(poll, int(patience.Milliseconds()))
		}
		if n != 1 || err != nil {
			t.Errorf("child %d outlives its supervisor (%v)", pids[i], err)
			if err := syscall.Kill(pids[i], syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}

func TestStartInNetworkNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	path := newNetns(t)
	inside := Spec{Name: "inside", Path: "/bin/sh", Args: []string{"-c", "readlink /proc/self/ns/net; " + forever}, Netns: path}
	outside := sh("outside", "readlink /proc/self/ns/net; "+forever)
	r := start(t, inside, outside)
	r.awaitState("inside", Ready)
	r.awaitState("outside", Ready)
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, r, "inside", "net:["+strconv.FormatUint(info.Ino, 10)+"]")
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	awaitLog(t, r, "outside", ours)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingNetworkNamespace(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "netns")
	r := start(t, sh("a", forever), Spec{Name: "b", Path: "/bin/sh", Netns: missing})
	<-r.finished
	if r.err == nil || !strings.Contains(r.err.Error(), missing) || !errors.Is(r.err, os.ErrNotExist) {
		t.Errorf("Run returned %v", r.err)
	}
	notOne := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notOne, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, Spec{Name: "b", Path: "/bin/sh", Netns: notOne})
	<-r.finished
	if r.err == nil || !strings.Contains(r.err.Error(), notOne) {
		t.Errorf("Run returned %v", r.err)
	}
}

// newNetns makes a network namespace, mounted on a file for the length of the test.
func newNetns(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}
