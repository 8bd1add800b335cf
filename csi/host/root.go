package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Root is a directory beyond which no operation reaches, whatever name it is given and whatever symbolic links lie
// beneath it (see os.Root). Names are relative and use slashes.
type Root struct {
	h    *Host
	root *os.Root
}

// OpenRoot opens the directory at an absolute path.
func (h *Host) OpenRoot(dir string) (*Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Root{h: h, root: root}, nil
}

// Sub opens a directory beneath the root as a root of its own.
func (r *Root) Sub(name string) (*Root, error) {
	root, err := r.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &Root{h: r.h, root: root}, nil
}

// Close ends the use of the root.
func (r *Root) Close() error { return r.root.Close() }

// Path returns the path the root was opened by, for messages.
func (r *Root) Path() string { return r.root.Name() }

// Mkdir makes a directory with exactly that mode, whatever the umask, and puts its entry on the disk.
func (r *Root) Mkdir(l Label, name string, mode fs.FileMode) error {
	if err := r.h.Step(l); err != nil {
		return err
	}
	if err := r.root.Mkdir(name, mode.Perm()); err != nil {
		return err
	}
	if err := r.root.Chmod(name, mode); err != nil {
		return err
	}
	return r.syncDir(path.Dir(name))
}

// Stat describes what name is, without following a symbolic link.
func (r *Root) Stat(name string) (fs.FileInfo, error) { return r.root.Lstat(name) }

// Exists reports whether there is anything by that name.
func (r *Root) Exists(name string) (bool, error) {
	switch _, err := r.root.Lstat(name); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

// Names lists a directory, sorted.
func (r *Root) Names(name string) ([]string, error) {
	entries, err := fs.ReadDir(r.root.FS(), name)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// ReadFile returns a file's content.
func (r *Root) ReadFile(name string) ([]byte, error) { return r.root.ReadFile(name) }

// tmpSuffix marks a file that WriteFile was killed before it renamed.
const tmpSuffix = ".tmp"

// WriteFile replaces a file as a whole: after a crash at any point there is the old content or the new. The content is
// on the disk when it returns. Its steps are the label with ".write", ".rename" and ".sync" appended.
func (r *Root) WriteFile(l Label, name string, data []byte, mode fs.FileMode) error {
	if err := r.writeTmp(l+".write", name+tmpSuffix, data, mode); err != nil {
		return err
	}
	if err := r.h.Step(l + ".rename"); err != nil {
		return err
	}
	if err := r.root.Rename(name+tmpSuffix, name); err != nil {
		return err
	}
	if err := r.h.Step(l + ".sync"); err != nil {
		return err
	}
	return r.syncDir(path.Dir(name))
}

func (r *Root) writeTmp(l Label, name string, data []byte, mode fs.FileMode) error {
	if err := r.h.Step(l); err != nil {
		return err
	}
	f, err := r.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Create makes a new file, which must not exist, for reading and writing.
func (r *Root) Create(l Label, name string, mode fs.FileMode) (*os.File, error) {
	if err := r.h.Step(l); err != nil {
		return nil, err
	}
	return r.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
}

// Open opens a file or directory: with os.O_RDWR, os.O_RDONLY and the like.
func (r *Root) Open(name string, flag int) (*os.File, error) { return r.root.OpenFile(name, flag, 0) }

// Rename moves something within the root and puts the change on the disk. Its steps are the label and the label with
// ".sync" appended.
func (r *Root) Rename(l Label, from, to string) error {
	if err := r.h.Step(l); err != nil {
		return err
	}
	if err := r.root.Rename(from, to); err != nil {
		return err
	}
	if err := r.h.Step(l + ".sync"); err != nil {
		return err
	}
	if err := r.syncDir(path.Dir(to)); err != nil {
		return err
	}
	return r.syncDir(path.Dir(from))
}

// SyncFS puts all changes to the file system that holds the root on the disk.
func (r *Root) SyncFS(l Label) error {
	if err := r.h.Step(l); err != nil {
		return err
	}
	d, err := r.root.Open(".")
	if err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return errors.Join(fmt.Errorf("sync the file system of %s: %w", r.Path(), err), d.Close())
	}
	return d.Close()
}

func (r *Root) syncDir(name string) error {
	d, err := r.root.Open(name)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync directory %s: %w", filepath.Join(r.Path(), name), err), d.Close())
	}
	return d.Close()
}

// lockPatience is how long Lock waits for a holder to go. A process that was killed while it started another one leaves
// its locks to that one until it executes its program.
const lockPatience = 2 * time.Second

// Lock takes an exclusive lock that lasts until the returned file is closed or the process ends, writing the process's
// ID into the file. When another process keeps it, the error wraps ErrLocked and names that process.
func (r *Root) Lock(ctx context.Context, name string) (*os.File, error) {
	f, err := r.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = flock(ctx, f)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", filepath.Join(r.Path(), name), err), f.Close())
	}
	return f, nil
}

func flock(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			holder := make([]byte, 32)
			n, _ := f.ReadAt(holder, 0) // the holder's ID is for the message alone
			return fmt.Errorf("%w by process %q", ErrLocked, holder[:n])
		}
	}
}

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("held")
