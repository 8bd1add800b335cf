package wire

// Procedures of the MOUNT protocol, version 3 (RFC 1813, section 5), and of the port mapper, version 2.
const (
	MountNull    = 0
	MountMnt     = 1
	MountDump    = 2
	MountUmnt    = 3
	MountUmntAll = 4
	MountExport  = 5

	PortmapGetPort = 3
)

// PathArgs are the arguments of MNT and UMNT: the path of a share.
type PathArgs struct{ Path string }

// Encode appends the arguments.
func (a *PathArgs) Encode(e *Encoder) { e.String(a.Path) }

// Decode reads the arguments.
func (a *PathArgs) Decode(d *Decoder) { a.Path = d.String(MaxPath) }

// maxFlavours is how many flavours of authentication a server may offer for a share.
const maxFlavours = 64

// AuthSysFlavour is the number of AUTH_SYS among MntRes.Flavours.
const AuthSysFlavour = authSys

// MntRes is the result of MNT. The status is mountstat3, whose numbers are those of Status.
type MntRes struct {
	Status   Status
	Root     Handle
	Flavours []uint32
}

// Encode appends the result.
func (r *MntRes) Encode(e *Encoder) {
	e.Uint32(uint32(r.Status))
	if r.Status != OK {
		return
	}
	r.Root.Encode(e)
	e.Uint32(uint32(len(r.Flavours)))
	for _, f := range r.Flavours {
		e.Uint32(f)
	}
}

// Decode reads the result.
func (r *MntRes) Decode(d *Decoder) {
	r.Flavours = nil
	if r.Status = Status(d.Uint32()); r.Status != OK {
		return
	}
	r.Root = d.handle()
	n := d.Uint32()
	if n > maxFlavours {
		d.fail("%d flavours of authentication", n)
	}
	for range n {
		if d.err != nil {
			return
		}
		r.Flavours = append(r.Flavours, d.Uint32())
	}
}

// Export is a share, and who may mount it: everybody where there is no group.
type Export struct {
	Path   string
	Groups []string
}

// ExportRes is the result of EXPORT.
type ExportRes struct{ Exports []Export }

// Encode appends the result.
func (r *ExportRes) Encode(e *Encoder) {
	for _, x := range r.Exports {
		e.Bool(true)
		e.String(x.Path)
		for _, g := range x.Groups {
			e.Bool(true)
			e.String(g)
		}
		e.Bool(false)
	}
	e.Bool(false)
}

// Decode reads the result.
func (r *ExportRes) Decode(d *Decoder) {
	r.Exports = nil
	for d.Bool() {
		x := Export{Path: d.String(MaxPath)}
		for d.Bool() {
			x.Groups = append(x.Groups, d.String(MaxName))
		}
		if d.err != nil {
			return
		}
		r.Exports = append(r.Exports, x)
	}
}

// PortArgs are the arguments of the port mapper's GETPORT.
type PortArgs struct{ Program, Version, Protocol uint32 }

// ProtocolTCP is TCP's number in PortArgs.
const ProtocolTCP = 6

// Encode appends the arguments.
func (a *PortArgs) Encode(e *Encoder) {
	for _, v := range [...]uint32{a.Program, a.Version, a.Protocol, 0} {
		e.Uint32(v)
	}
}

// Decode reads the arguments.
func (a *PortArgs) Decode(d *Decoder) {
	a.Program, a.Version, a.Protocol = d.Uint32(), d.Uint32(), d.Uint32()
	d.Uint32()
}

// PortRes is the result of GETPORT; 0 where the program is not registered.
type PortRes struct{ Port uint32 }

// Encode appends the result.
func (r *PortRes) Encode(e *Encoder) { e.Uint32(r.Port) }

// Decode reads the result.
func (r *PortRes) Decode(d *Decoder) { r.Port = d.Uint32() }

// Void is the message of calls without arguments or results.
type Void struct{}

// Encode appends nothing.
func (Void) Encode(*Encoder) {}

// Decode reads nothing.
func (Void) Decode(*Decoder) {}
