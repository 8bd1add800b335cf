package fusefs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// GetAttr returns attributes, after the writes that change them.
func (fs *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	a, err := fs.refresh(ctx, n)
	if err != nil {
		return code(err)
	}
	fs.dropPages(n, &a)
	out.SetTimeout(fs.options.AttrTimeout)
	setAttr(&out.Attr, &a)
	return fuse.OK
}

// refresh asks the server for attributes, after what was written here has got there.
func (fs *FS) refresh(ctx context.Context, n *node) (wire.Attr, error) {
	if err := fs.drain(ctx, n); err != nil {
		return wire.Attr{}, err
	}
	when := fs.changes.Load()
	// As the mounter: every user may see attributes.
	a, err := fs.client.GetAttr(ctx, n.handle)
	if err != nil {
		return wire.Attr{}, err
	}
	return n.update(&a, when), nil
}

// dropPages drops the kernel's pages of a file that somebody else changed. Not here: the kernel may wait with a page locked for
// this very call. Until it is done, whoever opens the file does not get the old pages either.
func (fs *FS) dropPages(n *node, now *wire.Attr) {
	n.mu.Lock()
	changed := now.Type == wire.TypeRegular && n.cached.Type != 0 && now.Mtime != n.cached.Mtime && !n.data.own
	if changed {
		n.cached = wire.Attr{}
	}
	n.mu.Unlock()
	if !changed {
		return
	}
	seen := *now
	fs.wg.Go(func() {
		fs.server.InodeNotify(n.id, 0, 0)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.cached.Type == 0 {
			n.cached = seen
		}
	})
}

// SetAttr changes attributes.
func (fs *FS) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	var s wire.SetAttr
	if mode, ok := in.GetMode(); ok {
		mode &= 0o7777
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s.Size = &size
	}
	s.Atime = setTime(in, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, wire.Time{Sec: uint32(in.Atime), Nsec: in.Atimensec})
	s.Mtime = setTime(in, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, wire.Time{Sec: uint32(in.Mtime), Nsec: in.Mtimensec})
	// What was written before must get there before, or it would undo a new time or mode; and be safe before the size
	// changes, or what is sent again would undo that.
	before := fs.drain
	if s.Size != nil {
		before = fs.sync
	}
	if err := before(ctx, n); err != nil {
		return code(err)
	}
	when := fs.changes.Load()
	c := fs.as(in.Caller)
	r, err := c.SetAttr(ctx, n.handle, s, nil)
	if err != nil {
		return code(err)
	}
	if r.Wcc.After == nil {
		a, err := c.GetAttr(ctx, n.handle)
		if err != nil {
			return code(err)
		}
		r.Wcc.After = &a
	}
	a := n.update(r.Wcc.After, when)
	n.mu.Lock()
	if s.Size != nil {
		// Attributes that were asked for before, and come later, do not know of it.
		n.data.last = fs.changes.Add(1)
		n.attr.Size, a.Size = *s.Size, *s.Size
	}
	if !n.data.own {
		n.cached = n.attr // the kernel's pages are as before, or cut as the file is
	}
	n.mu.Unlock()
	out.SetTimeout(fs.options.AttrTimeout)
	setAttr(&out.Attr, &a)
	return fuse.OK
}

func setTime(in *fuse.SetAttrIn, set, now uint32, t wire.Time) wire.SetTime {
	switch {
	case in.Valid&set == 0:
		return wire.SetTime{}
	case in.Valid&now != 0:
		return wire.SetTime{How: wire.ServerTime}
	}
	return wire.SetTime{How: wire.ClientTime, Time: t}
}

// StatFs returns how much room there is.
func (fs *FS) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	r, err := fs.client.FSStat(ctx)
	if err != nil {
		return code(err)
	}
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen = block, block, 255
	out.Blocks, out.Bfree, out.Bavail = r.TotalBytes/block, r.FreeBytes/block, r.AvailBytes/block
	out.Files, out.Ffree = r.TotalFiles, r.AvailFiles
	return fuse.OK
}
