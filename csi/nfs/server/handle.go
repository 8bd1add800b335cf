package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// A handle on the wire is a version, the export's number, the type of the kernel's handle, the handle itself, and a seal over
// all of it.
const (
	handleVersion = 1
	handleHead    = 1 + 4 + 4
	sealSize      = 16
	maxKernel     = wire.MaxHandle - handleHead - sealSize
)

// KeySize is how many bytes Config.Key has.
const KeySize = 32

func (s *Server) seal(b []byte) []byte {
	mac := hmac.New(sha256.New, s.config.Key)
	mac.Write(b)
	return mac.Sum(nil)[:sealSize]
}

// handle returns the wire's handle of an entry of a directory, or of the directory itself where the name is empty.
func (s *Server) handle(x *export, dir int, name string) (wire.Handle, error) {
	flags := 0
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	kernel, _, err := unix.NameToHandleAt(dir, name, flags)
	if err != nil {
		return "", err
	}
	if kernel.Size() > maxKernel {
		return "", fmt.Errorf("the file system's handles have %d bytes, too many for NFS version 3: %w", kernel.Size(), unix.EOVERFLOW)
	}
	b := make([]byte, 0, wire.MaxHandle)
	b = append(b, handleVersion)
	b = binary.BigEndian.AppendUint32(b, x.number)
	b = binary.BigEndian.AppendUint32(b, uint32(kernel.Type()))
	b = append(b, kernel.Bytes()...)
	return wire.Handle(append(b, s.seal(b)...)), nil
}

// open returns the file of a handle, opened only to refer to it (O_PATH). It must run as root.
func (s *Server) open(h wire.Handle) (*export, int, error) {
	if len(h) < handleHead+sealSize || h[0] != handleVersion {
		return nil, -1, wire.ErrBadHandle
	}
	b, seal := []byte(h[:len(h)-sealSize]), []byte(h[len(h)-sealSize:])
	if !hmac.Equal(s.seal(b), seal) {
		return nil, -1, wire.ErrBadHandle
	}
	x := s.byNumber[binary.BigEndian.Uint32(b[1:])]
	if x == nil {
		return nil, -1, wire.ErrStale
	}
	kernel := unix.NewFileHandle(int32(binary.BigEndian.Uint32(b[5:])), b[handleHead:])
	fd, err := unix.OpenByHandleAt(int(x.dir.Fd()), kernel, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
			return nil, -1, wire.ErrStale
		}
		return nil, -1, err
	}
	return x, fd, nil
}

// attributes returns the attributes of an open file.
func (x *export) attributes(fd int) (*wire.Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, err
	}
	return x.attr(&st), nil
}

func (x *export) attr(st *unix.Stat_t) *wire.Attr {
	return &wire.Attr{
		Type: typeOf(st.Mode), Mode: st.Mode & 0o7777, Links: uint32(st.Nlink), UID: st.Uid, GID: st.Gid,
		Size: uint64(st.Size), Used: uint64(st.Blocks) * 512,
		Device: wire.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)},
		FSID:   uint64(x.number), FileID: st.Ino,
		Atime: wireTime(st.Atim), Mtime: wireTime(st.Mtim), Ctime: wireTime(st.Ctim),
	}
}

// typeOf returns the type that a mode says.
func typeOf(mode uint32) wire.FileType {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return wire.TypeDirectory
	case unix.S_IFBLK:
		return wire.TypeBlock
	case unix.S_IFCHR:
		return wire.TypeCharacter
	case unix.S_IFLNK:
		return wire.TypeSymlink
	case unix.S_IFSOCK:
		return wire.TypeSocket
	case unix.S_IFIFO:
		return wire.TypeFIFO
	}
	return wire.TypeRegular
}

func wireTime(t unix.Timespec) wire.Time { return wire.Time{Sec: uint32(t.Sec), Nsec: uint32(t.Nsec)} }

// procPath is a path that leads to an open file, for the calls that take no descriptor opened with O_PATH.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// closeFD closes a descriptor that nothing was written through.
func closeFD(fd int) {
	if err := unix.Close(fd); err != nil {
		// Only EBADF could be: a descriptor closed twice, which may have been somebody else's.
		panic(os.NewSyscallError("close", err))
	}
}
