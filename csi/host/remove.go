package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const (
	// removeBatch is how many names of a directory are read at a time.
	removeBatch = 512
	// removeDepth is how deep a tree is descended into. What lies deeper is moved up first, so that no depth a user
	// can build uses up the process's file descriptors, or its stack.
	removeDepth = 32
)

// RemoveAll removes a file or a whole tree; nothing there is no error. It stops between two entries when ctx ends, never
// follows a link, and refuses to go into another mount. Two calls may remove the same tree.
func (r *Root) RemoveAll(ctx context.Context, l Label, name string) error {
	if err := r.h.Step(l); err != nil {
		return err
	}
	err := r.root.Remove(name)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		t := tree{root: r.root, top: name}
		if err = t.remove(ctx, r.root, name, name, 0); err != nil {
			return fmt.Errorf("remove %s: %w", path.Join(r.Path(), name), err)
		}
	}
	return ignoringMissing(err)
}

// tree is a tree that is being removed.
type tree struct {
	root *os.Root
	top  string // its name beneath the root
	next int    // numbers what is moved up
}

// remove removes the directory that is called name in parent, and where beneath the root.
func (t *tree) remove(ctx context.Context, parent *os.Root, name, where string, depth int) (err error) {
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return ignoringMissing(err)
	}
	err = sameMount(parent, dir)
	if err == nil {
		err = t.empty(ctx, dir, where, depth)
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	return ignoringMissing(parent.Remove(name))
}

// empty removes what is in dir.
func (t *tree) empty(ctx context.Context, dir *os.Root, where string, depth int) error {
	for {
		names, err := readNames(dir)
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := dir.Remove(name)
			if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
				err = t.descend(ctx, dir, name, path.Join(where, name), depth+1)
			}
			if err := ignoringMissing(err); err != nil {
				return err
			}
		}
	}
}

// descend removes a directory that is not empty, or moves it to the top of the tree, where it is met again.
func (t *tree) descend(ctx context.Context, dir *os.Root, name, where string, depth int) error {
	if depth < removeDepth {
		return t.remove(ctx, dir, name, where, depth)
	}
	for {
		t.next++
		err := t.root.Rename(where, path.Join(t.top, fmt.Sprintf(".up-%d", t.next)))
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) {
			continue // of an earlier removal, or the user's own
		}
		return err
	}
}

// sameMount fails unless both directories are on one mount.
func sameMount(a, b *os.Root) error {
	ida, err := mountID(a)
	if err != nil {
		return err
	}
	idb, err := mountID(b)
	if err != nil {
		return err
	}
	if ida != idb {
		return fmt.Errorf("something is mounted at %s; unmount it first: %w", b.Name(), unix.EBUSY)
	}
	return nil
}

func mountID(r *os.Root) (uint64, error) {
	d, err := r.Open(".")
	if err != nil {
		return 0, err
	}
	var st unix.Statx_t
	err = ignoringEINTR(func() error {
		return unix.Statx(int(d.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	})
	return st.Mnt_id, errors.Join(err, d.Close())
}

// readNames reads some names in the directory, or fails with io.EOF when it is empty.
func readNames(dir *os.Root) ([]string, error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(removeBatch)
	if cerr := d.Close(); cerr != nil {
		return nil, cerr
	}
	return names, err
}

// ignoringMissing turns the error that something is not there into none.
func ignoringMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
