// Package file writes the cluster's own small files so that no reader and no crash ever sees half of one.
package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces path by data in one step: readers see the old content or the new one, the mode is right from
// the first byte on whatever the umask is, and the content is on disk before the name is. The directory must exist. Two
// concurrent writers of one path are the caller's to exclude.
func Write(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// WriteAll is Write which makes the missing directories of path first, with mode 0700.
func WriteAll(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return Write(path, data, mode)
}
