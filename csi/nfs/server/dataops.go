package server

import (
	"errors"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// maxFileSize is the highest offset that system calls take.
const maxFileSize = math.MaxInt64

// reopen opens a regular file for reading or writing as the caller. As every server of NFS does, it lets the owner in
// whatever the mode is, for the mode may have changed since the client opened it, and lets those read who may execute.
func (f *file) reopen(flags int) (int, error) {
	a, err := f.attributes(f.fd)
	switch {
	case err != nil:
		return -1, err
	case a.Type == wire.TypeDirectory:
		return -1, unix.EISDIR
	case a.Type != wire.TypeRegular:
		return -1, unix.EINVAL
	}
	fd := -1
	open := func() (err error) {
		fd, err = unix.Open(procPath(f.fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	}
	err = f.id.as(open)
	if errors.Is(err, unix.EACCES) && (a.UID == f.id.uid || flags == unix.O_RDONLY && f.may(unix.X_OK) == nil) {
		err = open()
	}
	return fd, err
}

func (c *call) read(a *wire.ReadArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.ReadRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	res := &wire.ReadRes{}
	fd, err := f.reopen(unix.O_RDONLY)
	if err == nil {
		defer closeFD(fd)
		if a.Offset <= maxFileSize {
			res.Data, err = readAll(fd, c.buffer(int(min(a.Count, maxTransfer))), int64(a.Offset))
		}
	}
	res.Status, res.Attr = wire.StatusOf(err), f.stat()
	res.EOF = len(res.Data) < int(a.Count) && len(res.Data) < maxTransfer
	if res.Attr != nil && a.Offset+uint64(len(res.Data)) >= res.Attr.Size {
		res.EOF = true
	}
	return res
}

// buffers are used again for the data of large reads.
var buffers = sync.Pool{New: func() any { return new([maxTransfer]byte) }}

// buffer returns a buffer that is given back after the reply was sent.
func (c *call) buffer(size int) []byte {
	if size < maxTransfer/16 {
		return make([]byte, size)
	}
	b := buffers.Get().(*[maxTransfer]byte)
	c.sent = func() { buffers.Put(b) }
	return b[:size]
}

// readAll reads until the buffer is full or the file ends.
func readAll(fd int, b []byte, offset int64) ([]byte, error) {
	n := 0
	for n < len(b) {
		got, err := unix.Pread(fd, b[n:], offset+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if got == 0 {
			break
		}
		n += got
	}
	return b[:n], nil
}

func (c *call) write(a *wire.WriteArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.WriteRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	// The verifier is read before the write: one that changes meanwhile makes the client send the data again.
	res := &wire.WriteRes{Verifier: c.verifier.get(), Committed: a.Stable}
	unlock := c.locks.lock(a.Object)
	defer unlock()
	res.Wcc.Before = wccBefore(f.stat())
	fd, err := f.reopen(unix.O_WRONLY)
	if err == nil {
		if a.Offset > maxFileSize-uint64(len(a.Data)) {
			err = unix.EFBIG
		} else {
			err = f.writeAll(fd, a)
		}
		err = errors.Join(err, unix.Close(fd))
	}
	res.Wcc.After = f.stat()
	if res.Status = wire.StatusOf(err); res.Status == wire.OK {
		res.Count = uint32(len(a.Data))
	} else if a.Stable != wire.Unstable {
		c.verifier.renew()
	}
	return res
}

func (f *file) writeAll(fd int, a *wire.WriteArgs) error {
	flags := 0
	switch a.Stable {
	case wire.DataSync:
		flags = unix.RWF_DSYNC
	case wire.FileSync:
		flags = unix.RWF_SYNC
	}
	for data, offset := a.Data, int64(a.Offset); len(data) > 0; {
		n, err := unix.Pwritev2(fd, [][]byte{data}, offset, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

func (c *call) commit(a *wire.CommitArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.CommitRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	res := &wire.CommitRes{}
	res.Wcc.Before = wccBefore(f.stat())
	// Whoever has the handle may have its data made safe.
	fd, err := unix.Open(procPath(f.fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		// The range does not matter: what is synced beyond it need not be again.
		err = unix.Fdatasync(fd)
		if err != nil {
			// The kernel has dropped what it could not write: clients must send all of it again.
			c.verifier.renew()
		}
		err = errors.Join(err, unix.Close(fd))
	}
	res.Wcc.After = f.stat()
	res.Status, res.Verifier = wire.StatusOf(err), c.verifier.get()
	return res
}

func (c *call) fsStat(a *wire.HandleArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.FSStatRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return &wire.FSStatRes{Status: wire.StatusOf(err)}
	}
	block := uint64(st.Bsize)
	return &wire.FSStatRes{
		Attr: f.stat(), TotalBytes: st.Blocks * block, FreeBytes: st.Bfree * block, AvailBytes: st.Bavail * block,
		TotalFiles: st.Files, FreeFiles: st.Ffree, AvailFiles: st.Ffree,
	}
}

func (c *call) fsInfo(a *wire.HandleArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.FSInfoRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	const page = 4096
	return &wire.FSInfoRes{
		Attr: f.stat(), ReadMax: maxTransfer, ReadPref: maxTransfer, ReadMult: page,
		WriteMax: maxTransfer, WritePref: maxTransfer, WriteMult: page, DirPref: maxDirReply,
		MaxFileSize: maxFileSize, TimeDelta: wire.Time{Nsec: 1},
		Properties: wire.CanLink | wire.CanSymlink | wire.IsHomogeneous | wire.CanSetTime,
	}
}

func (c *call) pathConf(a *wire.HandleArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.PathConfRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return &wire.PathConfRes{Status: wire.StatusOf(err)}
	}
	const linkMax = 32000 // the least of the file systems we know, ext4 before its dir_nlink
	return &wire.PathConfRes{
		Attr: f.stat(), LinkMax: linkMax, NameMax: uint32(st.Namelen), NoTrunc: true, ChownRestricted: true, CasePreserving: true,
	}
}
