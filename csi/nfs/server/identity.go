package server

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// anonymous is who a squashed caller is: the user and group nobody of every Linux.
const anonymous = 65534

// identity is who a call is done as.
type identity struct {
	uid, gid uint32
	groups   []uint32
}

// identify returns who the caller is on this export.
func (x *export) identify(a *wire.Auth) identity {
	if a == nil {
		return identity{uid: anonymous, gid: anonymous}
	}
	id := identity{a.UID, a.GID, a.Groups}
	if x.RootSquash {
		if id.uid == 0 {
			id.uid = anonymous
		}
		if id.gid == 0 {
			id.gid = anonymous
		}
		kept := make([]uint32, 0, len(id.groups))
		for _, g := range id.groups {
			if g != 0 {
				kept = append(kept, g)
			}
		}
		id.groups = kept
	}
	return id
}

// as calls f on a thread that has the identity for the file system. The kernel takes root's rights over files from
// such a thread by itself.
func (id identity) as(f func() error) error {
	runtime.LockOSThread()
	if err := id.assume(); err != nil {
		// The thread is neither the one nor the other, and ends with its goroutine.
		return err
	}
	err := f()
	if back := (identity{}).assume(); back != nil {
		return back
	}
	runtime.UnlockOSThread()
	return err
}

// assume makes the thread this identity, by the system calls themselves: the wrappers of package syscall change all threads.
func (id identity) assume() error {
	// Root first, or the calls below would not be allowed.
	unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	var groups unsafe.Pointer
	if len(id.groups) > 0 {
		groups = unsafe.Pointer(&id.groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.groups)), uintptr(groups), 0); errno != 0 {
		return errno
	}
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(id.gid), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(id.uid), 0, 0)
	// These two report the earlier value and no error: ask again, with a value that nobody has.
	const nobody = ^uintptr(0)
	if gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, nobody, 0, 0); uint32(gid) != id.gid {
		return unix.EPERM
	}
	if uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, nobody, 0, 0); uint32(uid) != id.uid {
		return unix.EPERM
	}
	return nil
}
