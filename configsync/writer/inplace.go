package writer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/configsync/payload"
)

// detachTmp is where a copy is made, beside the top-level files of a generation: none of them begins with "..".
const detachTmp = "..detach_tmp"

// Overwrite gives an open file of a superseded generation the content, mode and owner of f, and reports whether that
// changed anything. The file keeps its inode: it is for who holds that inode and nothing else, as a bind mount does.
// file is open for reading and writing; generation and name are where it is, or was, in the volume.
//
// It is not atomic. Who reads meanwhile may see the new bytes up to some point and the old ones from there; the file is
// never empty in between, and never open to anybody whom either the old or the new mode keeps out. Readers who pinned the
// generation by its directory still read the old file: they get a copy of it in its place first. Room is reserved
// before the first byte changes, so that a full disk leaves the file as it was. Nothing is synced: who holds the inode
// does not outlive a crash of the machine. An error is a *StepError, and the next Overwrite repairs what was left.
func (w *Writer) Overwrite(file *os.File, generation, name string, f payload.File) (changed bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	info, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("configuration volume: %w", err)
	}
	old, err := io.ReadAll(io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return false, fmt.Errorf("configuration volume: %w", err)
	}
	sameContent, sameOwner := bytes.Equal(old, f.Data), owns(info, f.UID, f.GID)
	if sameContent && sameOwner && info.Mode() == os.FileMode(f.Mode) {
		return false, nil
	}
	if err := w.detach(info, old, generation, name); err != nil {
		return false, err
	}
	// Neither are the new bytes to be seen with the old mode, nor the old ones with the new mode.
	if between := narrowed(info.Mode(), os.FileMode(f.Mode), sameOwner); between != info.Mode() {
		if err := w.do(StepNarrowFile, func() error { return file.Chmod(between) }); err != nil {
			return false, err
		}
	}
	if !sameOwner {
		if err := w.do(StepChownFile, func() error { return file.Chown(f.UID, f.GID) }); err != nil {
			return false, err
		}
	}
	if !sameContent {
		if err := w.replaceContent(file, info.Size(), f.Data); err != nil {
			return false, err
		}
	}
	return true, w.do(StepChmodFile, func() error { return file.Chmod(os.FileMode(f.Mode)) })
}

// narrowed returns the mode while content and owner change: nobody's where the owner does.
func narrowed(before, after os.FileMode, sameOwner bool) os.FileMode {
	if !sameOwner {
		return 0
	}
	return before & after
}

// replaceContent writes over the old bytes and then cuts what is too much: who reads between the two sees all of the new
// content and some of the old, which is better than to find the file empty.
func (w *Writer) replaceContent(file *os.File, size int64, data payload.Content) error {
	if int64(len(data)) > size {
		if err := w.do(StepReserveFile, func() error { return reserve(file, int64(len(data))) }); err != nil {
			return err
		}
	}
	if len(data) > 0 {
		if err := w.do(StepOverwrite, func() error { _, err := file.WriteAt(data, 0); return err }); err != nil {
			return err
		}
	}
	if int64(len(data)) < size {
		return w.do(StepTruncateFile, func() error { return file.Truncate(int64(len(data))) })
	}
	return nil
}

// reserve takes the room for a file's bytes without changing its length, where the file system knows how.
func reserve(file *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil
		default:
			return err
		}
	}
}

// detach puts a copy in the place of the file, if it is still in its generation. On a full disk there is no copy: who
// pinned the generation loses less by that than all others by a stale file.
func (w *Writer) detach(info os.FileInfo, content []byte, generation, name string) (err error) {
	root, err := os.OpenRoot(w.dir)
	if err != nil {
		return fmt.Errorf("configuration volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	gen, err := root.OpenRoot(generation)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	there, err := gen.Lstat(name)
	if errors.Is(err, os.ErrNotExist) || (err == nil && !os.SameFile(info, there)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("configuration volume %s: %s has no owner", w.dir, name)
	}
	if err := w.do(StepClearLink, func() error { return gen.RemoveAll(detachTmp) }); err != nil {
		return err
	}
	err = w.file(gen, detachTmp, payload.File{Data: content, Mode: uint32(info.Mode().Perm()), UID: int(stat.Uid), GID: int(stat.Gid)})
	if errors.Is(err, syscall.ENOSPC) {
		return w.do(StepClearLink, func() error { return gen.RemoveAll(detachTmp) })
	}
	if err != nil {
		return err
	}
	return w.do(StepDetachFile, func() error { return gen.Rename(detachTmp, name) })
}
