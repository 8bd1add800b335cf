package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for mounts")
	}
}

func contextThatEnded(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, cancel
}

func mounted(t *testing.T, path string) bool {
	t.Helper()
	is, err := mountinfo.Mounted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false // what it was mounted in is gone
	}
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func TestTeardownOfAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := Teardown(t.Context(), dir, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it was not left alone: %v, %v", entries, err)
	}
}

// A cluster that was chosen, but of which nothing was made, has nothing to be torn down.
func TestTeardownOfAClusterThatNeverStarted(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	yes := true
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ensureState(dir, &yes, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Teardown(t.Context(), dir, dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTeardownOfARunningCluster(t *testing.T) {
	dir := t.TempDir()
	l := started(t, dir)
	yes := true
	if err := os.Remove(l.stateFile()); err != nil {
		t.Fatal(err)
	}
	if _, err := ensureState(dir, &yes, nil); err != nil {
		t.Fatal(err)
	}
	lock, err := acquire(l.lockFile())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextThatEnded(t)
	defer cancel()
	if err := Teardown(ctx, dir, dir); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnmountBeneath(t *testing.T) {
	needsRoot(t)
	base := filepath.Join(t.TempDir(), "with a space")
	dir, neighbour := filepath.Join(base, "kubelet"), filepath.Join(base, "kubelet-other")
	own := []string{filepath.Join(dir, "pods/a"), filepath.Join(dir, "pods/a/nested"), filepath.Join(dir, "b")}
	mountTmpfs(t, dir) // a disk that was given to it
	mountTmpfs(t, neighbour)
	for _, path := range own {
		mountTmpfs(t, path)
	}
	// Mounted twice over, and busy.
	if err := unix.Mount("tmpfs", own[2], "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	busy, err := os.Create(filepath.Join(own[2], "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unmountBeneath(dir); err != nil {
		t.Error(err)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range own {
		if mounted(t, path) {
			t.Errorf("%s is still mounted", path)
		}
	}
	for _, path := range []string{dir, neighbour} {
		if !mounted(t, path) {
			t.Errorf("%s was unmounted", path)
		}
	}
	if err := unmountBeneath(filepath.Join(base, "missing")); err != nil {
		t.Error(err)
	}
}

func TestDetachLoops(t *testing.T) {
	needsRoot(t)
	dir := filepath.Join(t.TempDir(), "pool")
	own, foreign := loop(t, filepath.Join(dir, "v 1", "image")), loop(t, filepath.Join(dir+"-other", "image"))
	if err := detachLoops(dir); err != nil {
		t.Fatal(err)
	}
	if file := backing(own); file != "" {
		t.Errorf("%s still holds %s", own, file)
	}
	if backing(foreign) == "" {
		t.Errorf("%s, another's, was detached", foreign)
	}
	// What is detached already is no error.
	if err := detachLoop(own); err != nil {
		t.Error(err)
	}
}

// loop attaches a loop device to a file that it makes, for the length of the test.
func loop(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if strings.HasPrefix(backing(device), path) {
			if err := detachLoop(device); err != nil {
				t.Error(err)
			}
		}
	})
	return device
}

func backing(device string) string {
	data, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// A shim is known by its program and by the socket of the containerd it serves: another cluster's is not touched.
func TestShimsOf(t *testing.T) {
	dir := t.TempDir()
	shim := filepath.Join(dir, "containerd-shim-runc-v2")
	if err := os.Symlink("/bin/sh", shim); err != nil {
		t.Fatal(err)
	}
	start := func(socket string) int {
		t.Helper()
		cmd := exec.Command(shim, "-c", "read line", "shim", "-address", socket)
		in, err := cmd.StdinPipe() // it ends when this does
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(in.Close(), ignoreExit(cmd.Wait())); err != nil {
				t.Error(err)
			}
		})
		return cmd.Process.Pid
	}
	socket := filepath.Join(dir, "containerd.sock")
	own, other := start(socket), start(socket+"-other")
	pids, err := shimsOf(socket)
	if err != nil || !slices.Equal(pids, []int{own}) {
		t.Fatalf("found %v (%v), want %d and not %d", pids, err, own, other)
	}
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func TestKillPodsEndsWithItsContext(t *testing.T) {
	needsRoot(t)
	l := Layout{DataDir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// No such cgroup, no shim: nothing to wait for.
	if err := killPods(ctx, l, "/orlop/none"); err != nil {
		t.Error(err)
	}
}
