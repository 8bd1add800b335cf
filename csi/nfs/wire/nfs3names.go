package wire

// CreateHow is createmode3.
type CreateHow uint32

// Values of CreateHow.
const (
	CreateUnchecked CreateHow = 0
	CreateGuarded   CreateHow = 1
	CreateExclusive CreateHow = 2
)

// CreateArgs are the arguments of CREATE: attributes, or a verifier for CreateExclusive.
type CreateArgs struct {
	Where    EntryArgs
	How      CreateHow
	Attr     SetAttr
	Verifier Verifier
}

// Encode appends the arguments.
func (a *CreateArgs) Encode(e *Encoder) {
	a.Where.Encode(e)
	e.Uint32(uint32(a.How))
	if a.How == CreateExclusive {
		a.Verifier.encode(e)
	} else {
		a.Attr.Encode(e)
	}
}

// Decode reads the arguments.
func (a *CreateArgs) Decode(d *Decoder) {
	a.Where.Decode(d)
	switch a.How = CreateHow(d.Uint32()); {
	case a.How == CreateExclusive:
		a.Verifier = d.verifier()
	case a.How < CreateExclusive:
		a.Attr.Decode(d)
	default:
		d.fail("createmode %d", a.How)
	}
}

// MkdirArgs are the arguments of MKDIR.
type MkdirArgs struct {
	Where EntryArgs
	Attr  SetAttr
}

// Encode appends the arguments.
func (a *MkdirArgs) Encode(e *Encoder) {
	a.Where.Encode(e)
	a.Attr.Encode(e)
}

// Decode reads the arguments.
func (a *MkdirArgs) Decode(d *Decoder) {
	a.Where.Decode(d)
	a.Attr.Decode(d)
}

// SymlinkArgs are the arguments of SYMLINK.
type SymlinkArgs struct {
	Where EntryArgs
	Attr  SetAttr
	Path  string
}

// Encode appends the arguments.
func (a *SymlinkArgs) Encode(e *Encoder) {
	a.Where.Encode(e)
	a.Attr.Encode(e)
	e.String(a.Path)
}

// Decode reads the arguments.
func (a *SymlinkArgs) Decode(d *Decoder) {
	a.Where.Decode(d)
	a.Attr.Decode(d)
	a.Path = d.String(MaxPath)
}

// MknodArgs are the arguments of MKNOD. Device is for the types TypeBlock and TypeCharacter.
type MknodArgs struct {
	Where  EntryArgs
	Type   FileType
	Attr   SetAttr
	Device Device
}

// Encode appends the arguments.
func (a *MknodArgs) Encode(e *Encoder) {
	a.Where.Encode(e)
	e.Uint32(uint32(a.Type))
	switch a.Type {
	case TypeBlock, TypeCharacter:
		a.Attr.Encode(e)
		e.Uint32(a.Device.Major)
		e.Uint32(a.Device.Minor)
	case TypeSocket, TypeFIFO:
		a.Attr.Encode(e)
	}
}

// Decode reads the arguments.
func (a *MknodArgs) Decode(d *Decoder) {
	a.Where.Decode(d)
	switch a.Type = FileType(d.Uint32()); a.Type {
	case TypeBlock, TypeCharacter:
		a.Attr.Decode(d)
		a.Device = Device{d.Uint32(), d.Uint32()}
	case TypeSocket, TypeFIFO:
		a.Attr.Decode(d)
	}
}

// CreateRes is the result of CREATE, MKDIR, SYMLINK and MKNOD. The handle is nil where the server does not say it.
type CreateRes struct {
	Status Status
	Object *Handle
	Attr   *Attr
	DirWcc Wcc
}

// Encode appends the result.
func (r *CreateRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	if r.Status == OK {
		e.optionalHandle(r.Object)
		e.attr(r.Attr)
	}
	r.DirWcc.Encode(e)
}

// Decode reads the result.
func (r *CreateRes) Decode(d *Decoder) {
	if r.Status = Status(d.Uint32()); r.Status == OK {
		r.Object, r.Attr = d.optionalHandle(), d.attr()
	}
	r.DirWcc.Decode(d)
}

func (e *Encoder) optionalHandle(h *Handle) {
	e.Bool(h != nil)
	if h != nil {
		h.Encode(e)
	}
}

func (d *Decoder) optionalHandle() *Handle {
	if !d.Bool() {
		return nil
	}
	h := d.handle()
	return &h
}

// RenameArgs are the arguments of RENAME.
type RenameArgs struct{ From, To EntryArgs }

// Encode appends the arguments.
func (a *RenameArgs) Encode(e *Encoder) {
	a.From.Encode(e)
	a.To.Encode(e)
}

// Decode reads the arguments.
func (a *RenameArgs) Decode(d *Decoder) {
	a.From.Decode(d)
	a.To.Decode(d)
}

// RenameRes is the result of RENAME.
type RenameRes struct {
	Status         Status
	FromWcc, ToWcc Wcc
}

// Encode appends the result.
func (r *RenameRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	r.FromWcc.Encode(e)
	r.ToWcc.Encode(e)
}

// Decode reads the result.
func (r *RenameRes) Decode(d *Decoder) {
	r.Status = Status(d.Uint32())
	r.FromWcc.Decode(d)
	r.ToWcc.Decode(d)
}

// LinkArgs are the arguments of LINK.
type LinkArgs struct {
	Object Handle
	Where  EntryArgs
}

// Encode appends the arguments.
func (a *LinkArgs) Encode(e *Encoder) {
	a.Object.Encode(e)
	a.Where.Encode(e)
}

// Decode reads the arguments.
func (a *LinkArgs) Decode(d *Decoder) {
	a.Object = d.handle()
	a.Where.Decode(d)
}

// LinkRes is the result of LINK.
type LinkRes struct {
	Status Status
	Attr   *Attr
	DirWcc Wcc
}

// Encode appends the result.
func (r *LinkRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	e.attr(r.Attr)
	r.DirWcc.Encode(e)
}

// Decode reads the result.
func (r *LinkRes) Decode(d *Decoder) {
	r.Status, r.Attr = Status(d.Uint32()), d.attr()
	r.DirWcc.Decode(d)
}
