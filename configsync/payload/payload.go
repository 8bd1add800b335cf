package payload

import (
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// Content is a file's bytes. It prints as [redacted] with every verb of package fmt, in JSON and other text encodings,
// and in logs.
type Content []byte

const redacted = "[redacted]"

var (
	_ fmt.Formatter          = Content(nil)
	_ fmt.Stringer           = Content(nil)
	_ encoding.TextMarshaler = Content(nil)
	_ slog.LogValuer         = Content(nil)
)

// String returns [redacted].
func (Content) String() string { return redacted }

// Format writes [redacted], also for %x and %#v.
func (Content) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// MarshalJSON returns "[redacted]".
func (Content) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns [redacted].
func (Content) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns [redacted]: package slog prints byte slices before it looks for a Stringer.
func (Content) LogValue() slog.Value { return slog.StringValue(redacted) }

// Kind is the kind of a projected object, as in the API.
type Kind string

// The kinds an Object can be of.
const (
	ConfigMap Kind = "ConfigMap"
	Secret    Kind = "Secret"
	Pod       Kind = "Pod"
)

// Version names one state of one object.
type Version struct {
	Kind            Kind   `json:"kind"`
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	UID             string `json:"uid,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// Immutable is an object whose content stays the same as long as its UID does.
	Immutable bool `json:"immutable,omitempty"`
}

// Object is a ConfigMap or a Secret as it was read, or one that is absent. Secrets have no BinaryData.
type Object struct {
	Version

	// Found is false where the API has no such object.
	Found      bool
	Data       map[string]Content
	BinaryData map[string]Content
	// Annotations are those that whoever reads objects asked for. No file depends on them.
	Annotations map[string]string
}

// Item chooses one key of an object and the path of its file. A nil Mode is the source's, a nil UID or GID as well.
type Item struct {
	Key, Path string
	Mode      *int32
	UID, GID  *int64
}

// Value is a file whose content is known already: a field of the downward API, a token, a certificate. A nil Mode is
// the volume's default mode; a nil UID is the superuser.
type Value struct {
	Path string
	Data Content
	Mode *int32
	UID  *int64
}

// Source is one source of a volume: either an object or values.
type Source struct {
	// Object, when not nil, is projected by Items, or as a whole when there are none.
	Object *Object
	Items  []Item
	// Optional lets the object, and each key of Items, be absent.
	Optional bool
	// Mode is that of the object's files, the volume's default mode where it is nil; UID and GID own them, the superuser
	// and the volume's FSGroup where they are nil.
	Mode     *int32
	UID, GID *int64

	// Values are files of their own, and From is the object they were read from, if they were.
	Values []Value
	From   *Version
}

// Volume is all that decides a volume's files.
type Volume struct {
	DefaultMode int32
	// FSGroup is the pod's fsGroup: it owns all files and may read them (upstream adds 0440 to every file's mode).
	FSGroup *int64
	// Exact keeps the modes that sources and items ask for to the bit: the FSGroup then widens the default mode alone.
	Exact bool
	// Sources in the order of the manifest. Where two have a file of one path, the later one wins, as upstream.
	Sources []Source
}

// File is one file. UID and GID are -1 where the superuser owns it.
type File struct {
	Data     Content
	Mode     uint32
	UID, GID int
}

// Payload is what a volume holds: files by their cleaned relative path, and the versions of the objects they are of.
type Payload struct {
	Files   map[string]File
	Objects []Version
	// GID owns the directories of the volume and may list them; -1 without an fsGroup.
	GID int
}

// Paths returns the files' paths, sorted.
func (p Payload) Paths() []string {
	paths := make([]string, 0, len(p.Files))
	for path := range p.Files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}
