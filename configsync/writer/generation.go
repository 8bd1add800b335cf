package writer

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/orlop-io/orlop/configsync/payload"
)

const (
	// dirMode lets everybody pass: a file's own mode protects it, as in upstream's volumes.
	dirMode = 0o755
	// privateDir is a directory's mode until all below it is finished.
	privateDir = 0o700
	// groupDir is what an fsGroup adds to a directory of a read-only volume, besides the set-group-ID bit.
	groupDir = 0o550
)

// makeGeneration writes the payload into a new directory that nothing names yet, and removes it again on failure.
func (w *Writer) makeGeneration(root *os.Root, p payload.Payload) (string, error) {
	name, err := w.makeGenDir(root)
	if err != nil {
		return "", err
	}
	if err := w.fill(root, name, p); err != nil {
		return "", errors.Join(err, w.do(StepRemoveFailed, func() error { return root.RemoveAll(name) }))
	}
	return name, nil
}

func (w *Writer) makeGenDir(root *os.Root) (string, error) {
	for {
		name := w.o.Now().UTC().Format(nameTime+".") + fmt.Sprint(rand.Uint32())
		err := w.do(StepMakeGen, func() error { return root.Mkdir(name, privateDir) })
		if !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

func (w *Writer) fill(root *os.Root, name string, p payload.Payload) error {
	gen, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	err = w.fillDir(gen, p)
	return errors.Join(err, gen.Close())
}

func (w *Writer) fillDir(gen *os.Root, p payload.Payload) error {
	dirs := directories(p)
	for _, dir := range dirs {
		if err := w.do(StepMakeDir, func() error { return gen.Mkdir(dir, privateDir) }); err != nil {
			return err
		}
	}
	for _, file := range p.Paths() {
		if err := w.file(gen, file, p.Files[file]); err != nil {
			return err
		}
	}
	if err := w.note(gen, generationFile, p); err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, dir := range append(dirs, ".") {
		if err := w.do(StepFinishDir, func() error { return finishDir(gen, dir, p.GID) }); err != nil {
			return err
		}
		if w.o.Sync {
			if err := w.do(StepSyncDir, func() error { return syncDir(gen, dir) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// file creates a file that nobody can open, gives it its owner, its content and at the end its mode: it never has
// another mode that lets anybody in.
func (w *Writer) file(gen *os.Root, name string, f payload.File) (err error) {
	var file *os.File
	if err := w.do(StepCreateFile, func() (err error) {
		file, err = gen.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0)
		return err
	}); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, w.do(StepCloseFile, file.Close))
	}()
	if f.UID >= 0 || f.GID >= 0 {
		if err := w.do(StepChownFile, func() error { return file.Chown(f.UID, f.GID) }); err != nil {
			return err
		}
	}
	if err := w.do(StepWriteFile, func() error { _, err := file.Write(f.Data); return err }); err != nil {
		return err
	}
	if err := w.do(StepChmodFile, func() error { return file.Chmod(os.FileMode(f.Mode)) }); err != nil {
		return err
	}
	if w.o.Sync {
		return w.do(StepSyncFile, file.Sync)
	}
	return nil
}

// ownRoot lets the fsGroup into the volume, as upstream's SetVolumeOwnership does.
func (w *Writer) ownRoot(root *os.Root, gid int) error {
	if gid < 0 {
		return nil
	}
	info, err := root.Lstat(".")
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	mode := info.Mode() | groupDir | os.ModeSetgid
	if mode == info.Mode() && owns(info, -1, gid) {
		return nil
	}
	return w.do(StepRoot, func() error {
		if err := root.Chown(".", -1, gid); err != nil {
			return err
		}
		return root.Chmod(".", mode&(os.ModePerm|os.ModeSetgid|os.ModeSticky))
	})
}

func finishDir(gen *os.Root, dir string, gid int) error {
	if gid >= 0 {
		if err := gen.Chown(dir, -1, gid); err != nil {
			return err
		}
	}
	return gen.Chmod(dir, finalDirMode(gid))
}

func finalDirMode(gid int) os.FileMode {
	if gid >= 0 {
		return dirMode | os.ModeSetgid
	}
	return dirMode
}

// directories returns the directories of the payload's files, each after the one it lies in.
func directories(p payload.Payload) []string {
	seen := map[string]bool{}
	var dirs []string
	for file := range p.Files {
		for dir := path.Dir(file); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// owns reports whether the file has the owner and the group; -1 is any.
func owns(info fs.FileInfo, uid, gid int) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (uid < 0 || stat.Uid == uint32(uid)) && (gid < 0 || stat.Gid == uint32(gid))
}
