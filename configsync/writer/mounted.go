package writer

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// MountedDirs returns the generations of which a directory is mounted somewhere, as the kubelet does for a subPath, by the
// mount table of the process. It is for Options.Pinned of a volume that is a file system of its own, named by its open
// root directory.
func MountedDirs(volume *os.File) (map[string]bool, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(volume.Fd()), &stat); err != nil {
		return nil, &os.PathError{Op: "stat", Path: volume.Name(), Err: err}
	}
	major, minor := int(unix.Major(stat.Dev)), int(unix.Minor(stat.Dev))
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Major != major || m.Minor != minor, false
	})
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	names := map[string]bool{}
	for _, m := range mounts {
		name, _, _ := strings.Cut(strings.TrimPrefix(m.Root, "/"), "/")
		if !isGeneration(name) {
			continue
		}
		// A file that is mounted stays whole when its generation is removed. What cannot be seen may be a directory.
		if info, err := os.Stat(m.Mountpoint); err != nil || info.IsDir() {
			names[name] = true
		}
	}
	return names, nil
}
