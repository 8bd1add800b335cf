package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	defaultMinFree = 1 << 30
	// lowFree is where the kubelet soon begins to evict pods, on disks of an ordinary size.
	lowFree = 4 << 30
)

// unsuitable are file systems on which overlayfs refuses its upper layer, where containers' files are written.
var unsuitable = map[int64]string{
	unix.NFS_SUPER_MAGIC:       "NFS",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs, as in a container",
	unix.SMB2_SUPER_MAGIC:      "SMB",
	unix.CIFS_SUPER_MAGIC:      "SMB",
	unix.V9FS_MAGIC:            "9p",
	unix.RAMFS_MAGIC:           "ramfs",
}

func checkDataDir(_ context.Context, m machine, opts Options, _ *Facts) []Problem {
	if opts.DataDir == "" {
		return nil
	}
	what := "data directory " + opts.DataDir
	fatal := func(cause, next string) []Problem { return []Problem{{what, cause, next, true}} }
	if !filepath.IsAbs(opts.DataDir) {
		return fatal("the path is relative", "give --data-dir an absolute path")
	}
	dir, err := existing(m.path(opts.DataDir))
	if err != nil {
		return fatal(err.Error(), "choose another --data-dir")
	}
	if err := tryWrite(dir); err != nil {
		next := "make it writable for root, or choose another --data-dir"
		switch {
		case errors.Is(err, syscall.EROFS):
			next = "its file system is mounted read-only: choose a --data-dir on another"
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			next = "make room, or choose a --data-dir on another file system"
		}
		return fatal("not writable: "+err.Error(), next)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fatal("statfs "+dir+": "+err.Error(), "choose another --data-dir")
	}
	return judge(what, fs, opts.MinFree)
}

// judge says what is wrong with a file system as the place of a data directory.
func judge(what string, fs unix.Statfs_t, minFree uint64) []Problem {
	if minFree == 0 {
		minFree = defaultMinFree
	}
	var out []Problem
	if name, bad := unsuitable[fs.Type]; bad {
		out = append(out, Problem{what, "it is on " + name + ", on which containers' overlayfs cannot write",
			"choose a --data-dir on a local disk (ext4, XFS or btrfs)", true})
	}
	free := fs.Bavail * uint64(fs.Bsize)
	switch {
	case free < minFree:
		out = append(out, Problem{what, fmt.Sprintf("its file system has %s free, and at least %s are needed", size(free),
			size(minFree)), "make room, or choose a --data-dir on another file system", true})
	case free < lowFree:
		out = append(out, Problem{what, fmt.Sprintf("its file system has only %s free", size(free)),
			"the kubelet evicts pods when space runs out: make room", false})
	}
	if fs.Files > 0 && fs.Ffree == 0 {
		out = append(out, Problem{what, "its file system has no free inodes",
			"remove files, or choose a --data-dir on another file system (see 'df -i')", true})
	}
	if fs.Type == unix.TMPFS_MAGIC {
		out = append(out, Problem{what, "it is on tmpfs", "the cluster and all its volumes are lost at a reboot", false})
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		out = append(out, Problem{what, "its file system is mounted noexec",
			"programs in hostPath and local volumes will not run; remount it with exec", false})
	}
	return out
}

// existing is the directory itself or the nearest one above it that exists.
func existing(dir string) (string, error) {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return dir, nil
		case err == nil:
			return "", fmt.Errorf("%s is not a directory", dir)
		case !isAbsent(err):
			return "", err
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		return "", err
	}
}

// tryWrite finds out by doing: neither permission bits nor mount options tell of a root that the file server
// does not honour, or of a quota.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".orlop-preflight-*")
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{0})
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func size(bytes uint64) string {
	const mib, gib = 1 << 20, 1 << 30
	if bytes < gib {
		return fmt.Sprintf("%d MiB", bytes/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/gib)
}
