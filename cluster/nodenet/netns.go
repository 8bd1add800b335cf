package nodenet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
)

// netnsDir is where iproute2 keeps named network namespaces.
const netnsDir = "/run/netns"

// lockHost takes the host-wide lock under which addresses are chosen and links made. It is an flock(2) on the
// directory of named namespaces, as iproute2 takes it: no file is left behind, and the kernel releases it when
// the holder dies.
func lockHost(ctx context.Context) (unlock func() error, err error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of network namespaces: %w", err)
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of network namespaces: %w", err)
	}
	const retry = 5 * time.Millisecond
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return dir.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", netnsDir, err), dir.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for the lock on %s, which another cluster holds while it "+
				"starts: %w", netnsDir, ctx.Err()), dir.Close())
		case <-time.After(retry):
		}
	}
}

// isNetns tells whether a namespace is mounted on the file; iproute2 makes the file first and mounts then, so
// a kill in between leaves one that is only a file.
func isNetns(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("statfs %s: %w", path, err)
	}
	return st.Type == unix.NSFS_MAGIC, nil
}

// ensureNetns opens the named namespace, making it when it does not exist.
func ensureNetns(path string) (*os.File, error) {
	ok, err := isNetns(path)
	if err != nil {
		return nil, err
	}
	if !ok {
		if err := createNetns(path); err != nil {
			return nil, err
		}
	}
	return os.Open(path)
}

func createNetns(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w; it needs CAP_SYS_ADMIN and a kernel with CONFIG_NET_NS", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting the namespace on %s: %w", path, err)
		}
		return nil
	})
}

// removeNetns unmounts the name, however often it is mounted, and removes the file.
func removeNetns(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount point
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
