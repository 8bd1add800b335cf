package wire

import (
	"errors"
	"fmt"
	"syscall"
)

// Status is nfsstat3, the outcome of a call (RFC 1813, section 2.6). As an error it says the outcome in words; errors.Is
// compares it with system errors, so that errors.Is(status, fs.ErrNotExist) holds for NFS3ERR_NOENT.
type Status uint32

// Values of Status.
const (
	OK             Status = 0
	ErrPerm        Status = 1
	ErrNoEnt       Status = 2
	ErrIO          Status = 5
	ErrNXIO        Status = 6
	ErrAcces       Status = 13
	ErrExist       Status = 17
	ErrXDev        Status = 18
	ErrNoDev       Status = 19
	ErrNotDir      Status = 20
	ErrIsDir       Status = 21
	ErrInval       Status = 22
	ErrFBig        Status = 27
	ErrNoSpc       Status = 28
	ErrROFS        Status = 30
	ErrMLink       Status = 31
	ErrNameTooLong Status = 63
	ErrNotEmpty    Status = 66
	ErrDQuot       Status = 69
	ErrStale       Status = 70
	ErrRemote      Status = 71
	ErrBadHandle   Status = 10001
	ErrNotSync     Status = 10002
	ErrBadCookie   Status = 10003
	ErrNotSupp     Status = 10004
	ErrTooSmall    Status = 10005
	ErrServerFault Status = 10006
	ErrBadType     Status = 10007
	ErrJukebox     Status = 10008
)

var _ error = Status(0)

// statuses pairs the protocol's numbers with the errors of this system, in which a client answers.
var statuses = []struct {
	status Status
	errno  syscall.Errno
	name   string
}{
	{ErrPerm, syscall.EPERM, "NFS3ERR_PERM"},
	{ErrNoEnt, syscall.ENOENT, "NFS3ERR_NOENT"},
	{ErrIO, syscall.EIO, "NFS3ERR_IO"},
	{ErrNXIO, syscall.ENXIO, "NFS3ERR_NXIO"},
	{ErrAcces, syscall.EACCES, "NFS3ERR_ACCES"},
	{ErrExist, syscall.EEXIST, "NFS3ERR_EXIST"},
	{ErrXDev, syscall.EXDEV, "NFS3ERR_XDEV"},
	{ErrNoDev, syscall.ENODEV, "NFS3ERR_NODEV"},
	{ErrNotDir, syscall.ENOTDIR, "NFS3ERR_NOTDIR"},
	{ErrIsDir, syscall.EISDIR, "NFS3ERR_ISDIR"},
	{ErrInval, syscall.EINVAL, "NFS3ERR_INVAL"},
	{ErrFBig, syscall.EFBIG, "NFS3ERR_FBIG"},
	{ErrNoSpc, syscall.ENOSPC, "NFS3ERR_NOSPC"},
	{ErrROFS, syscall.EROFS, "NFS3ERR_ROFS"},
	{ErrMLink, syscall.EMLINK, "NFS3ERR_MLINK"},
	{ErrNameTooLong, syscall.ENAMETOOLONG, "NFS3ERR_NAMETOOLONG"},
	{ErrNotEmpty, syscall.ENOTEMPTY, "NFS3ERR_NOTEMPTY"},
	{ErrDQuot, syscall.EDQUOT, "NFS3ERR_DQUOT"},
	{ErrStale, syscall.ESTALE, "NFS3ERR_STALE"},
	{ErrRemote, syscall.EREMOTE, "NFS3ERR_REMOTE"},
	{ErrBadHandle, syscall.ESTALE, "NFS3ERR_BADHANDLE"},
	{ErrNotSync, syscall.EINVAL, "NFS3ERR_NOT_SYNC"},
	{ErrBadCookie, syscall.EINVAL, "NFS3ERR_BAD_COOKIE"},
	{ErrNotSupp, syscall.ENOTSUP, "NFS3ERR_NOTSUPP"},
	{ErrTooSmall, syscall.EINVAL, "NFS3ERR_TOOSMALL"},
	{ErrServerFault, syscall.EIO, "NFS3ERR_SERVERFAULT"},
	{ErrBadType, syscall.EINVAL, "NFS3ERR_BADTYPE"},
	{ErrJukebox, syscall.EAGAIN, "NFS3ERR_JUKEBOX"},
}

// Errno returns the system error of a status that is not OK; EIO for numbers that RFC 1813 does not have.
func (s Status) Errno() syscall.Errno {
	for _, known := range statuses {
		if known.status == s {
			return known.errno
		}
	}
	return syscall.EIO
}

// Error names the status and what it means.
func (s Status) Error() string {
	for _, known := range statuses {
		if known.status == s {
			return fmt.Sprintf("%v (%s)", known.errno, known.name)
		}
	}
	return fmt.Sprintf("NFS status %d", uint32(s))
}

// Is reports whether the status' system error is the target.
func (s Status) Is(target error) bool { return errors.Is(s.Errno(), target) }

// Err returns nil for OK and the status otherwise.
func (s Status) Err() error {
	if s == OK {
		return nil
	}
	return s
}

// StatusOf returns the status for an error of a system call: OK for nil, and NFS3ERR_IO for what RFC 1813 has no number
// for.
func StatusOf(err error) Status {
	if err == nil {
		return OK
	}
	var status Status
	if errors.As(err, &status) {
		return status
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		for _, known := range statuses {
			if known.errno == errno {
				return known.status
			}
		}
		if errno == syscall.ELOOP { // where a symbolic link stands in a directory's place
			return ErrNotDir
		}
	}
	return ErrIO
}
