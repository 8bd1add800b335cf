package client

import (
	"context"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// The methods below are the procedures of RFC 1813, section 3.3. Each returns the results as far as the server gave them, also
// with an error, which is an *Error with a wire.Status in its chain where the server refused.

// GetAttr returns the attributes of a file.
func (c *Client) GetAttr(ctx context.Context, object wire.Handle) (wire.Attr, error) {
	var r wire.GetAttrRes
	err := c.do(ctx, wire.ProcGetAttr, &wire.HandleArgs{Object: object}, &r, &r.Status)
	return r.Attr, err
}

// SetAttr changes attributes of a file, only if its ctime is the guard's where there is one.
func (c *Client) SetAttr(ctx context.Context, object wire.Handle, attr wire.SetAttr, guard *wire.Time) (wire.WccRes, error) {
	var r wire.WccRes
	err := c.do(ctx, wire.ProcSetAttr, &wire.SetAttrArgs{Object: object, Attr: attr, Guard: guard}, &r, &r.Status)
	return r, err
}

// Lookup finds an entry of a directory.
func (c *Client) Lookup(ctx context.Context, dir wire.Handle, name string) (wire.LookupRes, error) {
	var r wire.LookupRes
	err := c.do(ctx, wire.ProcLookup, &wire.EntryArgs{Dir: dir, Name: name}, &r, &r.Status)
	return r, err
}

// Access returns which of the bits the caller has.
func (c *Client) Access(ctx context.Context, object wire.Handle, bits uint32) (wire.AccessRes, error) {
	var r wire.AccessRes
	err := c.do(ctx, wire.ProcAccess, &wire.AccessArgs{Object: object, Access: bits}, &r, &r.Status)
	return r, err
}

// ReadLink returns where a symbolic link points.
func (c *Client) ReadLink(ctx context.Context, object wire.Handle) (wire.ReadLinkRes, error) {
	var r wire.ReadLinkRes
	err := c.do(ctx, wire.ProcReadLink, &wire.HandleArgs{Object: object}, &r, &r.Status)
	return r, err
}

// Read returns at most count bytes of a file from the offset on.
func (c *Client) Read(ctx context.Context, object wire.Handle, offset uint64, count uint32) (wire.ReadRes, error) {
	var r wire.ReadRes
	err := c.do(ctx, wire.ProcRead, &wire.ReadArgs{Object: object, Offset: offset, Count: count}, &r, &r.Status)
	return r, err
}

// readInto is the result of a read whose data goes into a buffer of the caller's.
type readInto struct {
	wire.ReadRes

	to []byte
	n  int
}

// take copies the data out of the record.
func (r *readInto) take() { r.n, r.Data = copy(r.to, r.Data), nil }

// ReadInto reads into the buffer, as much as one call gives, and returns how much that was, and whether the file ends
// there.
func (c *Client) ReadInto(ctx context.Context, object wire.Handle, offset uint64, to []byte) (n int, eof bool, _ error) {
	r := readInto{to: to}
	args := &wire.ReadArgs{Object: object, Offset: offset, Count: uint32(len(to))}
	err := c.do(ctx, wire.ProcRead, args, &r, &r.Status)
	return r.n, r.EOF, err
}

// Write writes to a file. The server may write less than all of the data.
func (c *Client) Write(
	ctx context.Context, object wire.Handle, offset uint64, data []byte, stable wire.Stability,
) (wire.WriteRes, error) {
	var r wire.WriteRes
	err := c.do(ctx, wire.ProcWrite, &wire.WriteArgs{Object: object, Offset: offset, Data: data, Stable: stable}, &r, &r.Status)
	return r, err
}

// Create makes a file.
func (c *Client) Create(ctx context.Context, args wire.CreateArgs) (wire.CreateRes, error) {
	var r wire.CreateRes
	err := c.do(ctx, wire.ProcCreate, &args, &r, &r.Status)
	return r, err
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, dir wire.Handle, name string, attr wire.SetAttr) (wire.CreateRes, error) {
	var r wire.CreateRes
	err := c.do(ctx, wire.ProcMkdir, &wire.MkdirArgs{Where: wire.EntryArgs{Dir: dir, Name: name}, Attr: attr}, &r, &r.Status)
	return r, err
}

// Symlink makes a symbolic link that points to the path.
func (c *Client) Symlink(
	ctx context.Context, dir wire.Handle, name, path string, attr wire.SetAttr,
) (wire.CreateRes, error) {
	var r wire.CreateRes
	args := &wire.SymlinkArgs{Where: wire.EntryArgs{Dir: dir, Name: name}, Path: path, Attr: attr}
	err := c.do(ctx, wire.ProcSymlink, args, &r, &r.Status)
	return r, err
}

// Mknod makes a device, a socket or a FIFO.
func (c *Client) Mknod(ctx context.Context, args wire.MknodArgs) (wire.CreateRes, error) {
	var r wire.CreateRes
	err := c.do(ctx, wire.ProcMknod, &args, &r, &r.Status)
	return r, err
}

// Remove removes an entry that is no directory.
func (c *Client) Remove(ctx context.Context, dir wire.Handle, name string) (wire.WccRes, error) {
	var r wire.WccRes
	err := c.do(ctx, wire.ProcRemove, &wire.EntryArgs{Dir: dir, Name: name}, &r, &r.Status)
	return r, err
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(ctx context.Context, dir wire.Handle, name string) (wire.WccRes, error) {
	var r wire.WccRes
	err := c.do(ctx, wire.ProcRmdir, &wire.EntryArgs{Dir: dir, Name: name}, &r, &r.Status)
	return r, err
}

// Rename moves an entry, over one that is there already.
func (c *Client) Rename(
	ctx context.Context, from wire.Handle, name string, to wire.Handle, newName string,
) (wire.RenameRes, error) {
	var r wire.RenameRes
	args := &wire.RenameArgs{From: wire.EntryArgs{Dir: from, Name: name}, To: wire.EntryArgs{Dir: to, Name: newName}}
	err := c.do(ctx, wire.ProcRename, args, &r, &r.Status)
	return r, err
}

// Link makes another name for a file.
func (c *Client) Link(ctx context.Context, object, dir wire.Handle, name string) (wire.LinkRes, error) {
	var r wire.LinkRes
	args := &wire.LinkArgs{Object: object, Where: wire.EntryArgs{Dir: dir, Name: name}}
	err := c.do(ctx, wire.ProcLink, args, &r, &r.Status)
	return r, err
}

// ReadDir lists a directory from the cookie on, in a reply of at most size bytes.
func (c *Client) ReadDir(
	ctx context.Context, dir wire.Handle, cookie wire.Cookie, verifier wire.Verifier, size uint32,
) (wire.ReadDirRes, error) {
	var r wire.ReadDirRes
	args := &wire.ReadDirArgs{Dir: dir, Cookie: cookie, Verifier: verifier, Count: size}
	err := c.do(ctx, wire.ProcReadDir, args, &r, &r.Status)
	return r, err
}

// ReadDirPlus is ReadDir with attributes and handles.
func (c *Client) ReadDirPlus(
	ctx context.Context, dir wire.Handle, cookie wire.Cookie, verifier wire.Verifier, size uint32,
) (wire.ReadDirRes, error) {
	r := wire.ReadDirRes{Plus: true}
	args := &wire.ReadDirPlusArgs{Dir: dir, Cookie: cookie, Verifier: verifier, DirCount: size, MaxCount: size}
	err := c.do(ctx, wire.ProcReadDirPlus, args, &r, &r.Status)
	return r, err
}

// FSStat returns how much room the file system has.
func (c *Client) FSStat(ctx context.Context) (wire.FSStatRes, error) {
	var r wire.FSStatRes
	err := c.do(ctx, wire.ProcFSStat, &wire.HandleArgs{Object: c.Root()}, &r, &r.Status)
	return r, err
}

// FSInfo returns the sizes of transfers that the server likes.
func (c *Client) FSInfo(ctx context.Context) (wire.FSInfoRes, error) {
	var r wire.FSInfoRes
	err := c.do(ctx, wire.ProcFSInfo, &wire.HandleArgs{Object: c.Root()}, &r, &r.Status)
	return r, err
}

// PathConf returns limits of the file system.
func (c *Client) PathConf(ctx context.Context, object wire.Handle) (wire.PathConfRes, error) {
	var r wire.PathConfRes
	err := c.do(ctx, wire.ProcPathConf, &wire.HandleArgs{Object: object}, &r, &r.Status)
	return r, err
}

// Commit makes unstable writes stable: count bytes from the offset on, or all to the end of the file for 0.
func (c *Client) Commit(ctx context.Context, object wire.Handle, offset uint64, count uint32) (wire.CommitRes, error) {
	var r wire.CommitRes
	err := c.do(ctx, wire.ProcCommit, &wire.CommitArgs{Object: object, Offset: offset, Count: count}, &r, &r.Status)
	return r, err
}
