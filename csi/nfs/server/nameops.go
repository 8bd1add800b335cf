package server

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// newName reports what is wrong with the name of an entry that is to be made or removed.
func newName(name string) error {
	if name == "." || name == ".." {
		return wire.ErrInval
	}
	if wire.ValidName(name) != nil {
		return wire.ErrInval
	}
	return nil
}

func (c *call) lookup(a *wire.EntryArgs) wire.Message {
	dir, err := c.file(a.Dir)
	if err != nil {
		return &wire.LookupRes{Status: wire.StatusOf(err)}
	}
	defer dir.close()
	res := &wire.LookupRes{DirAttr: dir.stat()}
	if wire.ValidName(a.Name) != nil {
		res.Status = wire.ErrInval
		return res
	}
	name := a.Name
	if name == ".." {
		root, err := dir.isRoot(dir.fd)
		if err != nil {
			res.Status = wire.StatusOf(err)
			return res
		}
		if root {
			name = "."
		}
	}
	res.Object, res.Attr, err = c.entry(dir, name)
	res.Status = wire.StatusOf(err)
	return res
}

// entry returns the handle and attributes of an entry, found as the caller. What is mounted in the share is not part of it.
func (c *call) entry(dir *file, name string) (wire.Handle, *wire.Attr, error) {
	var st unix.Stat_t
	fd := -1
	err := dir.id.as(func() (err error) {
		if fd, err = unix.Openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	})
	if fd >= 0 {
		defer closeFD(fd)
	}
	if err != nil {
		return "", nil, err
	}
	if st.Dev != dir.device {
		return "", nil, wire.ErrAcces
	}
	h, err := c.handle(dir.export, fd, "")
	return h, dir.attr(&st), err
}

// made is how an entry came to be, in one step with the attributes of its directory.
func (c *call) made(where wire.EntryArgs, attr *wire.SetAttr, do func(dir *file) error) *wire.CreateRes {
	dir, err := c.file(where.Dir)
	if err != nil {
		return &wire.CreateRes{Status: wire.StatusOf(err)}
	}
	defer dir.close()
	res := &wire.CreateRes{}
	unlock := c.locks.lock(where.Dir)
	res.DirWcc.Before = wccBefore(dir.stat())
	if err = newName(where.Name); err == nil {
		if err = do(dir); err == nil {
			err = c.finish(dir, where.Name, attr, res)
		}
	}
	res.DirWcc.After = dir.stat()
	unlock()
	res.Status = wire.StatusOf(dir.synced(err))
	return res
}

// finish gives a new entry the attributes that its creation could not, whatever this process' umask is.
func (c *call) finish(dir *file, name string, attr *wire.SetAttr, res *wire.CreateRes) error {
	h, a, err := c.entry(dir, name)
	if err != nil {
		return err
	}
	rest := *attr
	switch {
	case rest.Mode == nil || a.Type == wire.TypeSymlink:
		rest.Mode = nil
	case a.Type == wire.TypeDirectory:
		// A directory in one with the set-group-ID bit has it too, and keeps it.
		mode := *rest.Mode | a.Mode&unix.S_ISGID
		rest.Mode = &mode
	}
	if rest.Mode != nil && *rest.Mode == a.Mode {
		rest.Mode = nil
	}
	f, err := c.file(h)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.change(&rest); err != nil {
		return err
	}
	res.Object, res.Attr = &h, f.stat()
	return nil
}

func modeOf(a *wire.SetAttr, otherwise uint32) uint32 {
	if a.Mode == nil {
		return otherwise
	}
	return *a.Mode & 0o7777
}

func (c *call) create(a *wire.CreateArgs) wire.Message {
	attr := a.Attr
	if a.How == wire.CreateExclusive {
		// The verifier is kept in the times, where the client sets its own right afterwards.
		const positive = 1<<31 - 1
		attr.Atime = wire.SetTime{How: wire.ClientTime, Time: wire.Time{Sec: binary.BigEndian.Uint32(a.Verifier[:]) & positive}}
		attr.Mtime = wire.SetTime{How: wire.ClientTime, Time: wire.Time{Sec: binary.BigEndian.Uint32(a.Verifier[4:]) & positive}}
	}
	return c.made(a.Where, &attr, func(dir *file) error {
		err := dir.id.as(func() error {
			fd, err := unix.Openat(dir.fd, a.Where.Name,
				unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, modeOf(&attr, 0o600))
			if err != nil {
				return err
			}
			return unix.Close(fd)
		})
		if !errors.Is(err, unix.EEXIST) || a.How == wire.CreateGuarded {
			return err
		}
		return c.adopt(dir, a, &attr)
	})
}

// adopt goes on with a file that exists already: one that this very call made when it was sent the first time, or for
// an unchecked creation any file, which keeps all but its size.
func (c *call) adopt(dir *file, a *wire.CreateArgs, attr *wire.SetAttr) error {
	_, existing, err := c.entry(dir, a.Where.Name)
	switch {
	case err != nil:
		return err
	case existing.Type != wire.TypeRegular:
		return unix.EEXIST
	case a.How == wire.CreateExclusive:
		if existing.Atime.Sec != attr.Atime.Time.Sec || existing.Mtime.Sec != attr.Mtime.Time.Sec {
			return unix.EEXIST
		}
		return nil
	}
	*attr = wire.SetAttr{Size: attr.Size}
	return nil
}

func (c *call) mkdir(a *wire.MkdirArgs) wire.Message {
	return c.made(a.Where, &a.Attr, func(dir *file) error {
		return dir.id.as(func() error { return unix.Mkdirat(dir.fd, a.Where.Name, modeOf(&a.Attr, 0o700)) })
	})
}

func (c *call) symlink(a *wire.SymlinkArgs) wire.Message {
	return c.made(a.Where, &a.Attr, func(dir *file) error {
		return dir.id.as(func() error { return unix.Symlinkat(a.Path, dir.fd, a.Where.Name) })
	})
}

func (c *call) mknod(a *wire.MknodArgs) wire.Message {
	types := map[wire.FileType]uint32{
		wire.TypeBlock: unix.S_IFBLK, wire.TypeCharacter: unix.S_IFCHR, wire.TypeSocket: unix.S_IFSOCK, wire.TypeFIFO: unix.S_IFIFO,
	}
	kind, ok := types[a.Type]
	if !ok {
		return &wire.CreateRes{Status: wire.ErrBadType}
	}
	return c.made(a.Where, &a.Attr, func(dir *file) error {
		device := int(unix.Mkdev(a.Device.Major, a.Device.Minor))
		return dir.id.as(func() error { return unix.Mknodat(dir.fd, a.Where.Name, kind|modeOf(&a.Attr, 0o600), device) })
	})
}

func (c *call) remove(a *wire.EntryArgs) wire.Message { return c.unlink(a, 0) }

func (c *call) rmdir(a *wire.EntryArgs) wire.Message { return c.unlink(a, unix.AT_REMOVEDIR) }

func (c *call) unlink(a *wire.EntryArgs, flags int) wire.Message {
	dir, err := c.file(a.Dir)
	if err != nil {
		return &wire.WccRes{Status: wire.StatusOf(err)}
	}
	defer dir.close()
	res := &wire.WccRes{}
	unlock := c.locks.lock(a.Dir)
	res.Wcc.Before = wccBefore(dir.stat())
	if err = newName(a.Name); err == nil {
		err = dir.id.as(func() error { return unix.Unlinkat(dir.fd, a.Name, flags) })
	}
	res.Wcc.After = dir.stat()
	unlock()
	res.Status = wire.StatusOf(dir.synced(err))
	return res
}

func (c *call) rename(a *wire.RenameArgs) wire.Message {
	from, err := c.file(a.From.Dir)
	if err != nil {
		return &wire.RenameRes{Status: wire.StatusOf(err)}
	}
	defer from.close()
	to, err := c.file(a.To.Dir)
	if err != nil {
		return &wire.RenameRes{Status: wire.StatusOf(err)}
	}
	defer to.close()
	if from.export != to.export {
		return &wire.RenameRes{Status: wire.ErrXDev}
	}
	res := &wire.RenameRes{}
	unlock := c.locks.lock2(a.From.Dir, a.To.Dir)
	res.FromWcc.Before, res.ToWcc.Before = wccBefore(from.stat()), wccBefore(to.stat())
	if err = errors.Join(newName(a.From.Name), newName(a.To.Name)); err == nil {
		err = from.id.as(func() error { return unix.Renameat(from.fd, a.From.Name, to.fd, a.To.Name) })
	}
	res.FromWcc.After, res.ToWcc.After = from.stat(), to.stat()
	unlock()
	res.Status = wire.StatusOf(to.synced(from.synced(err)))
	return res
}

func (c *call) link(a *wire.LinkArgs) wire.Message {
	f, err := c.file(a.Object)
	if err != nil {
		return &wire.LinkRes{Status: wire.StatusOf(err)}
	}
	defer f.close()
	dir, err := c.file(a.Where.Dir)
	if err != nil {
		return &wire.LinkRes{Status: wire.StatusOf(err)}
	}
	defer dir.close()
	if f.export != dir.export {
		return &wire.LinkRes{Status: wire.ErrXDev}
	}
	res := &wire.LinkRes{}
	unlock := c.locks.lock2(a.Object, a.Where.Dir)
	res.DirWcc.Before = wccBefore(dir.stat())
	if err = newName(a.Where.Name); err == nil {
		// As root, after the check of the directory: fs.protected_hardlinks would ask more of the caller than the
		// protocol does.
		if err = dir.may(unix.W_OK | unix.X_OK); err == nil {
			err = unix.Linkat(f.fd, "", dir.fd, a.Where.Name, unix.AT_EMPTY_PATH)
		}
	}
	res.Attr, res.DirWcc.After = f.stat(), dir.stat()
	unlock()
	res.Status = wire.StatusOf(dir.synced(err))
	return res
}
