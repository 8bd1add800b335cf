package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mount is one entry of this process's mount table (proc_pid_mountinfo(5)).
type Mount struct {
	Target string
	// Root is the path within the file system that is shown at Target.
	Root   string
	FSType string
	Source string
	// Major and Minor number the device of the file system.
	Major, Minor int
	// ReadOnly says that this mount is read-only, FSReadOnly that the file system under it is.
	ReadOnly, FSReadOnly bool
}

// MountOptions are the options of mount(2) that do not depend on the file system: MS_RDONLY, MS_NOSUID, MS_NODEV,
// MS_NOEXEC, MS_NOATIME, MS_NODIRATIME, MS_RELATIME and MS_STRICTATIME.
type MountOptions uintptr

// Mounts lists the mount table, oldest first; of several mounts on one target the last is the one seen.
func (h *Host) Mounts() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	mounts := make([]Mount, len(infos))
	for i, m := range infos {
		mounts[i] = Mount{
			Target: m.Mountpoint, Root: m.Root, FSType: m.FSType, Source: m.Source, Major: m.Major, Minor: m.Minor,
			ReadOnly:   hasOption(m.Options, "ro"),
			FSReadOnly: hasOption(m.VFSOptions, "ro") || hasOption(m.VFSOptions, "emergency_ro"),
		}
	}
	return mounts, nil
}

func hasOption(options, name string) bool {
	return slices.Contains(strings.Split(options, ","), name)
}

// MountAt returns the mount that is seen at path, nil when path is no mount point or does not exist. Symbolic links in
// path are followed.
func (h *Host) MountAt(path string) (*Mount, error) {
	real, err := h.Resolve(path)
	if err != nil {
		return nil, err
	}
	mounts, err := h.Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Target == real {
			return &m, nil
		}
	}
	return nil, nil
}

// OpenPath opens what is at path, following links, for nothing but Bind.
func (h *Host) OpenPath(path string) (*os.File, error) { return os.OpenFile(path, unix.O_PATH, 0) }

// Resolve follows the symbolic links in path. What does not exist is taken as it is written.
func (h *Host) Resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(path), nil
	}
	return real, err
}

// MountFS mounts the file system on a device. data holds the options of that file system.
func (h *Host) MountFS(l Label, device, target, fstype string, opts MountOptions, data string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	if err := unix.Mount(device, target, fstype, uintptr(opts), data); err != nil {
		return fmt.Errorf("mount %s (%s) at %s with options %q: %w", device, fstype, target, data, err)
	}
	return nil
}

// attributes translates mount(2)'s options into mount_setattr(2)'s.
func (o MountOptions) attributes() unix.MountAttr {
	var attr unix.MountAttr
	for flag, set := range map[MountOptions]uint64{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID,
		unix.MS_NODEV: unix.MOUNT_ATTR_NODEV, unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC,
		unix.MS_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
	} {
		if o&flag != 0 {
			attr.Attr_set |= set
		}
	}
	// The access time policies are one field of several values, which has to be cleared before it is set.
	for flag, set := range map[MountOptions]uint64{
		unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME, unix.MS_STRICTATIME: unix.MOUNT_ATTR_STRICTATIME,
		unix.MS_RELATIME: unix.MOUNT_ATTR_RELATIME,
	} {
		if o&flag != 0 {
			attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
			attr.Attr_set |= set
		}
	}
	return attr
}

// Bind makes what source is, a directory or a file, appear at target as well, in one step: the mount has its options
// from its first moment. It needs Linux 5.12 when there are options, 5.2 otherwise.
func (h *Host) Bind(l Label, source *os.File, target string, opts MountOptions) (err error) {
	if err := h.Step(l); err != nil {
		return err
	}
	tree, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source.Name(), err)
	}
	defer func() { err = errors.Join(err, unix.Close(tree)) }()
	if attr := opts.attributes(); attr != (unix.MountAttr{}) {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("set mount options for %s (needs Linux 5.12): %w", target, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source.Name(), target, err)
	}
	return nil
}

// Unmount takes away all mounts on target, the topmost first. A target that is no mount point, or is not there, is no
// error; a mount in use is one that wraps unix.EBUSY.
func (h *Host) Unmount(l Label, target string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: a process still uses it: %w", target, err)
		case err != nil:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// Detach takes away the topmost mount on target from everyone's view at once; whoever uses it goes on until it is closed.
// A target that is no mount point, or is not there, is no error.
func (h *Host) Detach(l Label, target string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// MakeDir makes the directory at path, and those above it, unless it is there already.
func (h *Host) MakeDir(l Label, path string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	return os.MkdirAll(path, 0o750)
}

// MakeFile makes an empty file at path, and the directories above it, unless something is there already.
func (h *Host) MakeFile(l Label, path string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Remove removes an empty directory or a file; nothing there is no error.
func (h *Host) Remove(l Label, path string) error {
	if err := h.Step(l); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
