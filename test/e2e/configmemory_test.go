package e2e

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// secretsInMemory: what holds Secrets is never swapped out, where the kernel can prevent it, and never dumped.
func secretsInMemory(c *testCluster) {
	noswap := supportsNoswap(c)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(c.dir))
	if err != nil {
		c.t.Fatal(err)
	}
	found := 0
	for _, m := range mounts {
		if m.FSType != "tmpfs" || !strings.Contains(m.Mountpoint, "/volumes/kubernetes.io~") {
			continue
		}
		found++
		has := false
		for o := range strings.SplitSeq(m.VFSOptions, ",") {
			has = has || o == "noswap"
		}
		if has != noswap {
			c.t.Errorf("%s is mounted with %s; the kernel knows noswap: %v", m.Mountpoint, m.VFSOptions, noswap)
		}
	}
	if found == 0 {
		c.t.Error("there is no configuration volume in memory")
	}
	for _, component := range []string{"kubelet", "storage-node", "storage-controllers"} {
		proc := fmt.Sprintf("/proc/%d/", c.pidOf(component))
		limits, err := os.ReadFile(proc + "limits")
		if err != nil {
			c.t.Fatal(err)
		}
		core := ""
		for line := range strings.Lines(string(limits)) {
			if strings.HasPrefix(line, "Max core file size") {
				core = strings.Join(strings.Fields(line), " ")
			}
		}
		if core != "Max core file size 1 1 bytes" {
			c.t.Errorf("%s: %q, want a limit of 1", component, core)
		}
		filter, err := os.ReadFile(proc + "coredump_filter")
		if err != nil || strings.Trim(string(filter), "0\n") != "" {
			c.t.Errorf("%s: coredump_filter %q, %v; want none", component, filter, err)
		}
	}
}

// supportsNoswap reports whether a tmpfs can be mounted so that it is never swapped out: Linux 6.4 and later can.
func supportsNoswap(c *testCluster) bool {
	dir := c.t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "noswap,size=4k")
	if err != nil {
		return false
	}
	if err := unix.Unmount(dir, 0); err != nil {
		c.t.Error(err)
	}
	return true
}
