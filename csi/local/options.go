package local

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// mountOptions are the mount options that every kind of volume understands; those with the value zero are the default.
var mountOptions = map[string]host.MountOptions{
	"defaults": 0, "rw": 0, "suid": 0, "dev": 0, "exec": 0,
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME,
}

// ParseMountFlags translates mount flags, each of which may be a list with commas. extra lists what a file system
// understands besides; it is returned as data. Anything else fails with volume.ErrInvalid, naming the flag and what is
// allowed: flags come from users, and mount(2) would take some that harm others.
func ParseMountFlags(flags []string, extra []string) (opts host.MountOptions, data []string, err error) {
	for _, list := range flags {
		for flag := range strings.SplitSeq(list, ",") {
			opt, known := mountOptions[flag]
			switch {
			case known:
				opts |= opt
			case slices.Contains(extra, flag):
				data = append(data, flag)
			default:
				allowed := append(slices.Sorted(maps.Keys(mountOptions)), extra...)
				return 0, nil, fmt.Errorf("%w: mount option %q is not allowed; allowed are %s",
					volume.ErrInvalid, flag, strings.Join(allowed, ", "))
			}
		}
	}
	return opts, data, nil
}
