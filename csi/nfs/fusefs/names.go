package fusefs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// Lookup finds an entry.
func (fs *FS) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := fs.node(header.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	when := fs.changes.Load()
	c := fs.as(header.Caller)
	r, err := c.Lookup(ctx, dir.handle, name)
	if err != nil {
		return code(err)
	}
	if r.Attr == nil {
		a, err := c.GetAttr(ctx, r.Object)
		if err != nil {
			return code(err)
		}
		r.Attr = &a
	}
	fs.entry(dir.id, name, fs.adopt(r.Object, r.Attr, when), out)
	return fuse.OK
}

// made tells the kernel of what a call made, and asks the server for what it did not say.
func (fs *FS) made(
	cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut, r wire.CreateRes, when uint64,
) (*node, fuse.Status) {
	if r.Object != nil && r.Attr != nil {
		n := fs.adopt(*r.Object, r.Attr, when)
		fs.entry(header.NodeId, name, n, out)
		return n, fuse.OK
	}
	if status := fs.Lookup(cancel, header, name, out); status != fuse.OK {
		return nil, status
	}
	return fs.node(out.NodeId), fuse.OK
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(cancel, &in.InHeader, name, out, func(m *maker) (wire.CreateRes, error) {
		mode := in.Mode & 0o7777
		return m.as.Mkdir(m.ctx, m.dir, name, wire.SetAttr{Mode: &mode})
	})
}

// Symlink makes a symbolic link.
func (fs *FS) Symlink(cancel <-chan struct{}, header *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(cancel, header, name, out, func(m *maker) (wire.CreateRes, error) {
		return m.as.Symlink(m.ctx, m.dir, name, to, wire.SetAttr{})
	})
}

// Mknod makes a device, a socket, a FIFO, or a regular file.
func (fs *FS) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	mode := in.Mode & 0o7777
	where := func(m *maker) wire.EntryArgs { return wire.EntryArgs{Dir: m.dir, Name: name} }
	return fs.make(cancel, &in.InHeader, name, out, func(m *maker) (wire.CreateRes, error) {
		kind := map[uint32]wire.FileType{
			unix.S_IFCHR: wire.TypeCharacter, unix.S_IFBLK: wire.TypeBlock, unix.S_IFIFO: wire.TypeFIFO, unix.S_IFSOCK: wire.TypeSocket,
		}[in.Mode&unix.S_IFMT]
		if kind == 0 {
			return m.as.Create(m.ctx, wire.CreateArgs{Where: where(m), How: wire.CreateGuarded, Attr: wire.SetAttr{Mode: &mode}})
		}
		return m.as.Mknod(m.ctx, wire.MknodArgs{
			Where: where(m), Type: kind, Attr: wire.SetAttr{Mode: &mode},
			Device: wire.Device{Major: unix.Major(uint64(in.Rdev)), Minor: unix.Minor(uint64(in.Rdev))},
		})
	})
}

// Create makes a file, or takes one that is there, and opens it.
func (fs *FS) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	status := fs.make(cancel, &in.InHeader, name, &out.EntryOut, func(m *maker) (wire.CreateRes, error) {
		mode := in.Mode & 0o7777
		args := wire.CreateArgs{Where: wire.EntryArgs{Dir: m.dir, Name: name}, Attr: wire.SetAttr{Mode: &mode}}
		if in.Flags&unix.O_EXCL == 0 {
			if in.Flags&unix.O_TRUNC != 0 {
				args.Attr.Size = new(uint64)
			}
			return m.as.Create(m.ctx, args)
		}
		// A call that is sent twice finds its own file by the verifier. The attributes need a call of their own then.
		args.How = wire.CreateExclusive
		_, _ = rand.Read(args.Verifier[:]) // never fails
		r, err := m.as.Create(m.ctx, args)
		if err != nil || r.Object == nil {
			return r, err
		}
		set := wire.SetAttr{Mode: &mode, Atime: wire.SetTime{How: wire.ServerTime}, Mtime: wire.SetTime{How: wire.ServerTime}}
		w, err := m.as.SetAttr(m.ctx, *r.Object, set, nil)
		r.Attr = w.Wcc.After
		return r, err
	})
	if status != fuse.OK {
		return status
	}
	n := fs.node(out.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	if err := n.use(ctx); err != nil {
		return code(err)
	}
	out.Fh = fs.opened(n, fs.as(in.Caller))
	return fuse.OK
}

// Link makes another name for a file.
func (fs *FS) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, n := fs.node(in.NodeId), fs.node(in.Oldnodeid)
	if dir == nil || n == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	when := fs.changes.Load()
	c := fs.as(in.Caller)
	r, err := c.Link(ctx, n.handle, dir.handle, name)
	if err == nil && r.Attr == nil {
		var a wire.Attr
		a, err = c.GetAttr(ctx, n.handle)
		r.Attr = &a
	}
	if err != nil {
		return code(err)
	}
	n.update(r.Attr, when)
	fs.entry(dir.id, name, n, out)
	return fuse.OK
}

// Unlink removes a name. The last name of a file that is open becomes a hidden one until the file is closed.
func (fs *FS) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir := fs.node(header.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	m := &maker{ctx: ctx, as: fs.as(header.Caller), dir: dir.handle}
	hidden, done, err := fs.hide(m, dir.id, name)
	defer done()
	if err == nil && !hidden {
		_, err = m.as.Remove(ctx, dir.handle, name)
	}
	if err == nil {
		fs.mu.Lock()
		fs.name(entryName{dir.id, name}, nil)
		fs.mu.Unlock()
	}
	return code(err)
}

// Rmdir removes an empty directory.
func (fs *FS) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir := fs.node(header.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	as := fs.as(header.Caller)
	_, err := as.Rmdir(ctx, dir.handle, name)
	// A file that was closed just now may still have its hidden name there: the kernel does not wait for that.
	tick := time.NewTicker(hiddenPoll)
	defer tick.Stop()
	for range hiddenPolls {
		if !errors.Is(err, wire.ErrNotEmpty) && !errors.Is(err, unix.EEXIST) || !fs.hides(fs.named(header.NodeId, name)) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return code(ctx.Err())
		}
		_, err = as.Rmdir(ctx, dir.handle, name)
	}
	return code(err)
}

// hiddenPoll and hiddenPolls say how a removal of a directory waits for files that are being closed.
const (
	hiddenPoll  = 5 * time.Millisecond
	hiddenPolls = 100
)

// hides reports whether a directory has hidden names.
func (fs *FS) hides(dir *node) bool {
	if dir == nil {
		return false
	}
	fs.mu.Lock()
	nodes := slices.Collect(maps.Values(fs.nodes))
	fs.mu.Unlock()
	return slices.ContainsFunc(nodes, func(n *node) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.silly != nil && n.silly.Dir == dir.handle
	})
}

// Rename moves an entry. One that it replaces, and that is open, is hidden before.
func (fs *FS) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	dir, target := fs.node(in.NodeId), fs.node(in.Newdir)
	if dir == nil || target == nil {
		return fuse.Status(unix.ESTALE)
	}
	if in.Flags != 0 {
		return fuse.EINVAL // as other file systems answer to flags of renameat2 that they do not have
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	source, replaced := fs.named(dir.id, from), fs.named(target.id, to)
	if source != nil && source == replaced {
		return fuse.OK // two names of one file: nothing happens
	}
	m := &maker{ctx: ctx, as: fs.as(in.Caller), dir: target.handle}
	_, done, err := fs.hide(m, target.id, to)
	defer done()
	if err == nil {
		_, err = m.as.Rename(ctx, dir.handle, from, target.handle, to)
	}
	if err == nil {
		fs.mu.Lock()
		fs.name(entryName{dir.id, from}, nil)
		fs.name(entryName{target.id, to}, source)
		fs.mu.Unlock()
	}
	return code(err)
}

// hiddenNames makes the names of hidden files unique among the mounts of this process; the random part, among others.
var hiddenNames atomic.Uint64

// hide gives the last name of an open file a hidden one, as every client of NFS does: the server knows nothing of open
// files. It reports false where there is no need; then nobody opens the file before done is called.
func (fs *FS) hide(m *maker, dir uint64, name string) (hidden bool, done func(), _ error) {
	n := fs.named(dir, name)
	if n == nil {
		return false, func() {}, nil
	}
	to := wire.EntryArgs{Dir: m.dir, Name: fmt.Sprintf(".nfs%016x%08x", time.Now().UnixNano(), hiddenNames.Add(1))}
	n.mu.Lock()
	if n.attr.Type != wire.TypeRegular || n.silly != nil || n.hiding || n.removing != nil {
		n.mu.Unlock()
		return false, func() {}, nil
	}
	if n.open == 0 {
		n.removing = make(chan struct{})
		n.mu.Unlock()
		return false, n.removed, nil
	}
	n.hiding = true
	n.mu.Unlock()
	// The number of names that is known here may be old. One name more is hidden at worst.
	a, err := m.as.GetAttr(m.ctx, n.handle)
	hide := err == nil && a.Links <= 1
	if hide {
		_, err = m.as.Rename(m.ctx, m.dir, name, to.Dir, to.Name)
	}
	n.mu.Lock()
	n.hiding = false
	left := n.open == 0
	if hide = hide && err == nil; hide {
		n.silly = &to
	}
	n.mu.Unlock()
	if hide && left {
		// It was closed while it was being hidden.
		fs.wg.Go(func() { fs.removeHidden(n, m.as) })
	}
	return hide, func() {}, err
}

// removed lets those go on who want to open the file.
func (n *node) removed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.removing)
	n.removing = nil
}

// Readlink returns where a symbolic link points.
func (fs *FS) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	n := fs.node(header.NodeId)
	if n == nil {
		return nil, fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	r, err := fs.as(header.Caller).ReadLink(ctx, n.handle)
	return []byte(r.Path), code(err)
}
