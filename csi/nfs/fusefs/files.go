package fusefs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// openFile is a file that a process opened; what is read and written through it is read and written as its opener.
type openFile struct {
	node *node
	as   *client.Client
}

// use counts a user of a file, before the server is asked: from then on, its last name is not removed but hidden. It
// waits for a removal that is under way.
func (n *node) use(ctx context.Context) error {
	for {
		n.mu.Lock()
		removing := n.removing
		if removing == nil {
			n.open++
			n.mu.Unlock()
			return nil
		}
		n.mu.Unlock()
		select {
		case <-removing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// opened makes the handle of a file that is used.
func (fs *FS) opened(n *node, as *client.Client) uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nextFile++
	fs.files[fs.nextFile] = &openFile{n, as}
	return fs.nextFile
}

func (fs *FS) file(id uint64) *openFile {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.files[id]
}

// Open opens a file, with one call for both the server's leave and the attributes of this moment.
func (fs *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	var want uint32
	switch in.Flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		want = wire.AccessModify
	case unix.O_RDWR:
		want = wire.AccessModify | wire.AccessRead
	default:
		want = wire.AccessRead
	}
	if err := n.use(ctx); err != nil {
		return code(err)
	}
	as := fs.as(in.Caller)
	when := fs.changes.Load()
	r, err := as.Access(ctx, n.handle, want|wire.AccessExecute)
	granted := r.Access
	if granted&wire.AccessExecute != 0 {
		granted |= wire.AccessRead // a program is read to be run
	}
	if err == nil && granted&want != want {
		err = wire.ErrAcces
	}
	if err != nil {
		fs.unuse(&openFile{n, as})
		return code(err)
	}
	if r.Attr != nil {
		n.update(r.Attr, when)
		n.mu.Lock()
		if n.data.own || n.cached.Mtime == r.Attr.Mtime && n.cached.Size == r.Attr.Size && n.cached.Ctime == r.Attr.Ctime {
			out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
		}
		if !n.data.own {
			n.cached = *r.Attr
		}
		n.mu.Unlock()
	}
	out.Fh = fs.opened(n, as)
	return fuse.OK
}

// Read reads, after the writes to the same place.
func (fs *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f := fs.file(in.Fh)
	if f == nil {
		return nil, fuse.EBADF
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	n := f.node
	n.mu.Lock()
	behind := n.data.behind(in.Offset)
	n.mu.Unlock()
	if behind {
		if err := fs.drain(ctx, n); err != nil {
			return nil, code(err)
		}
	}
	size := min(int(in.Size), len(buf))
	got := 0
	for got < size {
		part := buf[got:min(size, got+int(fs.transfer))]
		count, eof, err := f.as.ReadInto(ctx, n.handle, in.Offset+uint64(got), part)
		if err != nil {
			return nil, code(err)
		}
		if got += count; eof || count == 0 {
			break
		}
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}

// Write takes data over; it is on the server after Fsync or Flush.
func (fs *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f := fs.file(in.Fh)
	if f == nil {
		return 0, fuse.EBADF
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	for rest, offset := data, in.Offset; len(rest) > 0; {
		part := rest[:min(len(rest), int(fs.transfer))]
		if err := fs.write(ctx, f.node, f.as, offset, part); err != nil {
			return 0, code(err)
		}
		rest, offset = rest[len(part):], offset+uint64(len(part))
	}
	if in.Flags&(unix.O_SYNC|unix.O_DSYNC) != 0 {
		if err := fs.sync(ctx, f.node); err != nil {
			return 0, code(err)
		}
	}
	return uint32(len(data)), fuse.OK
}

// Fsync makes what was written safe.
func (fs *FS) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fs.flush(cancel, in.Fh, in.Caller)
}

// Flush is called by each close: what was written here is there for whoever opens the file next.
func (fs *FS) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return fs.flush(cancel, in.Fh, in.Caller)
}

func (fs *FS) flush(cancel <-chan struct{}, id uint64, caller fuse.Caller) fuse.Status {
	f := fs.file(id)
	if f == nil {
		return fuse.EBADF
	}
	ctx, end := fs.begin(cancel, caller)
	defer end()
	return code(fs.sync(ctx, f.node))
}

// Release is called when nobody has the file open this way any more.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	fs.mu.Lock()
	f := fs.files[in.Fh]
	delete(fs.files, in.Fh)
	fs.mu.Unlock()
	if f != nil {
		fs.unuse(f)
	}
}

// unuse is the end of use.
func (fs *FS) unuse(f *openFile) {
	n := f.node
	n.mu.Lock()
	n.open--
	last := n.open == 0
	dirty := n.data.dirty()
	hidden := n.silly != nil
	n.mu.Unlock()
	if last && (dirty || hidden) {
		fs.wg.Go(func() { fs.left(f, dirty, hidden) })
	}
}

// left ends what a file that was closed left to do: pages that were written through a mapping come after the close, and
// a hidden name goes with the last user.
func (fs *FS) left(f *openFile, dirty, hidden bool) {
	if hidden {
		fs.removeHidden(f.node, f.as)
		return
	}
	if dirty {
		if err := fs.sync(fs.ctx, f.node); err != nil {
			klog.Background().Error(err, "Data written through a mapping is lost", "share", fs.client)
		}
	}
}

// removeHidden removes the hidden name of a file that nobody has open.
func (fs *FS) removeHidden(n *node, as *client.Client) {
	n.mu.Lock()
	silly := n.silly
	if n.open > 0 {
		silly = nil
	}
	n.mu.Unlock()
	if silly == nil {
		return
	}
	// Data that is on its way would be answered by NFS3ERR_STALE, which nobody needs to know.
	if _, err := as.Remove(fs.ctx, silly.Dir, silly.Name); err != nil && fs.ctx.Err() == nil {
		klog.Background().Error(err, "A file that was removed while it was open stays on the server", "share", fs.client, "name", silly.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silly = nil
}
