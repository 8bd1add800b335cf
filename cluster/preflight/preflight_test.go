package preflight

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/cgroup"
)

func TestNothingWrong(t *testing.T) {
	h := newFake(t)
	facts, problems := h.run(t.Context(), Options{DataDir: "/var/lib/orlop", Ports: []int{6443}, MinFree: 1})
	// What this machine's own disk has free is no concern here.
	problems = slices.DeleteFunc(problems, func(p Problem) bool { return strings.Contains(p.Cause, "free") })
	if len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	if facts.RestrictOOM || facts.CgroupVersion != 2 || facts.CgroupMode != cgroup.V2 || facts.KubeProxyMode != "nftables" ||
		!slices.Equal(facts.Resolvers, []string{"10.0.0.1"}) || facts.Hostname != "box" || !facts.HostnameInHosts ||
		facts.Swap || facts.Kernel != "6.1.0-28-amd64" {
		t.Errorf("facts: %+v", facts)
	}
	made := func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".orlop") || e.Name() == "var" }
	if entries, err := os.ReadDir(h.root); err != nil || slices.ContainsFunc(entries, made) {
		t.Errorf("the checks left something: %v, %v", entries, err)
	}
}

func TestFacts(t *testing.T) {
	h := newFake(t)
	h.write("proc/self/status", "CapEff:\t000001fffeffffff\n") // all but CAP_SYS_RESOURCE
	h.write("proc/self/mountinfo", `31 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`)
	h.write("proc/swaps", "Filename\tType\tSize\n/dev/sda2\tpartition\t1000\n")
	h.write("proc/sys/kernel/hostname", "nowhere\n")
	h.remove("etc/resolv.conf")
	facts, problems := h.run(t.Context(), Options{})
	if len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	if !facts.RestrictOOM || facts.CgroupVersion != 1 || facts.CgroupMode != cgroup.Hybrid || !facts.Swap ||
		facts.Hostname != "nowhere" || facts.HostnameInHosts || len(facts.Resolvers) != 0 {
		t.Errorf("facts: %+v", facts)
	}
}

func TestBrokenHosts(t *testing.T) {
	for name, tc := range map[string]struct {
		breakIt func(h *fakeHost)
		opts    Options
		fatal   bool
		parts   []string
	}{
		"not root": {func(h *fakeHost) {
			h.euid = 1000
			h.firewall = func() ([]string, error) { return nil, unix.EPERM }
		}, Options{}, true, []string{"uid 1000", "sudo"}},
		"capabilities": {func(h *fakeHost) { h.write("proc/self/status", "CapEff:\t000001ffffdfefff\n") }, Options{}, true,
			[]string{"CAP_NET_ADMIN, CAP_SYS_ADMIN", "privileged"}},
		"no cgroups": {func(h *fakeHost) { h.write("proc/self/mountinfo", "") }, Options{}, true,
			[]string{"cgroups", "mount -t cgroup2"}},
		"no overlayfs": {func(h *fakeHost) { h.write("proc/filesystems", "ext4\n") }, Options{}, true,
			[]string{"6.1.0-28-amd64", "CONFIG_OVERLAY_FS", "modprobe"}},
		"no veth": {func(h *fakeHost) {
			h.write("lib/modules/6.1.0-28-amd64/modules.builtin", "kernel/drivers/block/loop.ko\n")
			h.write("lib/modules/6.1.0-28-amd64/modules.dep", "kernel/net/xveth.ko:\nkernel/a/veth.ko.d/b.ko:\n")
		}, Options{}, true, []string{"CONFIG_VETH"}},
		"no loop devices": {func(h *fakeHost) { h.remove("dev/loop-control") }, Options{}, true,
			[]string{"CONFIG_BLK_DEV_LOOP"}},
		"no ext4": {func(h *fakeHost) { h.write("proc/filesystems", "nodev overlay\n") }, Options{}, true,
			[]string{"CONFIG_EXT4_FS"}},
		"no network namespaces": {func(h *fakeHost) { h.remove("proc/self/ns") }, Options{}, true,
			[]string{"CONFIG_NET_NS"}},
		"no mkfs.ext4": {func(h *fakeHost) { h.remove("usr/sbin/mkfs.ext4") }, Options{}, true,
			[]string{"mkfs.ext4", "apt-get install e2fsprogs"}},
		"no mount": {func(h *fakeHost) { h.remove("usr/sbin/mount") }, Options{}, true, []string{"apt-get install mount"}},
		"mount is not a program": {func(h *fakeHost) {
			h.remove("usr/sbin/mount")
			h.write("usr/sbin/mount", "")
		}, Options{}, true, []string{"program mount"}},
		"no nft, no iptables": {func(h *fakeHost) { h.remove("usr/sbin/nft") }, Options{}, true,
			[]string{"nft is not installed", "apt-get install nftables"}},
		"no nft": {func(h *fakeHost) { h.remove("usr/sbin/nft"); h.install("iptables", "") }, Options{}, false,
			[]string{"falls back to iptables"}},
		"old nft": {func(h *fakeHost) { h.install("nft", "echo nftables v0.9.8"); h.install("iptables", "") }, Options{}, false,
			[]string{"nft has version 0.9.8", "1.0.1"}},
		"broken nft": {func(h *fakeHost) { h.install("nft", "exit 1"); h.install("iptables", "") }, Options{}, false,
			[]string{"printed no version"}},
		"old kernel": {func(h *fakeHost) {
			h.write("proc/sys/kernel/osrelease", "5.10.0-33-amd64")
			h.install("iptables", "")
		}, Options{}, false, []string{"5.10.0-33-amd64 is older than 5.13.0"}},
		"kernel without nftables": {func(h *fakeHost) {
			h.firewall = func() ([]string, error) { return nil, unix.EPROTONOSUPPORT }
		}, Options{}, true, []string{"6.1.0-28-amd64: it has no nftables", "protocol not supported", "modprobe nf_tables"}},
		"a firewall that drops": {func(h *fakeHost) {
			h.firewall = func() ([]string, error) { return []string{"ip filter FORWARD"}, nil }
		}, Options{}, false, []string{"ip filter FORWARD drops",
			`nft insert rule ip filter FORWARD iifname '"veth*"' accept`}},
		"a firewall that drops, with a namespace": {func(h *fakeHost) {
			h.firewall = func() ([]string, error) { return []string{"inet f fwd"}, nil }
		}, Options{Netns: true}, false, []string{`nft insert rule inet f fwd oifname '"orl*"' accept`}},
		"resolv.conf cannot be read": {func(h *fakeHost) { h.remove("etc/resolv.conf"); h.write("etc/resolv.conf/x", "") },
			Options{}, false, []string{"resolvers"}},
		"relative data directory": {func(*fakeHost) {}, Options{DataDir: "data"}, true,
			[]string{"data directory data", "absolute"}},
		"data directory is a file": {func(h *fakeHost) { h.write("data", "") }, Options{DataDir: "/data"}, true,
			[]string{"not a directory"}},
		"data directory in a file": {func(h *fakeHost) { h.write("data", "") }, Options{DataDir: "/data/x"}, true,
			[]string{"not a directory"}},
		"not the room that is asked": {func(*fakeHost) {}, Options{DataDir: "/data", MinFree: 1 << 62}, true,
			[]string{"are needed", "make room"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFake(t)
			tc.breakIt(h)
			h.one(tc.opts, tc.fatal, tc.parts...)
		})
	}
}

func TestPlainNeedsNoStorageTools(t *testing.T) {
	h := newFake(t)
	h.remove("usr/sbin/mkfs.ext4")
	h.remove("dev/loop-control")
	h.write("proc/filesystems", "nodev overlay\n")
	if _, problems := h.run(t.Context(), Options{Plain: true}); len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
}

func TestModule(t *testing.T) {
	h := newFake(t)
	if got := h.module("veth"); got != unknown {
		t.Errorf("without a list of modules: %v", got)
	}
	h.write("lib/modules/6.1.0-28-amd64/modules.builtin", "kernel/drivers/block/loop.ko\n")
	h.write("lib/modules/6.1.0-28-amd64/modules.dep",
		"kernel/drivers/net/veth.ko.xz: kernel/x/y.ko\nkernel/z.ko: kernel/dep.ko\n")
	h.write("sys/module/overlay/refcnt", "1")
	for name, want := range map[string]knowledge{
		"loop": present, "veth": present, "overlay": present, "dep": absent, "eth": absent,
	} {
		if got := h.module(name); got != want {
			t.Errorf("module %s: %v, want %v", name, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	const block = 4096
	roomy := unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: block, Bavail: 100 << 30 / block, Files: 10, Ffree: 5}
	for name, tc := range map[string]struct {
		change func(*unix.Statfs_t)
		want   string
		fatal  bool
	}{
		"roomy":     {func(*unix.Statfs_t) {}, "", false},
		"btrfs":     {func(s *unix.Statfs_t) { s.Type, s.Files, s.Ffree = unix.BTRFS_SUPER_MAGIC, 0, 0 }, "", false},
		"full":      {func(s *unix.Statfs_t) { s.Bavail = 10 << 20 / block }, "10 MiB free, and at least 1.0 GiB", true},
		"low":       {func(s *unix.Statfs_t) { s.Bavail = 2 << 30 / block }, "only 2.0 GiB free", false},
		"no inodes": {func(s *unix.Statfs_t) { s.Ffree = 0 }, "no free inodes", true},
		"tmpfs":     {func(s *unix.Statfs_t) { s.Type = unix.TMPFS_MAGIC }, "lost at a reboot", false},
		"noexec":    {func(s *unix.Statfs_t) { s.Flags = unix.ST_NOEXEC }, "noexec", false},
		"NFS":       {func(s *unix.Statfs_t) { s.Type = unix.NFS_SUPER_MAGIC }, "on NFS", true},
		"overlay":   {func(s *unix.Statfs_t) { s.Type = unix.OVERLAYFS_SUPER_MAGIC }, "on overlayfs", true},
	} {
		t.Run(name, func(t *testing.T) {
			fs := roomy
			tc.change(&fs)
			got := judge("data directory /d", fs, 0)
			switch {
			case tc.want == "" && len(got) == 0:
			case tc.want != "" && len(got) == 1 && got[0].Fatal == tc.fatal && strings.Contains(got[0].Error(), tc.want):
			default:
				t.Errorf("judge = %+v, want %q", got, tc.want)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]version{
		"nftables v1.0.6 (Lester Gooch #5)": {1, 0, 6}, "nftables v1.1 (x)": {1, 1, 0}, "6.18.44-fc-v657": {6, 18, 44},
	} {
		if got, ok := parseVersion(text); !ok || got != want {
			t.Errorf("parseVersion(%q) = %v, %v", text, got, ok)
		}
	}
	if _, ok := parseVersion("none"); ok {
		t.Error("a version was found in none")
	}
	if !(version{1, 0, 0}).less(minNFT) || (version{1, 0, 1}).less(minNFT) || (version{2, 0, 0}).less(minNFT) {
		t.Error("less is wrong about 1.0.1")
	}
}

func TestFatalFirstAndContext(t *testing.T) {
	h := newFake(t)
	h.firewall = func() ([]string, error) { return []string{"filter FORWARD"}, nil }
	h.remove("usr/sbin/mount")
	_, problems := h.run(t.Context(), Options{})
	if len(problems) != 2 || !problems[0].Fatal || problems[1].Fatal {
		t.Errorf("problems: %+v; want the fatal one first", problems)
	}
	var p Problem
	if !errors.As(error(problems[0]), &p) {
		t.Error("a problem is no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, problems := h.run(ctx, Options{}); len(problems) != 1 || !problems[0].Fatal {
		t.Errorf("with the context done: %+v", problems)
	}
}

func TestUnwritable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, "size=64k"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	m := host()
	problems := checkDataDir(t.Context(), m, Options{DataDir: filepath.Join(dir, "a/b")}, &Facts{})
	if len(problems) != 1 || !problems[0].Fatal || !strings.Contains(problems[0].Error(), "mounted read-only") {
		t.Errorf("read-only: %+v", problems)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOEXEC, "size=64k"); err != nil {
		t.Fatal(err)
	}
	problems = checkDataDir(t.Context(), m, Options{DataDir: dir, MinFree: 1}, &Facts{})
	for _, want := range []string{"on tmpfs", "noexec", "only 0 MiB free"} {
		if !slices.ContainsFunc(problems, func(p Problem) bool { return !p.Fatal && strings.Contains(p.Cause, want) }) {
			t.Errorf("%q is not among %+v", want, problems)
		}
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	problems = checkDataDir(t.Context(), m, Options{DataDir: dir}, &Facts{})
	if len(problems) == 0 || !problems[0].Fatal || !strings.Contains(problems[0].Error(), "make room") {
		t.Errorf("full: %+v", problems)
	}
}
