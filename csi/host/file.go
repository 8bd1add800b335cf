package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve allocates size bytes to the file on its file system, so that no write within them can fail for want of room.
// What is allocated already keeps its content. On a full file system the error satisfies IsNoSpace.
func (h *Host) Reserve(l Label, f *os.File, size int64) error {
	if err := h.Step(l); err != nil {
		return err
	}
	err := ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the file system of %s cannot reserve space for a file (fallocate); "+
			"keep the pool on ext4, XFS or btrfs: %w", f.Name(), err)
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes for %s: %w", size, f.Name(), err)
	}
	return nil
}

// Overwrite has a new, still empty file written in place where its file system would otherwise copy on write, so that
// the space reserved for it is the space used. Elsewhere it does nothing.
func (h *Host) Overwrite(l Label, f *os.File) error {
	if err := h.Step(l); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return nil
	}
	const noCopyOnWrite = 0x00800000 // FS_NOCOW_FL of linux/fs.h
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, noCopyOnWrite); err != nil {
		return fmt.Errorf("turn copy-on-write off for %s: %w", f.Name(), err)
	}
	return nil
}

// Sync puts the file's content on the disk.
func (h *Host) Sync(l Label, f *os.File) error {
	if err := h.Step(l); err != nil {
		return err
	}
	return f.Sync()
}

// HasInode reports whether there is something at path and has that inode number.
func (h *Host) HasInode(path string, inode uint64) (bool, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Lstat(path, &st) })
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Ino == inode, nil
}

// Chmod sets the permissions of what is at path.
func (h *Host) Chmod(l Label, path string, mode fs.FileMode) error {
	if err := h.Step(l); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
