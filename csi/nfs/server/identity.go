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

// nobody is an ID that no user or group has: setfsuid and setfsgid leave the thread as it is for it.
const nobody = ^uintptr(0)

// assume makes the thread this identity, by the system calls themselves: the wrappers of package syscall change all threads.
func (id identity) assume() error {
	// Root first, or the calls below would not be allowed.
	if err := set(unix.SYS_SETFSUID, 0); err != nil {
		return err
	}
	var groups unsafe.Pointer
	if len(id.groups) > 0 {
		groups = unsafe.Pointer(&id.groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.groups)), uintptr(groups), 0); errno != 0 {
		return errno
	}
	if err := set(unix.SYS_SETFSGID, id.gid); err != nil {
		return err
	}
	return set(unix.SYS_SETFSUID, id.uid)
}

// set calls setfsuid or setfsgid. They return the earlier value whether they succeeded or not, so they are asked again.
func set(call uintptr, id uint32) error {
	if _, _, errno := unix.RawSyscall(call, uintptr(id), 0, 0); errno != 0 {
		return errno
	}
	if now, _, errno := unix.RawSyscall(call, nobody, 0, 0); errno != 0 || uint32(now) != id {
		return unix.EPERM
	}
	return nil
}
