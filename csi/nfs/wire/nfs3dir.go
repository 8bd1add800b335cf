package wire

// Cookie says where in a directory a listing goes on; 0 is its beginning.
type Cookie uint64

// Entry is an entry of a directory. Attr and Object come with READDIRPLUS, as far as the server has them.
type Entry struct {
	FileID uint64
	Name   string
	Cookie Cookie
	Attr   *Attr
	Object *Handle
}

// Size is how many bytes the entry takes of a READDIRPLUS reply, or of a READDIR reply.
func (t *Entry) Size(plus bool) int {
	n := 4 + 8 + 4 + len(t.Name) + padding(len(t.Name)) + 8
	if plus {
		n += 4 + 4
		if t.Attr != nil {
			n += AttrSize
		}
		if t.Object != nil {
			n += 4 + len(*t.Object) + padding(len(*t.Object))
		}
	}
	return n
}

// ReadDirOverhead is the most that a reply has beside its entries.
const ReadDirOverhead = 4 + 4 + AttrSize + 8 + 4 + 4

// ReadDirArgs are the arguments of READDIR. Count is the most bytes of the reply.
type ReadDirArgs struct {
	Dir      Handle
	Cookie   Cookie
	Verifier Verifier
	Count    uint32
}

// Encode appends the arguments.
func (a *ReadDirArgs) Encode(e *Encoder) {
	a.Dir.Encode(e)
	e.Uint64(uint64(a.Cookie))
	a.Verifier.encode(e)
	e.Uint32(a.Count)
}

// Decode reads the arguments.
func (a *ReadDirArgs) Decode(d *Decoder) {
	a.Dir, a.Cookie, a.Verifier, a.Count = d.handle(), Cookie(d.Uint64()), d.verifier(), d.Uint32()
}

// ReadDirPlusArgs are the arguments of READDIRPLUS. DirCount is the most bytes of names and cookies, MaxCount of the reply.
type ReadDirPlusArgs struct {
	Dir                Handle
	Cookie             Cookie
	Verifier           Verifier
	DirCount, MaxCount uint32
}

// Encode appends the arguments.
func (a *ReadDirPlusArgs) Encode(e *Encoder) {
	a.Dir.Encode(e)
	e.Uint64(uint64(a.Cookie))
	a.Verifier.encode(e)
	e.Uint32(a.DirCount)
	e.Uint32(a.MaxCount)
}

// Decode reads the arguments.
func (a *ReadDirPlusArgs) Decode(d *Decoder) {
	a.Dir, a.Cookie, a.Verifier = d.handle(), Cookie(d.Uint64()), d.verifier()
	a.DirCount, a.MaxCount = d.Uint32(), d.Uint32()
}

// ReadDirRes is the result of READDIR, and with Plus that of READDIRPLUS. Plus must be set before decoding.
type ReadDirRes struct {
	Plus     bool
	Status   Status
	DirAttr  *Attr
	Verifier Verifier
	Entries  []Entry
	EOF      bool
}

// Encode appends the result.
func (r *ReadDirRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.DirAttr)
	if r.Status != OK {
		return
	}
	r.Verifier.encode(e)
	for i := range r.Entries {
		t := &r.Entries[i]
		e.Bool(true)
		e.Uint64(t.FileID)
		e.String(t.Name)
		e.Uint64(uint64(t.Cookie))
		if r.Plus {
			e.attr(t.Attr)
			e.optionalHandle(t.Object)
		}
	}
	e.Bool(false)
	e.Bool(r.EOF)
}

// Decode reads the result. Names that are no names of entries are an error.
func (r *ReadDirRes) Decode(d *Decoder) {
	r.Status, r.DirAttr, r.Entries = Status(d.Uint32()), d.attr(), nil
	if r.Status != OK {
		return
	}
	r.Verifier = d.verifier()
	for d.Bool() {
		t := Entry{FileID: d.Uint64(), Name: d.entryName(), Cookie: Cookie(d.Uint64())}
		if r.Plus {
			t.Attr, t.Object = d.attr(), d.optionalHandle()
		}
		if d.err != nil {
			return
		}
		r.Entries = append(r.Entries, t)
	}
	r.EOF = d.Bool()
}

// FSStatRes is the result of FSSTAT. Bytes and files are in all, free, and free for the caller.
type FSStatRes struct {
	Status                            Status
	Attr                              *Attr
	TotalBytes, FreeBytes, AvailBytes uint64
	TotalFiles, FreeFiles, AvailFiles uint64
	// Invariant is for how many seconds this will not change.
	Invariant uint32
}

// Encode appends the result.
func (r *FSStatRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status != OK {
		return
	}
	for _, v := range [...]uint64{r.TotalBytes, r.FreeBytes, r.AvailBytes, r.TotalFiles, r.FreeFiles, r.AvailFiles} {
		e.Uint64(v)
	}
	e.Uint32(r.Invariant)
}

// Decode reads the result.
func (r *FSStatRes) Decode(d *Decoder) {
	if r.Status, r.Attr = Status(d.Uint32()), d.attr(); r.Status != OK {
		return
	}
	for _, v := range [...]*uint64{&r.TotalBytes, &r.FreeBytes, &r.AvailBytes, &r.TotalFiles, &r.FreeFiles, &r.AvailFiles} {
		*v = d.Uint64()
	}
	r.Invariant = d.Uint32()
}

// Bits of FSInfoRes.Properties.
const (
	CanLink       = 0x01
	CanSymlink    = 0x02
	IsHomogeneous = 0x08
	CanSetTime    = 0x10
)

// FSInfoRes is the result of FSINFO: the largest, preferred and multiple sizes of transfers, in bytes.
type FSInfoRes struct {
	Status                         Status
	Attr                           *Attr
	ReadMax, ReadPref, ReadMult    uint32
	WriteMax, WritePref, WriteMult uint32
	DirPref                        uint32
	MaxFileSize                    uint64
	TimeDelta                      Time
	Properties                     uint32
}

// Encode appends the result.
func (r *FSInfoRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status != OK {
		return
	}
	for _, v := range [...]uint32{r.ReadMax, r.ReadPref, r.ReadMult, r.WriteMax, r.WritePref, r.WriteMult, r.DirPref} {
		e.Uint32(v)
	}
	e.Uint64(r.MaxFileSize)
	r.TimeDelta.encode(e)
	e.Uint32(r.Properties)
}

// Decode reads the result.
func (r *FSInfoRes) Decode(d *Decoder) {
	if r.Status, r.Attr = Status(d.Uint32()), d.attr(); r.Status != OK {
		return
	}
	for _, v := range [...]*uint32{&r.ReadMax, &r.ReadPref, &r.ReadMult, &r.WriteMax, &r.WritePref, &r.WriteMult, &r.DirPref} {
		*v = d.Uint32()
	}
	r.MaxFileSize, r.TimeDelta, r.Properties = d.Uint64(), d.time(), d.Uint32()
}

// PathConfRes is the result of PATHCONF.
type PathConfRes struct {
	Status                                                    Status
	Attr                                                      *Attr
	LinkMax, NameMax                                          uint32
	NoTrunc, ChownRestricted, CaseInsensitive, CasePreserving bool
}

// Encode appends the result.
func (r *PathConfRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status != OK {
		return
	}
	e.Uint32(r.LinkMax)
	e.Uint32(r.NameMax)
	for _, v := range [...]bool{r.NoTrunc, r.ChownRestricted, r.CaseInsensitive, r.CasePreserving} {
		e.Bool(v)
	}
}

// Decode reads the result.
func (r *PathConfRes) Decode(d *Decoder) {
	if r.Status, r.Attr = Status(d.Uint32()), d.attr(); r.Status != OK {
		return
	}
	r.LinkMax, r.NameMax = d.Uint32(), d.Uint32()
	r.NoTrunc, r.ChownRestricted, r.CaseInsensitive, r.CasePreserving = d.Bool(), d.Bool(), d.Bool(), d.Bool()
}
