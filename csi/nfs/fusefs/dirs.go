package fusefs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// openDir is a directory that a process lists.
type openDir struct {
	node *node
	as   *client.Client
	// busy is held, as a token, by the call that lists.
	busy chan struct{}

	verifier wire.Verifier
	// batch are the entries that the server sent and the kernel did not take yet; they go on after the cookie.
	batch []wire.Entry
	after wire.Cookie
	eof   bool
	plus  bool
	when  uint64
}

// OpenDir opens a directory.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	d := &openDir{node: n, as: fs.as(in.Caller), busy: make(chan struct{}, 1)}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nextFile++
	fs.dirs[fs.nextFile] = d
	out.Fh = fs.nextFile
	return fuse.OK
}

// ReleaseDir closes a directory.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.dirs, in.Fh)
}

// FsyncDir has nothing to do: the server syncs directories before it answers.
func (fs *FS) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// ReadDir lists names.
func (fs *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(cancel, in, false, func(_ *openDir, e fuse.DirEntry, _ *wire.Entry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists names with attributes.
func (fs *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(cancel, in, true, func(d *openDir, e fuse.DirEntry, t *wire.Entry) bool {
		known := out.AddDirLookupEntry(e)
		if known == nil {
			return false
		}
		if t.Attr != nil && t.Object != nil && t.Name != "." && t.Name != ".." {
			fs.entry(d.node.id, t.Name, fs.adopt(*t.Object, t.Attr, d.when), known)
		}
		return true
	})
}

// list gives entries to add from the offset on, which is the server's cookie, until it takes no more.
func (fs *FS) list(
	cancel <-chan struct{}, in *fuse.ReadIn, plus bool, add func(*openDir, fuse.DirEntry, *wire.Entry) bool,
) fuse.Status {
	fs.mu.Lock()
	d := fs.dirs[in.Fh]
	fs.mu.Unlock()
	if d == nil {
		return fuse.EBADF
	}
	ctx, end := fs.begin(cancel, in.Caller)
	defer end()
	select {
	case d.busy <- struct{}{}:
		defer func() { <-d.busy }()
	case <-ctx.Done():
		return fuse.EINTR
	}
	cookie := wire.Cookie(in.Offset)
	if d.after != cookie || d.plus != plus || cookie == 0 {
		d.batch, d.eof, d.after, d.plus = nil, false, cookie, plus
	}
	added := false
	for {
		if len(d.batch) == 0 {
			if d.eof {
				return fuse.OK
			}
			if err := fs.fetch(ctx, d); err != nil {
				if added {
					return fuse.OK // the next call comes to it again
				}
				return code(err)
			}
			continue
		}
		t := &d.batch[0]
		e := fuse.DirEntry{Name: t.Name, Ino: t.FileID, Off: uint64(t.Cookie)}
		if t.Attr != nil {
			e.Mode = typeBits(t.Attr.Type)
		}
		if !add(d, e, t) {
			return fuse.OK
		}
		added = true
		d.after, d.batch = t.Cookie, d.batch[1:]
	}
}

// fetch asks the server for the next entries.
func (fs *FS) fetch(ctx context.Context, d *openDir) error {
	if d.after == 0 {
		d.verifier = wire.Verifier{}
	}
	d.when = fs.changes.Load()
	call := d.as.ReadDir
	if d.plus {
		call = d.as.ReadDirPlus
	}
	r, err := call(ctx, d.node.handle, d.after, d.verifier, dirPage)
	if err != nil {
		return err
	}
	if len(r.Entries) == 0 && !r.EOF {
		return wire.ErrIO // a server that never ends
	}
	if len(r.Entries) > 0 && r.Entries[len(r.Entries)-1].Cookie == d.after {
		return wire.ErrIO // one that goes in circles
	}
	d.batch, d.eof, d.verifier = r.Entries, r.EOF, r.Verifier
	return nil
}
