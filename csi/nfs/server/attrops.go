package server

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// file is the file of a handle in a call: open to refer to it, on an export that the client may use.
type file struct {
	*export

	fd int
	id identity
}

// file opens the file of a handle. Close it.
func (c *call) file(h wire.Handle) (*file, error) {
	x, fd, err := c.open(h)
	if err != nil {
		return nil, err
	}
	if !x.allows(c.client) {
		closeFD(fd)
		return nil, wire.ErrAcces
	}
	return &file{x, fd, x.identify(c.auth)}, nil
}

func (f *file) close() { closeFD(f.fd) }

// stat returns the attributes, nil where there are none to be had.
func (f *file) stat() *wire.Attr {
	a, err := f.attributes(f.fd)
	if err != nil {
		return nil
	}
	return a
}

// may reports by its error whether the caller has these rights (unix.R_OK and so on).
func (f *file) may(rights uint32) error {
	return f.id.as(func() error { return unix.Faccessat2(f.fd, "", rights, unix.AT_EMPTY_PATH|unix.AT_EACCESS) })
}

func wccBefore(a *wire.Attr) *wire.WccAttr {
	if a == nil {
		return nil
	}
	return &wire.WccAttr{Size: a.Size, Mtime: a.Mtime, Ctime: a.Ctime}
}

func (c *call) getAttr(a *wire.HandleArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.GetAttrRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	attr, err := f.attributes(f.fd)
	if err != nil {
		return &wire.GetAttrRes{Status: wire.StatusOf(err)}
	}
	return &wire.GetAttrRes{Attr: *attr}
}

func (c *call) setAttr(a *wire.SetAttrArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.WccRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	res := &wire.WccRes{}
	unlock := c.locks.lock(a.Object)
	before := f.stat()
	res.Wcc.Before = wccBefore(before)
	if a.Guard != nil && before != nil && *a.Guard != before.Ctime {
		err = wire.ErrNotSync
	} else {
		err = f.change(&a.Attr)
	}
	res.Wcc.After = f.stat()
	unlock()
	res.Status = wire.StatusOf(f.synced(err))
	return res
}

// change sets attributes as the caller. The size comes first: it needs the right to write, which a new mode may take; and the
// mode after the owner, whose change takes the set-user-ID bit off.
func (f *file) change(s *wire.SetAttr) error {
	if s.Size != nil {
		if err := f.truncate(*s.Size); err != nil {
			return err
		}
	}
	return f.id.as(func() error {
		if s.UID != nil || s.GID != nil {
			uid, gid := -1, -1
			if s.UID != nil {
				uid = int(int32(*s.UID))
			}
			if s.GID != nil {
				gid = int(int32(*s.GID))
			}
			if err := unix.Fchownat(f.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
				return err
			}
		}
		if s.Mode != nil {
			if err := f.chmod(*s.Mode); err != nil {
				return err
			}
		}
		return f.setTimes(s.Atime, s.Mtime)
	})
}

// chmod sets the mode. A symbolic link has none that counts, and refuses.
func (f *file) chmod(mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, procPath(f.fd), mode&0o7777, 0)
}

func (f *file) setTimes(atime, mtime wire.SetTime) error {
	if atime.How == wire.KeepTime && mtime.How == wire.KeepTime {
		return nil
	}
	spec := func(t wire.SetTime) unix.Timespec {
		switch t.How {
		case wire.ServerTime:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case wire.ClientTime:
			return unix.Timespec{Sec: int64(t.Time.Sec), Nsec: int64(t.Time.Nsec)}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.UtimesNanoAt(f.fd, "", []unix.Timespec{spec(atime), spec(mtime)}, unix.AT_EMPTY_PATH)
}

func (f *file) truncate(size uint64) error {
	if size > maxFileSize {
		return unix.EFBIG
	}
	fd, err := f.reopen(unix.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(unix.Ftruncate(fd, int64(size)), unix.Close(fd))
}

// synced brings a change to the disk, unless there was none.
func (f *file) synced(err error) error {
	if err != nil {
		return err
	}
	return f.sync()
}

// sync brings a change of the file's attributes, or of a directory's entries, to the disk.
func (f *file) sync() error {
	if f.Async {
		return nil
	}
	a, err := f.attributes(f.fd)
	if err != nil {
		return err
	}
	if a.Type != wire.TypeRegular && a.Type != wire.TypeDirectory {
		// Nothing of these can be opened to be synced alone.
		return unix.Syncfs(int(f.dir.Fd()))
	}
	fd, err := unix.Open(procPath(f.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

func (c *call) access(a *wire.AccessArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.AccessRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	res := &wire.AccessRes{Attr: f.stat()}
	dir := res.Attr != nil && res.Attr.Type == wire.TypeDirectory
	var granted uint32
	for _, right := range []struct{ need, file, dir uint32 }{
		{unix.R_OK, wire.AccessRead, wire.AccessRead},
		{unix.W_OK, wire.AccessModify | wire.AccessExtend, wire.AccessModify | wire.AccessExtend | wire.AccessDelete},
		{unix.X_OK, wire.AccessExecute, wire.AccessLookup},
	} {
		bits := right.file
		if dir {
			bits = right.dir
		}
		if a.Access&bits != 0 && f.may(right.need) == nil {
			granted |= bits
		}
	}
	res.Access = a.Access & granted
	return res
}

func (c *call) readLink(a *wire.HandleArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.ReadLinkRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	res := &wire.ReadLinkRes{Attr: f.stat()}
	if res.Attr != nil && res.Attr.Type != wire.TypeSymlink {
		res.Status = wire.ErrInval
		return res
	}
	var target [wire.MaxPath]byte
	n, err := unix.Readlinkat(f.fd, "", target[:])
	res.Status, res.Path = wire.StatusOf(err), string(target[:max(n, 0)])
	return res
}
