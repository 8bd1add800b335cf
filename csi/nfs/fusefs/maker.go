package fusefs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// maker is what a call that changes a directory needs.
type maker struct {
	ctx context.Context
	as  *client.Client
	dir wire.Handle
}

// make makes an entry and tells the kernel of it.
func (fs *FS) make(
	cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut, call func(*maker) (wire.CreateRes, error),
) fuse.Status {
	dir := fs.node(header.NodeId)
	if dir == nil {
		return fuse.Status(unix.ESTALE)
	}
	ctx, end := fs.begin(cancel, header.Caller)
	defer end()
	when := fs.changes.Load()
	r, err := call(&maker{ctx: ctx, as: fs.as(header.Caller), dir: dir.handle})
	if err != nil {
		return code(err)
	}
	_, status := fs.made(cancel, header, name, out, r, when)
	return status
}
