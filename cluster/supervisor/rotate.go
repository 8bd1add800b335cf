package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// rotated is an append-only file which is put aside as <path>.1 once it would grow past maxBytes, the older ones as
// .2 and so on up to backups. It is not safe for concurrent use.
type rotated struct {
	path     string
	maxBytes int64
	backups  int

	file *os.File // nil after a rotation that could not open the next one
	size int64
}

var _ io.WriteCloser = (*rotated)(nil)

// openRotated opens the file at path with mode 0600: components' logs can quote what users wrote.
func openRotated(path string, maxBytes int64, backups int) (*rotated, error) {
	r := &rotated{path: path, maxBytes: maxBytes, backups: backups}
	return r, r.open()
}

func (r *rotated) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write appends p to the file, or, when that would make it too large, to a new one. A p is never cut in two.
func (r *rotated) Write(p []byte) (int, error) {
	if r.size > 0 && r.size+int64(len(p)) > r.maxBytes {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	if r.file == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, err
}

func (r *rotated) rotate() error {
	if err := r.Close(); err != nil {
		return err
	}
	for i := r.backups; i > 0; i-- {
		if err := os.Rename(r.backup(i-1), r.backup(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Before the next file is there: a failure to make it must not put the same ones aside again.
	r.size = 0
	return r.open()
}

// backup is the path of the i-th file put aside; the 0th is the one being written.
func (r *rotated) backup(i int) string {
	if i == 0 {
		return r.path
	}
	return fmt.Sprintf("%s.%d", r.path, i)
}

// Close closes the file; a later Write would open it again.
func (r *rotated) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
