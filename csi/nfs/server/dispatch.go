package server

import (
	"context"
	"fmt"
	"hash/maphash"
	"net/netip"

	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// call is one call of a client.
type call struct {
	*Server

	auth   *wire.Auth
	client netip.Addr
	// sent, where not nil, is called when the reply was sent.
	sent func()
}

// procedure reads its arguments, does its work and returns its results.
type procedure struct {
	run func(*call, *wire.Decoder) (wire.Message, error)
	// once is set for what may not be done twice: a copy of the call gets the first one's reply. Of a write too, for a copy
	// that was held up may come after newer writes.
	once bool
}

// procedureOf makes a procedure of a method.
func procedureOf[A any, P interface {
	*A
	wire.Message
}](once bool, method func(*call, P) wire.Message) procedure {
	return procedure{once: once, run: func(c *call, d *wire.Decoder) (wire.Message, error) {
		var args A
		P(&args).Decode(d)
		if err := d.Finish(); err != nil {
			return nil, err
		}
		return method(c, P(&args)), nil
	}}
}

type nothing struct{ wire.Void }

func null(*call, *nothing) wire.Message { return wire.Void{} }

var nfsProcedures = [...]procedure{
	wire.ProcNull:        procedureOf(false, null),
	wire.ProcGetAttr:     procedureOf(false, (*call).getAttr),
	wire.ProcSetAttr:     procedureOf(true, (*call).setAttr),
	wire.ProcLookup:      procedureOf(false, (*call).lookup),
	wire.ProcAccess:      procedureOf(false, (*call).access),
	wire.ProcReadLink:    procedureOf(false, (*call).readLink),
	wire.ProcRead:        procedureOf(false, (*call).read),
	wire.ProcWrite:       procedureOf(true, (*call).write),
	wire.ProcCreate:      procedureOf(true, (*call).create),
	wire.ProcMkdir:       procedureOf(true, (*call).mkdir),
	wire.ProcSymlink:     procedureOf(true, (*call).symlink),
	wire.ProcMknod:       procedureOf(true, (*call).mknod),
	wire.ProcRemove:      procedureOf(true, (*call).remove),
	wire.ProcRmdir:       procedureOf(true, (*call).rmdir),
	wire.ProcRename:      procedureOf(true, (*call).rename),
	wire.ProcLink:        procedureOf(true, (*call).link),
	wire.ProcReadDir:     procedureOf(false, (*call).readDir),
	wire.ProcReadDirPlus: procedureOf(false, (*call).readDirPlus),
	wire.ProcFSStat:      procedureOf(false, (*call).fsStat),
	wire.ProcFSInfo:      procedureOf(false, (*call).fsInfo),
	wire.ProcPathConf:    procedureOf(false, (*call).pathConf),
	wire.ProcCommit:      procedureOf(false, (*call).commit),
}

var mountProcedures = [...]procedure{
	wire.MountNull:    procedureOf(false, null),
	wire.MountMnt:     procedureOf(false, (*call).mnt),
	wire.MountDump:    procedureOf(false, (*call).dump),
	wire.MountUmnt:    procedureOf(false, (*call).umnt),
	wire.MountUmntAll: procedureOf(false, null),
	wire.MountExport:  procedureOf(false, (*call).listExports),
}

var portmapProcedures = [...]procedure{
	0:                   procedureOf(false, null),
	wire.PortmapGetPort: procedureOf(false, (*call).getPort),
}

// find returns the procedure of a call, or why there is none.
func find(h *wire.CallHeader) (*procedure, wire.AcceptStat, [2]uint32) {
	var known []procedure
	var version uint32
	switch h.Program {
	case wire.ProgramNFS:
		known, version = nfsProcedures[:], wire.VersionNFS
	case wire.ProgramMount:
		known, version = mountProcedures[:], wire.VersionMount
	case wire.ProgramPortmap:
		known, version = portmapProcedures[:], wire.VersionPortmap
	default:
		return nil, wire.AcceptProgUnavail, [2]uint32{}
	}
	if h.Version != version {
		return nil, wire.AcceptProgMismatch, [2]uint32{version, version}
	}
	if int64(h.Proc) >= int64(len(known)) || known[h.Proc].run == nil {
		return nil, wire.AcceptProcUnavail, [2]uint32{}
	}
	return &known[h.Proc], wire.AcceptSuccess, [2]uint32{}
}

// hashed is how many bytes of a call tell it from another one with the same transaction ID.
const hashed = 512

var hashSeed = maphash.MakeSeed()

// answer returns the reply to a call, or nil where the record is none. Call sent afterwards.
func (s *Server) answer(ctx context.Context, client netip.Addr, record []byte) (_ *wire.Encoder, sent func()) {
	sent = func() {}
	d := wire.NewDecoder(record)
	var head wire.CallHeader
	head.Decode(d)
	if d.Err() != nil {
		return nil, sent
	}
	p, stat, versions := find(&head)
	if p == nil {
		return reply(&head, stat, versions, nil), sent
	}
	c := &call{Server: s, auth: head.Auth, client: client}
	run := func() *wire.Encoder {
		return s.run(ctx, p, c, &head, d)
	}
	if !p.once {
		e := run()
		if c.sent != nil {
			sent = c.sent
		}
		return e, sent
	}
	sum := maphash.Bytes(hashSeed, record[:min(len(record), hashed)])
	return s.replies.once(ctx, replyKey{client, head.XID, head.Program, head.Proc, sum}, run), sent
}

func (s *Server) run(ctx context.Context, p *procedure, c *call, head *wire.CallHeader, d *wire.Decoder) (e *wire.Encoder) {
	defer func() {
		if r := recover(); r != nil {
			klog.FromContext(ctx).Error(fmt.Errorf("panic: %v", r), "NFS call failed", "program", head.Program, "procedure", head.Proc)
			e = reply(head, wire.AcceptSystemErr, [2]uint32{}, nil)
		}
	}()
	results, err := p.run(c, d)
	if err != nil {
		return reply(head, wire.AcceptGarbageArgs, [2]uint32{}, nil)
	}
	return reply(head, wire.AcceptSuccess, [2]uint32{}, results)
}

func reply(head *wire.CallHeader, stat wire.AcceptStat, versions [2]uint32, results wire.Message) *wire.Encoder {
	e := wire.RecordSpace(make([]byte, 0, 256))
	wire.Replied(e, head.XID, stat, versions)
	if results != nil {
		results.Encode(e)
	}
	return e
}
