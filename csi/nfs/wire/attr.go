package wire

import (
	"fmt"
	"strings"
	"time"
)

// Limits of RFC 1813 and of this codec.
const (
	// MaxHandle is the most bytes a file handle has.
	MaxHandle = 64
	// MaxName is the most bytes of an entry's name that are decoded; servers allow fewer.
	MaxName = 1024
	// MaxPath is the most bytes of a symbolic link or of a share's path.
	MaxPath = 4096
	// MaxData is the most bytes of one read or write.
	MaxData = 4 << 20
	// MaxRecord is the most that a record may have: data, and what is around it.
	MaxRecord = MaxData + 4096
)

// Handle is a file handle: opaque bytes that a server gave.
type Handle string

// Encode appends the handle.
func (h Handle) Encode(e *Encoder) { e.String(string(h)) }

func (d *Decoder) handle() Handle { return Handle(d.String(MaxHandle)) }

// ValidName reports what is wrong with the name of a directory's entry: one that is empty, has a slash or a NUL, or is
// too long. "." and ".." are valid; a client must not take them for entries.
func ValidName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: an empty name", ErrMalformed)
	case len(name) > MaxName:
		return fmt.Errorf("%w: a name of %d bytes", ErrMalformed, len(name))
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: name %q has a slash or a NUL", ErrMalformed, name)
	}
	return nil
}

// entryName decodes a name that a server gave.
func (d *Decoder) entryName() string {
	name := d.String(MaxName)
	if d.err == nil {
		if err := ValidName(name); err != nil {
			d.fail("%v", err)
			return ""
		}
	}
	return name
}

// FileType is ftype3.
type FileType uint32

// Values of FileType.
const (
	TypeRegular   FileType = 1
	TypeDirectory FileType = 2
	TypeBlock     FileType = 3
	TypeCharacter FileType = 4
	TypeSymlink   FileType = 5
	TypeSocket    FileType = 6
	TypeFIFO      FileType = 7
)

// Time is nfstime3: seconds and nanoseconds since 1970.
type Time struct{ Sec, Nsec uint32 }

// TimeOf returns the time in the wire's form, which begins in 1970 and ends in 2106.
func TimeOf(t time.Time) Time { return Time{uint32(t.Unix()), uint32(t.Nanosecond())} }

// Time returns the time.
func (t Time) Time() time.Time { return time.Unix(int64(t.Sec), int64(t.Nsec)) }

func (t Time) encode(e *Encoder) {
	e.Uint32(t.Sec)
	e.Uint32(t.Nsec)
}

func (d *Decoder) time() Time { return Time{d.Uint32(), d.Uint32()} }

// Device is specdata3.
type Device struct{ Major, Minor uint32 }

// Attr is fattr3, the attributes of a file. Size and Used are in bytes.
type Attr struct {
	Type                FileType
	Mode                uint32
	Links               uint32
	UID, GID            uint32
	Size, Used          uint64
	Device              Device
	FSID, FileID        uint64
	Atime, Mtime, Ctime Time
}

// AttrSize is how many bytes Attr has on the wire.
const AttrSize = 84

// Encode appends the attributes.
func (a *Attr) Encode(e *Encoder) {
	for _, v := range [...]uint32{uint32(a.Type), a.Mode, a.Links, a.UID, a.GID} {
		e.Uint32(v)
	}
	e.Uint64(a.Size)
	e.Uint64(a.Used)
	e.Uint32(a.Device.Major)
	e.Uint32(a.Device.Minor)
	e.Uint64(a.FSID)
	e.Uint64(a.FileID)
	a.Atime.encode(e)
	a.Mtime.encode(e)
	a.Ctime.encode(e)
}

// Decode reads the attributes.
func (a *Attr) Decode(d *Decoder) {
	a.Type = FileType(d.Uint32())
	if d.err == nil && (a.Type < TypeRegular || a.Type > TypeFIFO) {
		d.fail("file type %d", a.Type)
	}
	a.Mode, a.Links, a.UID, a.GID = d.Uint32(), d.Uint32(), d.Uint32(), d.Uint32()
	a.Size, a.Used = d.Uint64(), d.Uint64()
	a.Device = Device{d.Uint32(), d.Uint32()}
	a.FSID, a.FileID = d.Uint64(), d.Uint64()
	a.Atime, a.Mtime, a.Ctime = d.time(), d.time(), d.time()
}

// optional attributes: post_op_attr.
func (e *Encoder) attr(a *Attr) {
	e.Bool(a != nil)
	if a != nil {
		a.Encode(e)
	}
}

func (d *Decoder) attr() *Attr {
	if !d.Bool() {
		return nil
	}
	a := &Attr{}
	a.Decode(d)
	return a
}

// WccAttr are the attributes that tell whether a file was changed by somebody else.
type WccAttr struct {
	Size         uint64
	Mtime, Ctime Time
}

// Wcc is wcc_data: the attributes before and after a change, as far as the server knows them.
type Wcc struct {
	Before *WccAttr
	After  *Attr
}

// Encode appends both.
func (w *Wcc) Encode(e *Encoder) {
	e.Bool(w.Before != nil)
	if w.Before != nil {
		e.Uint64(w.Before.Size)
		w.Before.Mtime.encode(e)
		w.Before.Ctime.encode(e)
	}
	e.attr(w.After)
}

// Decode reads both.
func (w *Wcc) Decode(d *Decoder) {
	w.Before = nil
	if d.Bool() {
		w.Before = &WccAttr{Size: d.Uint64(), Mtime: d.time(), Ctime: d.time()}
	}
	w.After = d.attr()
}

// SetTime says what becomes of a time of a file.
type SetTime struct {
	How  SetTimeHow
	Time Time // for ClientTime
}

// SetTimeHow is time_how.
type SetTimeHow uint32

// Values of SetTimeHow.
const (
	KeepTime   SetTimeHow = 0
	ServerTime SetTimeHow = 1
	ClientTime SetTimeHow = 2
)

// SetAttr is sattr3: what is to change of a file's attributes; nil leaves it.
type SetAttr struct {
	Mode, UID, GID *uint32
	Size           *uint64
	Atime, Mtime   SetTime
}

// Encode appends the attributes.
func (s *SetAttr) Encode(e *Encoder) {
	for _, v := range [...]*uint32{s.Mode, s.UID, s.GID} {
		e.Bool(v != nil)
		if v != nil {
			e.Uint32(*v)
		}
	}
	e.Bool(s.Size != nil)
	if s.Size != nil {
		e.Uint64(*s.Size)
	}
	for _, t := range [...]SetTime{s.Atime, s.Mtime} {
		e.Uint32(uint32(t.How))
		if t.How == ClientTime {
			t.Time.encode(e)
		}
	}
}

// Decode reads the attributes.
func (s *SetAttr) Decode(d *Decoder) {
	for _, v := range [...]**uint32{&s.Mode, &s.UID, &s.GID} {
		*v = nil
		if d.Bool() {
			n := d.Uint32()
			*v = &n
		}
	}
	s.Size = nil
	if d.Bool() {
		n := d.Uint64()
		s.Size = &n
	}
	for _, t := range [...]*SetTime{&s.Atime, &s.Mtime} {
		*t = SetTime{How: SetTimeHow(d.Uint32())}
		switch {
		case t.How == ClientTime:
			t.Time = d.time()
		case d.err == nil && t.How > ClientTime:
			d.fail("time_how %d", t.How)
		}
	}
}
