// Package host is the seam between Orlop's storage and the operating system: files beneath a pool, mounts, loop
// devices, file system creation, free space and Unix sockets.
//
// Every call that changes something carries a Label that names the step it is, in the words of the caller. A Fault
// decides, before the call is made, whether it happens: this is how a test fails, or crashes, exactly one step. In
// production there is no Fault and a label costs nothing.
//
// The package knows nothing of volumes and takes no decision: it translates what the system says into Go errors that
// name the object and the cause, and nothing more.
package host

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Label names one step, such as "create.reserve". Labels are unique within an operation.
type Label string

// Fault is asked before every labelled call. An error it returns is the call's result and the call is not made; when it
// panics, the code under test stops there as if the process had been killed.
type Fault func(Label) error

// Host makes system calls. It has no state but its Fault and is safe for concurrent use.
type Host struct {
	fault Fault
}

// New returns a Host; fault may be nil.
func New(fault Fault) *Host { return &Host{fault: fault} }

// Step asks the Fault, if there is one, about a step that the caller is about to make by other means than this package.
func (h *Host) Step(l Label) error {
	if h.fault == nil {
		return nil
	}
	if err := h.fault(l); err != nil {
		return fmt.Errorf("%s: %w", l, err)
	}
	return nil
}

// IsNoSpace reports whether err says that a file system is full, whether its blocks, its inodes or a quota on it.
func IsNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// Space is the size and fullness of a file system.
type Space struct {
	// Bytes; Available is what an ordinary user can have, without the part reserved for root.
	Total, Used, Available int64
	Inodes, UsedInodes     int64
	FreeInodes             int64
	// BlockSize is the unit of allocation in bytes.
	BlockSize int64
}

// Statfs returns the space of the file system that holds path.
func (h *Host) Statfs(path string) (Space, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(path, &st) }); err != nil {
		return Space{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	size := st.Frsize
	if size == 0 {
		size = st.Bsize
	}
	return Space{
		Total:      int64(st.Blocks) * size,
		Used:       int64(st.Blocks-st.Bfree) * size,
		Available:  int64(st.Bavail) * size,
		Inodes:     int64(st.Files),
		UsedInodes: int64(st.Files - st.Ffree),
		FreeInodes: int64(st.Ffree),
		BlockSize:  size,
	}, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
