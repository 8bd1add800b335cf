package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/cgroup"
	"github.com/orlop-io/orlop/cluster/nodenet"
)

// Teardown cleans up after a cluster whose supervisor is gone, killed or never started. It takes the data directory's
// lock, so ErrRunning is returned for a cluster that runs. It gives up after teardownTimeout.
func Teardown(ctx context.Context, dataDir, binDir string) error {
	state, err := ReadState(dataDir)
	if err != nil {
		return err
	}
	l := Layout{DataDir: dataDir, BinDir: binDir, ID: state.ID, Node: state.Node}
	lock, err := acquireSoon(ctx, l.lockFile())
	if err != nil {
		return err
	}
	return errors.Join(teardown(ctx, l, state), lock.Close())
}

// teardownTimeout bounds a teardown: a process in an uninterruptible sleep may never end.
const teardownTimeout = 30 * time.Second

// teardown takes out of the kernel what a stopped cluster leaves there: processes of pods that outlived their
// runtime, mounts and loop devices beneath the data directory, cgroups, the network namespace. Each step runs
// whatever became of the one before; what is gone already is fine.
func teardown(ctx context.Context, l Layout, state *State) error {
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	cgroupOf := state.cgroup()
	var errs []error
	errs = append(errs, killPods(ctx, l, cgroupOf))
	for _, dir := range []string{l.KubeletDir(), l.containerdDir(), l.poolDir()} {
		errs = append(errs, unmountBeneath(dir))
	}
	errs = append(errs, unbindSelf(l.KubeletDir()))
	// Not through a mount that stayed: a container's root file system is beneath it.
	err := unmountBeneath(l.runtimeState())
	if err == nil {
		err = os.RemoveAll(l.runtimeState())
	}
	errs = append(errs, err, detachLoops(l.poolDir()))
	if err := cgroup.RemoveRoot(ctx, cgroupOf); err != nil {
		errs = append(errs, err)
	}
	if link, err := nodenet.Load(l.netFile()); err == nil {
		errs = append(errs, link.Delete(ctx))
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if !state.Netns {
		errs = append(errs, nodenet.RemovePodMasquerade(networkName(state)),
			nodenet.RemoveServiceRoute(ctx, hostServices), cleanProxy(ctx, l))
	}
	return errors.Join(errs...)
}

// cleanProxy has kube-proxy take its rules out of the host's network.
func cleanProxy(ctx context.Context, l Layout) error {
	if out, err := exec.CommandContext(ctx, l.bin("orlop"), compProxy, "--cleanup").CombinedOutput(); err != nil {
		return fmt.Errorf("removing kube-proxy's rules: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// killPods kills the processes of the cluster's cgroups, and the shims of its containerd, and waits for their end.
func killPods(ctx context.Context, l Layout, cgroupOf string) error {
	for {
		pids, err := cgroup.Pids(cgroupOf)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		shims, err := shimsOf(l.ContainerdSocket())
		if err != nil {
			return err
		}
		pids = append(pids, shims...)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("killing process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", pids, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shimsOf finds the shims that serve the containerd at socket: they carry its address on their command line.
func shimsOf(socket string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// A process that has just ended is none of ours any more.
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		if strings.HasSuffix(args[0], "containerd-shim-runc-v2") && slices.Contains(args, socket) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// unmountBeneath unmounts everything mounted beneath dir, the last first, but not on dir itself: there, or further up,
// it is a disk that somebody gave the data, and not ours. A mount that is busy is detached lazily: its users are
// killed already, and what still holds it is the kernel's to finish.
func unmountBeneath(dir string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// unbindSelf unmounts dir where it is bound to itself: the kubelet does that to share its mounts with containers where the
// file system they are on is not shared. A disk that is mounted there stays.
func unbindSelf(dir string) error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	byID := map[int]*mountinfo.Info{}
	for _, m := range mounts {
		byID[m.ID] = m
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		on := byID[m.Parent]
		if m.Mountpoint != dir || on == nil || m.Major != on.Major || m.Minor != on.Minor ||
			m.Root != filepath.Join(on.Root, strings.TrimPrefix(dir, on.Mountpoint)) {
			continue
		}
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// detachLoops detaches the loop devices whose backing file is beneath dir.
func detachLoops(dir string) error {
	backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range backings {
		file, err := os.ReadFile(b)
		if err != nil || !strings.HasPrefix(string(file), dir+"/") {
			continue // detached by now, or somebody else's
		}
		device := "/dev/" + strings.Split(b, "/")[3]
		if err := detachLoop(device); err != nil {
			errs = append(errs, fmt.Errorf("detaching %s (%s): %w", device, strings.TrimSpace(string(file)), err))
		}
	}
	return errors.Join(errs...)
}

func detachLoop(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		err = nil
	}
	return errors.Join(err, unix.Close(fd))
}
