package wire

// Proc is a procedure of NFS version 3 (RFC 1813, section 3.3).
type Proc uint32

// Values of Proc.
const (
	ProcNull        Proc = 0
	ProcGetAttr     Proc = 1
	ProcSetAttr     Proc = 2
	ProcLookup      Proc = 3
	ProcAccess      Proc = 4
	ProcReadLink    Proc = 5
	ProcRead        Proc = 6
	ProcWrite       Proc = 7
	ProcCreate      Proc = 8
	ProcMkdir       Proc = 9
	ProcSymlink     Proc = 10
	ProcMknod       Proc = 11
	ProcRemove      Proc = 12
	ProcRmdir       Proc = 13
	ProcRename      Proc = 14
	ProcLink        Proc = 15
	ProcReadDir     Proc = 16
	ProcReadDirPlus Proc = 17
	ProcFSStat      Proc = 18
	ProcFSInfo      Proc = 19
	ProcPathConf    Proc = 20
	ProcCommit      Proc = 21
)

// Name returns the procedure's name in RFC 1813.
func (p Proc) Name() string {
	names := [...]string{"NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR",
		"SYMLINK", "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF",
		"COMMIT"}
	if int(p) < len(names) {
		return names[p]
	}
	return "unknown"
}

// Verifier is the eight opaque bytes by which servers say that they are the same, and clients that it is their file.
type Verifier [8]byte

func (v Verifier) encode(e *Encoder) { e.Fixed(v[:]) }

func (d *Decoder) verifier() (v Verifier) {
	copy(v[:], d.Fixed(len(v)))
	return v
}

// HandleArgs are the arguments of GETATTR, READLINK, FSSTAT, FSINFO and PATHCONF.
type HandleArgs struct{ Object Handle }

// Encode appends the arguments.
func (a *HandleArgs) Encode(e *Encoder) { a.Object.Encode(e) }

// Decode reads the arguments.
func (a *HandleArgs) Decode(d *Decoder) { a.Object = d.handle() }

// GetAttrRes is the result of GETATTR.
type GetAttrRes struct {
	Status Status
	Attr   Attr
}

// Encode appends the result.
func (r *GetAttrRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	if r.Status == OK {
		r.Attr.Encode(e)
	}
}

// Decode reads the result.
func (r *GetAttrRes) Decode(d *Decoder) {
	if r.Status = Status(d.Uint32()); r.Status == OK {
		r.Attr.Decode(d)
	}
}

// SetAttrArgs are the arguments of SETATTR. With a Guard nothing changes unless the file's ctime is this.
type SetAttrArgs struct {
	Object Handle
	Attr   SetAttr
	Guard  *Time
}

// Encode appends the arguments.
func (a *SetAttrArgs) Encode(e *Encoder) {
	a.Object.Encode(e)
	a.Attr.Encode(e)
	e.Bool(a.Guard != nil)
	if a.Guard != nil {
		a.Guard.encode(e)
	}
}

// Decode reads the arguments.
func (a *SetAttrArgs) Decode(d *Decoder) {
	a.Object = d.handle()
	a.Attr.Decode(d)
	a.Guard = nil
	if d.Bool() {
		t := d.time()
		a.Guard = &t
	}
}

// WccRes is the result of SETATTR, REMOVE and RMDIR: the attributes of the file, or of the directory.
type WccRes struct {
	Status Status
	Wcc    Wcc
}

// Encode appends the result.
func (r *WccRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	r.Wcc.Encode(e)
}

// Decode reads the result.
func (r *WccRes) Decode(d *Decoder) {
	r.Status = Status(d.Uint32())
	r.Wcc.Decode(d)
}

// EntryArgs name an entry of a directory: the arguments of LOOKUP, REMOVE and RMDIR. The name is as it came; the server
// answers for it.
type EntryArgs struct {
	Dir  Handle
	Name string
}

// Encode appends the arguments.
func (a *EntryArgs) Encode(e *Encoder) {
	a.Dir.Encode(e)
	e.String(a.Name)
}

// Decode reads the arguments.
func (a *EntryArgs) Decode(d *Decoder) { a.Dir, a.Name = d.handle(), d.String(MaxName) }

// LookupRes is the result of LOOKUP.
type LookupRes struct {
	Status  Status
	Object  Handle
	Attr    *Attr
	DirAttr *Attr
}

// Encode appends the result.
func (r *LookupRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	if r.Status == OK {
		r.Object.Encode(e)
		e.attr(r.Attr)
	}
	e.attr(r.DirAttr)
}

// Decode reads the result.
func (r *LookupRes) Decode(d *Decoder) {
	if r.Status = Status(d.Uint32()); r.Status == OK {
		r.Object, r.Attr = d.handle(), d.attr()
	}
	r.DirAttr = d.attr()
}

// Bits of ACCESS.
const (
	AccessRead    = 0x01
	AccessLookup  = 0x02
	AccessModify  = 0x04
	AccessExtend  = 0x08
	AccessDelete  = 0x10
	AccessExecute = 0x20
)

// AccessArgs are the arguments of ACCESS.
type AccessArgs struct {
	Object Handle
	Access uint32
}

// Encode appends the arguments.
func (a *AccessArgs) Encode(e *Encoder) {
	a.Object.Encode(e)
	e.Uint32(a.Access)
}

// Decode reads the arguments.
func (a *AccessArgs) Decode(d *Decoder) { a.Object, a.Access = d.handle(), d.Uint32() }

// AccessRes is the result of ACCESS: which of the bits are granted.
type AccessRes struct {
	Status Status
	Attr   *Attr
	Access uint32
}

// Encode appends the result.
func (r *AccessRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status == OK {
		e.Uint32(r.Access)
	}
}

// Decode reads the result.
func (r *AccessRes) Decode(d *Decoder) {
	r.Status, r.Attr = Status(d.Uint32()), d.attr()
	if r.Status == OK {
		r.Access = d.Uint32()
	}
}

// ReadLinkRes is the result of READLINK.
type ReadLinkRes struct {
	Status Status
	Attr   *Attr
	Path   string
}

// Encode appends the result.
func (r *ReadLinkRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status == OK {
		e.String(r.Path)
	}
}

// Decode reads the result.
func (r *ReadLinkRes) Decode(d *Decoder) {
	r.Status, r.Attr = Status(d.Uint32()), d.attr()
	if r.Status == OK {
		r.Path = d.String(MaxPath)
	}
}

// ReadArgs are the arguments of READ.
type ReadArgs struct {
	Object Handle
	Offset uint64
	Count  uint32
}

// Encode appends the arguments.
func (a *ReadArgs) Encode(e *Encoder) {
	a.Object.Encode(e)
	e.Uint64(a.Offset)
	e.Uint32(a.Count)
}

// Decode reads the arguments.
func (a *ReadArgs) Decode(d *Decoder) {
	a.Object, a.Offset, a.Count = d.handle(), d.Uint64(), d.Uint32()
}

// ReadRes is the result of READ. Data refers to the record it came in.
type ReadRes struct {
	Status Status
	Attr   *Attr
	EOF    bool
	Data   []byte
}

// Encode appends the result; the data is its tail.
func (r *ReadRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	if r.Status == OK {
		e.Uint32(uint32(len(r.Data)))
		e.Bool(r.EOF)
		e.Tail(r.Data)
	}
}

// Decode reads the result.
func (r *ReadRes) Decode(d *Decoder) {
	r.Status, r.Attr = Status(d.Uint32()), d.attr()
	if r.Status != OK {
		return
	}
	count := d.Uint32()
	r.EOF, r.Data = d.Bool(), d.Opaque(MaxData)
	if d.err == nil && uint64(count) != uint64(len(r.Data)) {
		d.fail("a read of %d bytes with %d bytes of data", count, len(r.Data))
	}
}

// Stability is stable_how: how far a write has got when it is answered.
type Stability uint32

// Values of Stability.
const (
	Unstable Stability = 0
	DataSync Stability = 1
	FileSync Stability = 2
)

// WriteArgs are the arguments of WRITE. Data refers to the record it came in.
type WriteArgs struct {
	Object Handle
	Offset uint64
	Stable Stability
	Data   []byte
}

// Encode appends the arguments; the data is their tail.
func (a *WriteArgs) Encode(e *Encoder) {
	a.Object.Encode(e)
	e.Uint64(a.Offset)
	e.Uint32(uint32(len(a.Data)))
	e.Uint32(uint32(a.Stable))
	e.Tail(a.Data)
}

// Decode reads the arguments.
func (a *WriteArgs) Decode(d *Decoder) {
	a.Object, a.Offset = d.handle(), d.Uint64()
	count := d.Uint32()
	a.Stable = Stability(d.Uint32())
	if d.err == nil && a.Stable > FileSync {
		d.fail("stable_how %d", a.Stable)
	}
	a.Data = d.Opaque(MaxData)
	if d.err == nil && uint64(count) != uint64(len(a.Data)) {
		d.fail("a write of %d bytes with %d bytes of data", count, len(a.Data))
	}
}

// WriteRes is the result of WRITE. A server that lost unstable data has another verifier afterwards.
type WriteRes struct {
	Status    Status
	Wcc       Wcc
	Count     uint32
	Committed Stability
	Verifier  Verifier
}

// Encode appends the result.
func (r *WriteRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	r.Wcc.Encode(e)
	if r.Status == OK {
		e.Uint32(r.Count)
		e.Uint32(uint32(r.Committed))
		r.Verifier.encode(e)
	}
}

// Decode reads the result.
func (r *WriteRes) Decode(d *Decoder) {
	r.Status = Status(d.Uint32())
	r.Wcc.Decode(d)
	if r.Status == OK {
		r.Count, r.Committed, r.Verifier = d.Uint32(), Stability(d.Uint32()), d.verifier()
		if d.err == nil && r.Committed > FileSync {
			d.fail("stable_how %d", r.Committed)
		}
	}
}

// CommitArgs are the arguments of COMMIT; a count of 0 is to the end of the file.
type CommitArgs struct {
	Object Handle
	Offset uint64
	Count  uint32
}

// Encode appends the arguments.
func (a *CommitArgs) Encode(e *Encoder) { (*ReadArgs)(a).Encode(e) }

// Decode reads the arguments.
func (a *CommitArgs) Decode(d *Decoder) { (*ReadArgs)(a).Decode(d) }

// CommitRes is the result of COMMIT.
type CommitRes struct {
	Status   Status
	Wcc      Wcc
	Verifier Verifier
}

// Encode appends the result.
func (r *CommitRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	r.Wcc.Encode(e)
	if r.Status == OK {
		r.Verifier.encode(e)
	}
}

// Decode reads the result.
func (r *CommitRes) Decode(d *Decoder) {
	r.Status = Status(d.Uint32())
	r.Wcc.Decode(d)
	if r.Status == OK {
		r.Verifier = d.verifier()
	}
}
