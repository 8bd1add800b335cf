package payload

import (
	"errors"
	"fmt"
)

// Why a volume is refused. All come wrapped in an *Error that names the object, the key and the path.
var (
	// ErrObjectMissing: the object does not exist and is not optional.
	ErrObjectMissing = errors.New("not found; create it, or mark the source optional")
	// ErrKeyMissing: an item names a key that the object does not have, and the source is not optional.
	ErrKeyMissing = errors.New("the object has no such key; add it, or mark the source optional")
	// ErrPathEmpty: the path names no file.
	ErrPathEmpty = errors.New("the path names no file")
	// ErrPathAbsolute: the path begins with a slash.
	ErrPathAbsolute = errors.New("the path must be relative to the volume")
	// ErrPathEscapes: an element of the path is "..".
	ErrPathEscapes = errors.New(`the path must not contain ".."`)
	// ErrPathReserved: the path begins with "..", which is kept for the volume's own files.
	ErrPathReserved = errors.New(`the path must not begin with ".."`)
	// ErrPathTooLong: the path is longer than 4096 bytes, or an element of it longer than 255.
	ErrPathTooLong = errors.New("the path is too long: 4096 bytes in all and 255 an element are the most")
	// ErrPathInvalid: the path holds a zero byte, which no file's name can.
	ErrPathInvalid = errors.New("the path holds a zero byte")
	// ErrMode: the mode has bits outside 0777.
	ErrMode = errors.New("the mode must be between 0 and 0777")
	// ErrConflict: one path is a file and, at the same time, a directory of another file.
	ErrConflict = errors.New("the path is a directory of another file in the volume; choose other paths in items")
	// ErrOwner: a uid or gid is outside what the kernel can hold.
	ErrOwner = errors.New("the owner must be between 0 and 2147483647")
)

// Error is a refusal. Key and Path are empty where the whole object, or the whole volume, is refused.
type Error struct {
	Object Version
	Key    string
	Path   string
	Err    error
}

var _ error = (*Error)(nil)

// Error names the object, the key and the path, never content.
func (e *Error) Error() string {
	s := "configuration volume"
	if e.Object.Kind != "" {
		s = fmt.Sprintf("%s %s/%s", e.Object.Kind, shorten(e.Object.Namespace), shorten(e.Object.Name))
	}
	if e.Key != "" {
		s += fmt.Sprintf(", key %q", shorten(e.Key))
	}
	if e.Path != "" && e.Path != e.Key {
		s += fmt.Sprintf(", path %q", shorten(e.Path))
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the reason, one of this package's sentinels.
func (e *Error) Unwrap() error { return e.Err }

// shorten keeps a hostile name from filling the log.
func shorten(s string) string {
	const most = 260
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
