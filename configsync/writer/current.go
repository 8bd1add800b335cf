package writer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/orlop-io/orlop/configsync/payload"
)

// Current returns the generation that is visible, and false where there is none.
func (w *Writer) Current() (_ Generation, ok bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return ReadGeneration(w.dir)
}

// readCurrent returns the directory that ..data names, or nothing where it names none of ours.
func readCurrent(root *os.Root) (string, error) {
	info, err := root.Lstat(dataLink)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	case info.Mode()&os.ModeSymlink == 0:
		return "", nil
	}
	name, err := root.Readlink(dataLink)
	if err != nil {
		return "", fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	}
	if !isGeneration(name) {
		return "", nil
	}
	switch info, err := root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	case !info.IsDir():
		return "", nil
	}
	return name, nil
}

// isGeneration reports whether it is a name that this writer, or upstream's, gives to a generation.
func isGeneration(name string) bool {
	digits, ok := strings.CutPrefix(name, "..")
	return ok && digits != "" && digits[0] >= '0' && digits[0] <= '9' && !strings.Contains(name, "/")
}

var errDiffers = errors.New("the generation differs from the payload")

// matches reports whether the generation has exactly the payload's files: paths, bytes, modes and owners.
func matches(root *os.Root, name string, p payload.Payload) (same bool, err error) {
	gen, err := root.OpenRoot(name)
	if err != nil {
		return false, fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	missing := len(p.Files)
	dirs := map[string]bool{".": true}
	for _, dir := range directories(p) {
		dirs[dir] = true
	}
	err = fs.WalkDir(gen.FS(), ".", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			if !dirs[file] || info.Mode()&^os.ModeDir != finalDirMode(p.GID) || !owns(info, -1, p.GID) {
				return errDiffers
			}
			return nil
		}
		if file == generationFile || file == generationTmp {
			return nil
		}
		want, ok := p.Files[file]
		if !ok || info.Mode() != os.FileMode(want.Mode) || info.Size() != int64(len(want.Data)) ||
			!owns(info, want.UID, want.GID) {
			return errDiffers
		}
		got, err := gen.ReadFile(file)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want.Data) {
			return errDiffers
		}
		missing--
		return nil
	})
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("configuration volume %s: %w", root.Name(), err)
	}
	return missing == 0, nil
}
