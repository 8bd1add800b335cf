// Package cgroup makes and removes the cgroup root of one cluster node.
//
// A kubelet takes every pod cgroup under its root that it does not know for an orphan and destroys it, so
// two kubelets on one root kill each other's pods. Each node therefore gets a root of its own, such as
// /orlop/<cluster>/<node>, which must exist before its kubelet starts (the kubelet refuses a cgroupRoot that
// is absent from any hierarchy it uses).
//
// Where the hierarchies are mounted is read from /proc/self/mountinfo at every call, never assumed. The
// package moves no process, kills none, and sets no limit: those are the kubelet's and the runtime's affair.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Mode is how the host has its cgroups mounted.
type Mode int

// The three arrangements that systemd documents as legacy, unified and hybrid.
const (
	// V1 has the controllers in hierarchies of version 1 and no version 2 mount.
	V1 Mode = iota + 1
	// V2 has one unified hierarchy at /sys/fs/cgroup.
	V2
	// Hybrid has the controllers in hierarchies of version 1, and a version 2 mount beside them that holds
	// none. The kubelet and runc treat it as version 1.
	Hybrid
)

// String names the mode: "v1", "v2" or "hybrid".
func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case V2:
		return "v2"
	case Hybrid:
		return "hybrid"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// Version is the cgroup version in which the controllers are: 1 or 2. A hybrid host counts as 1, as it does
// for the kubelet.
func (m Mode) Version() int {
	if m == V2 {
		return 2
	}
	return 1
}

const mountPoint = "/sys/fs/cgroup"

// requiredV1 are the controllers without which a kubelet refuses to start on cgroup v1.
var requiredV1 = []string{"cpu", "cpuacct", "cpuset", "memory"}

// wantedV2 are the controllers that the kubelet requires of its root on cgroup v2, where the kernel has them.
var wantedV2 = []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}

// requiredV2 are those without which pods cannot be given their resources.
var requiredV2 = []string{"cpuset", "cpu", "memory", "pids"}

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	dir         string // its mount point, beneath the system's root directory
	controllers []string
	unified     bool
}

func (h hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// system is the file tree that holds /proc and /sys. The calls that behave on cgroupfs as they do on no other
// file system (a new directory comes with its files, rmdir takes them along, a write is a command) are fields,
// so that tests can play a kernel over plain directories.
type system struct {
	root  string
	mkdir func(dir string) error
	rmdir func(dir string) error
	write func(file, value string) error
}

var host = system{
	root:  "/",
	mkdir: func(dir string) error { return os.Mkdir(dir, 0o755) },
	rmdir: os.Remove,
	write: writeExisting,
}

// Detect tells how the host has its cgroups mounted. The error says how to get them mounted when they are
// not.
func Detect() (Mode, error) { return DetectAt("/") }

// DetectAt is [Detect] on the machine whose /proc/self/mountinfo is beneath root.
func DetectAt(root string) (Mode, error) {
	mode, _, err := system{root: root}.mounts()
	return mode, err
}

// mounts reads the mounted hierarchies, in the order they were mounted. A hierarchy mounted twice counts
// once, by its first mount, which is the one that runc and the kubelet use.
func (s system) mounts() (_ Mode, _ []hierarchy, err error) {
	file := filepath.Join(s.root, "proc/self/mountinfo")
	f, err := os.Open(file)
	if err != nil {
		return 0, nil, fmt.Errorf("finding the mounted cgroup hierarchies: %w; mount /proc", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	infos, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		cg := m.FSType == "cgroup" || m.FSType == "cgroup2"
		return !cg || m.Mountpoint != mountPoint && !strings.HasPrefix(m.Mountpoint, mountPoint+"/"), false
	})
	if err != nil {
		return 0, nil, fmt.Errorf("reading %s: %w", file, err)
	}

	var v1, v2 []hierarchy
	seen := map[string]bool{}
	for _, m := range infos {
		h := hierarchy{dir: filepath.Join(s.root, m.Mountpoint), unified: m.FSType == "cgroup2"}
		if h.unified {
			if m.Mountpoint == mountPoint {
				return V2, []hierarchy{h}, nil
			}
			if len(v2) == 0 {
				v2 = append(v2, h)
			}
			continue
		}
		h.controllers = controllersOf(m.VFSOptions)
		if key := strings.Join(h.controllers, ","); key != "" && !seen[key] {
			seen[key] = true
			v1 = append(v1, h)
		}
	}
	switch {
	case len(v1) == 0:
		return 0, nil, fmt.Errorf("no cgroup hierarchy is mounted beneath %s; mount one with "+
			"'mount -t cgroup2 none %s', or boot with systemd", mountPoint, mountPoint)
	case len(v2) == 0:
		return V1, v1, nil
	}
	return Hybrid, append(v1, v2...), nil
}

// controllersOf picks the controllers out of a v1 mount's superblock options; a named hierarchy without
// controllers counts under its name ("systemd").
func controllersOf(options string) []string {
	var out []string
	for opt := range strings.SplitSeq(options, ",") {
		name, named := strings.CutPrefix(opt, "name=")
		switch {
		case named:
			out = append(out, name)
		case opt == "rw", opt == "ro", opt == "xattr", opt == "noprefix", opt == "clone_children",
			strings.Contains(opt, "="), strings.HasPrefix(opt, "cpuset_v2_mode"), opt == "favordynmods":
		case opt != "":
			out = append(out, opt)
		}
	}
	slices.Sort(out)
	return out
}

// checkPath refuses what is not a clean absolute path with at least one element: the root of a hierarchy
// belongs to the host.
func checkPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
		return fmt.Errorf("cgroup path %q is not a clean absolute path below the root, such as "+
			"/orlop/<cluster>/<node>", p)
	}
	return nil
}

// levels lists the cgroups from the first below the hierarchy's root down to p: "a", "a/b", "a/b/c".
func levels(p string) []string {
	elems := strings.Split(strings.TrimPrefix(p, "/"), "/")
	out := make([]string, 0, len(elems))
	for i := range elems {
		out = append(out, path.Join(elems[:i+1]...))
	}
	return out
}

func readTrimmed(file string) (string, error) {
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

// writeExisting writes to a control file, which is never created: on cgroupfs a file that is absent is a
// controller that is absent.
func writeExisting(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
