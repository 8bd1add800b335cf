package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ensureAttempts bounds how often EnsureRoot starts again when a level vanishes under its hands, which it
// does when a neighbouring cluster that shares the upper levels is removed at that moment.
const ensureAttempts = 10

// EnsureRoot makes the cgroup p (a clean absolute path such as /orlop/<cluster>/<node>) in every mounted
// hierarchy of version 1, or in the unified one of version 2, ready to be a kubelet's cgroupRoot. On version 1
// cpuset.cpus and cpuset.mems are filled in from the parent at every level, for a cpuset without them takes no
// process; on version 2 the controllers the kubelet wants are enabled from the hierarchy's root down to p.
// What exists already stays as it is, so it may be called at every start. Clusters may call it side by side.
func EnsureRoot(p string) error { return host.ensure(p) }

func (s system) ensure(p string) error {
	if err := checkPath(p); err != nil {
		return err
	}
	mode, hierarchies, err := s.mounts()
	if err != nil {
		return err
	}
	if mode != V2 {
		if err := checkV1(hierarchies); err != nil {
			return err
		}
	}
	for _, h := range hierarchies {
		switch {
		case mode == V2:
			err = retryAbsent(func() error { return s.ensureV2(h, p) })
		case h.unified:
			continue // a hybrid host's version 2 tree holds no controllers; nothing looks for a node there
		default:
			err = retryAbsent(func() error { return s.ensureV1(h, p) })
		}
		if err != nil {
			return fmt.Errorf("making cgroup %s: %w", p, err)
		}
	}
	return nil
}

func checkV1(hierarchies []hierarchy) error {
	var missing []string
	for _, c := range requiredV1 {
		if !slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.has(c) }) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cgroup v1 controllers %s are not mounted beneath %s, and the kubelet needs them; "+
			"enable them in the kernel and mount them, or boot with cgroup v2", strings.Join(missing, ", "), mountPoint)
	}
	return nil
}

func retryAbsent(fn func() error) error {
	var err error
	for range ensureAttempts {
		if err = fn(); !isAbsent(err) && !errors.Is(err, syscall.ENODEV) {
			return err
		}
	}
	return err
}

func (s system) makeDir(dir string) error {
	err := s.mkdir(dir)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w; the cgroup file system is mounted read-only: remount it with "+
			"'mount -o remount,rw', or run outside the container", err)
	}
	return err
}

func (s system) ensureV1(h hierarchy, p string) error {
	for _, level := range levels(p) {
		dir := filepath.Join(h.dir, level)
		if err := s.makeDir(dir); err != nil {
			return err
		}
		if !h.has("cpuset") {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := s.inherit(dir, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit copies a cpuset file from the parent unless the cgroup has a value of its own.
func (s system) inherit(dir, file string) error {
	own, err := readTrimmed(filepath.Join(dir, file))
	if err != nil || own != "" {
		return err
	}
	parent := filepath.Join(filepath.Dir(dir), file)
	value, err := readTrimmed(parent)
	if err != nil {
		return err
	}
	if value == "" {
		return fmt.Errorf("%s is empty, so no process could run below it; write the allowed values there", parent)
	}
	return s.write(filepath.Join(dir, file), value)
}

func (s system) ensureV2(h hierarchy, p string) error {
	dirs := []string{h.dir}
	for _, level := range levels(p) {
		dirs = append(dirs, filepath.Join(h.dir, level))
	}
	for i, dir := range dirs {
		if i > 0 {
			if err := s.makeDir(dir); err != nil {
				return err
			}
		}
		if err := s.enable(dir); err != nil {
			return err
		}
	}
	return nil
}

// enable passes the wanted controllers that dir has on to its children. They are written one by one: the
// kernel refuses a whole line for one controller in it.
func (s system) enable(dir string) error {
	available, err := readTrimmed(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := readTrimmed(control)
	if err != nil {
		return err
	}
	has, on := strings.Fields(available), strings.Fields(enabled)
	for _, c := range requiredV2 {
		if !slices.Contains(has, c) {
			return fmt.Errorf("cgroup v2 controller %q is not available in %s, and the kubelet needs it; enable it in "+
				"cgroup.subtree_control of its parents, or remove 'cgroup_disable=%s' from the kernel command line",
				c, dir, c)
		}
	}
	for _, c := range wantedV2 {
		if !slices.Contains(has, c) || slices.Contains(on, c) {
			continue
		}
		err := s.write(control, "+"+c)
		if errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("enabling controller %q in %s: %w: processes are in this cgroup itself (see cgroup.procs "+
				"there), which cgroup v2 forbids; move them to a child cgroup", c, control, err)
		}
		if err != nil {
			return fmt.Errorf("enabling controller %q in %s: %w", c, control, err)
		}
	}
	return nil
}
