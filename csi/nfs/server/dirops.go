package server

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// maxDirReply is the most bytes of a listing's reply.
const maxDirReply = 64 << 10

func (c *call) readDir(a *wire.ReadDirArgs) wire.Message {
	return c.list(a.Dir, a.Cookie, &wire.ReadDirRes{}, a.Count, a.Count)
}

func (c *call) readDirPlus(a *wire.ReadDirPlusArgs) wire.Message {
	return c.list(a.Dir, a.Cookie, &wire.ReadDirRes{Plus: true}, a.DirCount, a.MaxCount)
}

// list lists a directory from the cookie on, which is the kernel's own position (d_off): it outlives every restart.
func (c *call) list(h wire.Handle, cookie wire.Cookie, res *wire.ReadDirRes, names, size uint32) wire.Message {
	dir, err := c.file(h)
	if err != nil {
		res.Status = wire.StatusOf(err)
		return res
	}
	defer dir.close()
	fd := -1
	err = dir.id.as(func() (err error) {
		fd, err = unix.Open(procPath(dir.fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err == nil {
		defer closeFD(fd)
		if cookie != 0 {
			_, err = unix.Seek(fd, int64(cookie), 0)
		}
	}
	if err == nil {
		err = c.fill(dir, fd, res, min(int(names), maxDirReply), min(int(size), maxDirReply)-wire.ReadDirOverhead)
	}
	res.Status, res.DirAttr = wire.StatusOf(err), dir.stat()
	return res
}

// fill adds the entries that fit. One that does not fit is read again by the next call.
func (c *call) fill(dir *file, fd int, res *wire.ReadDirRes, names, size int) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			res.EOF = true
			return nil
		}
		for b := buf[:n]; len(b) > 0; {
			// struct linux_dirent64: d_ino, d_off, d_reclen, d_type, d_name.
			length := int(binary.NativeEndian.Uint16(b[16:]))
			name, _, _ := bytes.Cut(b[19:length], []byte{0})
			t := wire.Entry{
				FileID: binary.NativeEndian.Uint64(b), Cookie: wire.Cookie(binary.NativeEndian.Uint64(b[8:])), Name: string(name),
			}
			b = b[length:]
			if res.Plus {
				if err := c.describe(dir, fd, &t); err != nil {
					return err
				}
			}
			names -= t.Size(false)
			size -= t.Size(res.Plus)
			if names < 0 || size < 0 {
				if len(res.Entries) == 0 {
					return wire.ErrTooSmall
				}
				return nil
			}
			res.Entries = append(res.Entries, t)
		}
	}
}

// describe adds attributes and handle, as far as the entry is still there and is part of the share.
func (c *call) describe(dir *file, fd int, t *wire.Entry) error {
	name := t.Name
	if name == ".." {
		// Above the share's root there is nothing, and a client asks again for what it is not told.
		return nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && st.Dev != dir.device {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := c.handle(dir.export, fd, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	t.Attr, t.Object = dir.attr(&st), &h
	return nil
}
