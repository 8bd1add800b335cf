package server

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Export is a directory that clients may mount.
type Export struct {
	// Path is the share's name, as clients say it: absolute and clean. Handles hold it (as a number), so it must stay
	// the same over restarts.
	Path string
	// Directory is what is shared.
	Directory string
	// Clients are the addresses that may use it; none lets nobody in.
	Clients []netip.Prefix
	// RootSquash makes the user and group root of clients the user and group 65534.
	RootSquash bool
	// Async answers changes of directories before they are on disk; a crash of the machine may undo them.
	Async bool
}

// export is an Export that is served.
type export struct {
	Export

	number uint32
	dir    *os.File
	device uint64
	inode  uint64
}

func openExport(e Export) (*export, error) {
	if !strings.HasPrefix(e.Path, "/") || path.Clean(e.Path) != e.Path {
		return nil, fmt.Errorf("share %q: its path must be absolute and clean, as in /data", e.Path)
	}
	dir, err := os.OpenFile(e.Directory, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share %s: %w", e.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("share %s: %s: %w", e.Path, e.Directory, err), dir.Close())
	}
	hash := fnv.New32a()
	hash.Write([]byte(e.Path))
	return &export{Export: e, number: hash.Sum32(), dir: dir, device: st.Dev, inode: st.Ino}, nil
}

// allows reports whether a client of this address may use the share.
func (x *export) allows(client netip.Addr) bool {
	for _, p := range x.Clients {
		if p.Contains(client.Unmap()) {
			return true
		}
	}
	return false
}

// isRoot reports whether the open file is the share's root, above which there is nothing.
func (x *export) isRoot(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return false, err
	}
	return st.Dev == x.device && st.Ino == x.inode, nil
}
