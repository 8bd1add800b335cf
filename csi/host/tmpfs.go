package host

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// NewTmpfs makes a file system in memory of at most size bytes, which the mount table will show with that source. It is
// mounted nowhere yet: until it is attached it is reached through FDPath alone, and it is gone when the file is closed.
// Its content is never swapped to disk where the kernel can promise that (noswap, Linux 6.4). It needs Linux 5.2.
func (h *Host) NewTmpfs(l Label, source string, size int64) (_ *os.File, err error) {
	if err := h.Step(l); err != nil {
		return nil, err
	}
	refused := func(what string, err error) error {
		return fmt.Errorf("make a tmpfs for %s: %s: %w", source, what, err)
	}
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, refused("fsopen (needs Linux 5.2)", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fsfd)) }()
	for _, option := range [][2]string{
		{"source", source}, {"size", strconv.FormatInt(size, 10)}, {"mode", "0755"},
	} {
		if err := unix.FsconfigSetString(fsfd, option[0], option[1]); err != nil {
			return nil, refused("option "+option[0], err)
		}
	}
	if err := unix.FsconfigSetFlag(fsfd, "noswap"); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, refused("option noswap", err)
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, refused("create", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, refused("fsmount", err)
	}
	return os.NewFile(uintptr(fd), source), nil
}

// FDPath is the path by which a mount that is attached nowhere can be walked into, for as long as the file is open.
func (h *Host) FDPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Attach makes a mount of NewTmpfs or CloneWritable appear at the directory target, with its options from its first
// moment. The file then is the mount at target. It needs Linux 5.12.
func (h *Host) Attach(l Label, mount *os.File, target string, opts MountOptions) error {
	if err := h.Step(l); err != nil {
		return err
	}
	if attr := opts.attributes(); attr != (unix.MountAttr{}) {
		if err := unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("set mount options for %s (needs Linux 5.12): %w", target, err)
		}
	}
	err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", target, err)
	}
	return nil
}

// CloneWritable opens the file system mounted at target for writing, whether or not that mount is read-only: what is
// written through FDPath of the file is seen at target. It holds no reference to the mount at target, only to its
// file system. It needs Linux 5.12.
func (h *Host) CloneWritable(target string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("clone the mount at %s: %w", target, err)
	}
	f := os.NewFile(uintptr(fd), target)
	// Private: a mount that somebody makes beneath target is not to hold on to this one.
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("make a clone of the mount at %s writable (needs Linux 5.12): %w", target, err), f.Close())
	}
	return f, nil
}
