package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Mount tables as the kernel prints them, one for each arrangement.
const (
	mountsV1 = `22 1 0:21 / /proc rw - proc proc rw
30 1 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
33 30 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
36 30 0:33 / /sys/fs/cgroup/again rw - cgroup cgroup rw,memory
`
	mountsHybrid = mountsV1 + "37 30 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	mountsV2     = "30 1 0:30 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsNone   = "22 1 0:21 / /proc rw - proc proc rw\n"
)

// fakeKernel is a cgroupfs over plain directories: what mkdir and rmdir do by themselves on the real one.
type fakeKernel struct {
	system
	t *testing.T
	// busy makes so many rmdir calls of a directory answer EBUSY.
	busy map[string]int
}

func newFake(t *testing.T, mounts string) *fakeKernel {
	t.Helper()
	k := &fakeKernel{t: t, busy: map[string]int{}}
	k.system = system{root: t.TempDir(), mkdir: k.makeCgroup, rmdir: k.removeCgroup, write: k.command}
	k.put("proc/self/mountinfo", mounts)
	_, hierarchies, err := k.mounts()
	if err != nil {
		return k
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		k.populate(h.dir, true)
	}
	return k
}

func (k *fakeKernel) put(name, content string) {
	k.t.Helper()
	file := filepath.Join(k.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func (k *fakeKernel) read(name string) string {
	k.t.Helper()
	b, err := os.ReadFile(filepath.Join(k.root, name))
	if err != nil {
		k.t.Fatal(err)
	}
	return string(b)
}

// populate gives a new cgroup its control files. On version 2 a child has the controllers that its parent
// passes on.
func (k *fakeKernel) populate(dir string, top bool) {
	k.t.Helper()
	files := map[string]string{"cgroup.procs": ""}
	rel, err := filepath.Rel(filepath.Join(k.root, mountPoint), dir)
	if err != nil {
		k.t.Fatal(err)
	}
	switch {
	case k.unifiedRoot():
		files["cgroup.controllers"], files["cgroup.subtree_control"] = "cpuset cpu io memory hugetlb pids rdma misc\n", ""
		if !top {
			files["cgroup.controllers"] = k.read(filepath.Join(mountPoint, filepath.Dir(rel), "cgroup.subtree_control"))
		}
	case strings.HasPrefix(rel, "cpuset"):
		files["cpuset.cpus"], files["cpuset.mems"] = "", ""
		if top {
			files["cpuset.cpus"], files["cpuset.mems"] = "0-3\n", "0\n"
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *fakeKernel) unifiedRoot() bool {
	return strings.Contains(k.read("proc/self/mountinfo"), "/sys/fs/cgroup rw shared:4 - cgroup2")
}

func (k *fakeKernel) makeCgroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	k.populate(dir, false)
	return nil
}

// command is a write to a control file: in cgroup.subtree_control each one adds a controller, unless the cgroup
// has processes of its own.
func (k *fakeKernel) command(file, value string) error {
	if filepath.Base(file) != "cgroup.subtree_control" {
		return writeExisting(file, value)
	}
	procs, err := readTrimmed(filepath.Join(filepath.Dir(file), "cgroup.procs"))
	if err != nil {
		return err
	}
	if procs != "" {
		return fmt.Errorf("write %s: %w", file, syscall.EBUSY)
	}
	old, err := readTrimmed(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(old+" "+strings.TrimPrefix(value, "+")+"\n"), 0o644)
}

func (k *fakeKernel) removeCgroup(dir string) error {
	if k.busy[dir] > 0 {
		k.busy[dir]--
		return fmt.Errorf("rmdir %s: %w", dir, syscall.EBUSY)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			return fmt.Errorf("rmdir %s: %w", dir, syscall.EBUSY)
		}
	}
	return os.RemoveAll(dir)
}

// exists tells whether the cgroup is in the hierarchy mounted at /sys/fs/cgroup/<sub>.
func (k *fakeKernel) exists(sub, p string) bool {
	_, err := os.Stat(filepath.Join(k.root, mountPoint, sub, p))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		k.t.Fatal(err)
	}
	return err == nil
}
