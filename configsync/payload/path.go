package payload

import (
	"path"
	"strings"
)

const (
	maxPath    = 4096
	maxElement = 255
)

// CleanPath returns the path in its shortest form, or one of the ErrPath errors. It accepts and refuses what upstream's
// AtomicWriter does, and refuses a zero byte and a path of dots alone besides, which upstream meets only when it writes.
func CleanPath(p string) (string, error) {
	switch {
	case p == "":
		return "", ErrPathEmpty
	case strings.HasPrefix(p, "/"):
		return "", ErrPathAbsolute
	case len(p) > maxPath:
		return "", ErrPathTooLong
	case strings.ContainsRune(p, 0):
		return "", ErrPathInvalid
	}
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return "", ErrPathEscapes
		}
		if len(element) > maxElement {
			return "", ErrPathTooLong
		}
	}
	clean := path.Clean(p)
	switch {
	case clean == ".":
		return "", ErrPathEmpty
	case strings.HasPrefix(clean, ".."):
		return "", ErrPathReserved
	}
	return clean, nil
}

// directories returns every directory a path lies in, the innermost first.
func directories(p string) []string {
	var dirs []string
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	return dirs
}
