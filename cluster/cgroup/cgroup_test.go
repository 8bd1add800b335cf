package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDetect(t *testing.T) {
	for _, tc := range []struct {
		name, mounts string
		want         Mode
		version      int
	}{
		{"v1", mountsV1, V1, 1},
		{"hybrid", mountsHybrid, Hybrid, 1},
		{"v2", mountsV2, V2, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFake(t, tc.mounts)
			got, err := DetectAt(k.root)
			if err != nil || got != tc.want || got.Version() != tc.version || got.String() != tc.name {
				t.Fatalf("DetectAt = %v (version %d), %v; want %v", got, got.Version(), err, tc.want)
			}
		})
	}
	k := newFake(t, mountsNone)
	if _, err := DetectAt(k.root); err == nil || !strings.Contains(err.Error(), "mount -t cgroup2") {
		t.Fatalf("without cgroups: %v; want an error that says how to mount them", err)
	}
	if _, err := DetectAt(t.TempDir()); err == nil || !strings.Contains(err.Error(), "mount /proc") {
		t.Fatalf("without /proc: %v", err)
	}
}

func TestControllersOf(t *testing.T) {
	for options, want := range map[string]string{
		"rw,cpuacct,cpu":                         "cpu cpuacct",
		"rw,xattr,release_agent=/x,name=systemd": "systemd",
		"rw,name=systemd":                        "systemd",
		"rw,cpuset,clone_children":               "cpuset",
		"rw,cpuset,cpuset_v2_mode":               "cpuset",
		"rw":                                     "",
	} {
		if got := strings.Join(controllersOf(options), " "); got != want {
			t.Errorf("controllersOf(%q) = %q, want %q", options, got, want)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for _, p := range []string{"", "/", "orlop", "/orlop/../x", "/orlop/", "//orlop", "/a/./b"} {
		if err := EnsureRoot(p); err == nil {
			t.Errorf("EnsureRoot(%q) was accepted", p)
		}
		if err := RemoveRoot(context.Background(), p); err == nil {
			t.Errorf("RemoveRoot(%q) was accepted", p)
		}
	}
}

func TestEnsureV1(t *testing.T) {
	for name, mounts := range map[string]string{"v1": mountsV1, "hybrid": mountsHybrid} {
		t.Run(name, func(t *testing.T) {
			k := newFake(t, mounts)
			for range 2 { // again: what exists is kept
				if err := k.ensure("/orlop/c1/n1"); err != nil {
					t.Fatal(err)
				}
			}
			for _, sub := range []string{"cpu,cpuacct", "cpuset", "memory", "pids", "systemd"} {
				if !k.exists(sub, "orlop/c1/n1") {
					t.Errorf("not made in %s", sub)
				}
			}
			if k.exists("unified", "orlop") {
				t.Error("made in the version 2 tree of a hybrid host")
			}
			for _, level := range []string{"orlop", "orlop/c1", "orlop/c1/n1"} {
				dir := filepath.Join(mountPoint, "cpuset", level)
				if cpus, mems := k.read(dir+"/cpuset.cpus"), k.read(dir+"/cpuset.mems"); cpus != "0-3" || mems != "0" {
					t.Errorf("%s: cpus %q mems %q", level, cpus, mems)
				}
			}
		})
	}
}

func TestEnsureV1KeepsOwnCpuset(t *testing.T) {
	k := newFake(t, mountsV1)
	if err := k.ensure("/orlop/c1/n1"); err != nil {
		t.Fatal(err)
	}
	k.put(filepath.Join(mountPoint, "cpuset/orlop/cpuset.cpus"), "1")
	if err := k.ensure("/orlop/c2/n1"); err != nil {
		t.Fatal(err)
	}
	if got := k.read(filepath.Join(mountPoint, "cpuset/orlop/c2/n1/cpuset.cpus")); got != "1" {
		t.Errorf("cpuset.cpus = %q, want the parent's own value", got)
	}
}

func TestEnsureV1Errors(t *testing.T) {
	k := newFake(t, strings.ReplaceAll(mountsV1, "rw,memory", "rw,freezer"))
	if err := k.ensure("/orlop/c/n"); err == nil || !strings.Contains(err.Error(), "controllers memory are not mounted") {
		t.Errorf("without the memory controller: %v", err)
	}
	k = newFake(t, mountsV1)
	k.put(filepath.Join(mountPoint, "cpuset/cpuset.cpus"), "\n")
	if err := k.ensure("/orlop/c/n"); err == nil || !strings.Contains(err.Error(), "cpuset.cpus is empty") {
		t.Errorf("with an empty cpuset at the root: %v", err)
	}
}

func TestEnsureV2(t *testing.T) {
	k := newFake(t, mountsV2)
	if err := k.ensure("/orlop/c1/n1"); err != nil {
		t.Fatal(err)
	}
	want := "cpuset cpu io memory hugetlb pids"
	for _, level := range []string{"", "orlop", "orlop/c1", "orlop/c1/n1"} {
		got := strings.TrimSpace(k.read(filepath.Join(mountPoint, level, "cgroup.subtree_control")))
		if got != want {
			t.Errorf("%q: subtree_control %q, want %q", level, got, want)
		}
	}
	if err := k.ensure("/orlop/c1/n1"); err != nil {
		t.Fatal(err)
	}
	if got := k.read(filepath.Join(mountPoint, "cgroup.subtree_control")); strings.TrimSpace(got) != want {
		t.Errorf("a second run enabled again what was enabled: %q", got)
	}
}

func TestEnsureV2InternalProcesses(t *testing.T) {
	k := newFake(t, mountsV2)
	k.put(filepath.Join(mountPoint, "cgroup.procs"), "1\n")
	if err := k.ensure("/orlop/c/n"); err == nil || !strings.Contains(err.Error(), "move them to a child cgroup") {
		t.Fatalf("with processes in the delegated cgroup: %v", err)
	}
}

func TestEnsureV2MissingController(t *testing.T) {
	k := newFake(t, mountsV2)
	k.put(filepath.Join(mountPoint, "cgroup.controllers"), "cpuset cpu io pids\n")
	err := k.ensure("/orlop/c/n")
	if err == nil || !strings.Contains(err.Error(), `"memory" is not available`) ||
		!strings.Contains(err.Error(), "cgroup_disable=memory") {
		t.Fatalf("without the memory controller: %v", err)
	}
}

func TestPidsAndRemove(t *testing.T) {
	k := newFake(t, mountsHybrid)
	const p = "/orlop/c1/n1"
	if pids, err := k.pids(p); err != nil || len(pids) != 0 {
		t.Fatalf("pids of an absent cgroup: %v, %v", pids, err)
	}
	if err := k.remove(t.Context(), p); err != nil {
		t.Fatalf("removing an absent cgroup: %v", err)
	}
	for _, node := range []string{p, "/orlop/c1/n1/kubepods/pod1", "/orlop/c1/n2"} {
		if err := k.ensure(node); err != nil {
			t.Fatal(err)
		}
	}
	k.put(filepath.Join(mountPoint, "memory", p, "kubepods/pod1/cgroup.procs"), "40\n7\n")
	k.put(filepath.Join(mountPoint, "pids", p, "cgroup.procs"), "7\n")
	k.put("proc/7/comm", "mariadbd\n")
	pids, err := k.pids(p)
	if err != nil || len(pids) != 2 || pids[0] != 7 || pids[1] != 40 {
		t.Fatalf("pids = %v, %v; want 7 and 40", pids, err)
	}
	if err := k.remove(t.Context(), p); err == nil || !strings.Contains(err.Error(), "7 (mariadbd), 40 (gone)") {
		t.Fatalf("removing a populated cgroup: %v", err)
	}
	if !k.exists("cpuset", p) {
		t.Fatal("something was removed although processes remained")
	}
	k.put(filepath.Join(mountPoint, "memory", p, "kubepods/pod1/cgroup.procs"), "")
	k.put(filepath.Join(mountPoint, "pids", p, "cgroup.procs"), "")
	k.busy[filepath.Join(k.root, mountPoint, "memory", p, "kubepods/pod1")] = 2
	if err := k.remove(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if k.exists("memory", p) || !k.exists("memory", "/orlop/c1/n2") {
		t.Error("wrong cgroups are left after removing n1")
	}
	if err := k.remove(t.Context(), "/orlop/c1/n2"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"cpu,cpuacct", "cpuset", "memory", "pids", "systemd"} {
		if k.exists(sub, "orlop") {
			t.Errorf("%s/orlop is left after its last node went", sub)
		}
	}
}

func TestRemoveHonoursContext(t *testing.T) {
	k := newFake(t, mountsV1)
	if err := k.ensure("/orlop/c/n"); err != nil {
		t.Fatal(err)
	}
	k.busy[filepath.Join(k.root, mountPoint, "memory/orlop/c/n")] = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.remove(ctx, "/orlop/c/n"); err == nil || !strings.Contains(err.Error(), "cgroup.procs") {
		t.Fatalf("with a cgroup that stays busy: %v", err)
	}
}

// TestEnsureRacesRemove has levels vanish while they are made, as when a neighbouring cluster is removed.
func TestEnsureRacesRemove(t *testing.T) {
	k := newFake(t, mountsV1)
	made := k.mkdir
	vanished := 0
	k.mkdir = func(dir string) error {
		if filepath.Base(dir) == "c" && vanished < 3 {
			vanished++
			if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
				return err
			}
		}
		return made(dir)
	}
	if err := k.ensure("/orlop/c/n"); err != nil {
		t.Fatal(err)
	}
	if vanished != 3 || !k.exists("memory", "orlop/c/n") {
		t.Errorf("vanished %d times, made: %v", vanished, k.exists("memory", "orlop/c/n"))
	}
}
