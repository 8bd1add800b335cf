package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
)

func checkKernel(_ context.Context, m machine, opts Options, facts *Facts) []Problem {
	release, err := m.read("proc/sys/kernel/osrelease")
	if err != nil {
		return []Problem{{"kernel", err.Error(), "mount /proc", true}}
	}
	facts.Kernel = release

	var out []Problem
	if _, err := os.Stat(m.path("proc/self/ns/net")); isAbsent(err) {
		out = append(out, Problem{"kernel " + release, "it has no network namespaces (CONFIG_NET_NS)",
			"boot a kernel that has; see /proc/self/ns", true})
	}
	filesystems, err := m.read("proc/filesystems")
	if err != nil {
		return append(out, Problem{"file systems", err.Error(), "mount /proc", true})
	}
	hasFS := func(name string) bool {
		for line := range strings.Lines(filesystems) {
			f := strings.Fields(line)
			if len(f) > 0 && f[len(f)-1] == name {
				return true
			}
		}
		return false
	}
	missing := func(feature, config, use string) {
		out = append(out, Problem{"kernel " + release, fmt.Sprintf("it has no %s (%s), which %s", feature, config, use),
			"load the module with 'modprobe', or boot a kernel that has it", true})
	}
	if !hasFS("overlay") && m.module("overlay") != present {
		missing("overlayfs", "CONFIG_OVERLAY_FS", "containers' files are on")
	}
	if m.module("veth") == absent {
		missing("veth driver", "CONFIG_VETH", "pods are connected by")
	}
	if !opts.Plain {
		if !hasFS("ext4") && m.module("ext4") != present {
			missing("ext4", "CONFIG_EXT4_FS", "volumes of StorageClass local are made with")
		}
		if _, err := os.Stat(m.path("dev/loop-control")); err != nil && m.module("loop") != present {
			missing("loop devices", "CONFIG_BLK_DEV_LOOP", "volumes of StorageClass local are mounted by")
		}
	}
	return out
}

// knowledge is what can be told of a kernel module without loading it.
type knowledge int

const (
	unknown knowledge = iota // the kernel's list of modules is not installed
	present                  // loaded, built in, or there to be loaded
	absent
)

func (m machine) module(name string) knowledge {
	if _, err := os.Stat(m.path("sys/module", name)); err == nil {
		return present
	}
	release, err := m.read("proc/sys/kernel/osrelease")
	if err != nil {
		return unknown
	}
	dir := filepath.Join("lib/modules", release)
	builtin, err := m.read(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return unknown
	}
	loadable, err := m.read(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return unknown
	}
	file := "/" + name + ".ko" // perhaps compressed: .ko.xz
	for line := range strings.Lines(builtin + "\n" + loadable) {
		path, _, _ := strings.Cut(line, ":")
		if i := strings.LastIndex(path, file); i >= 0 && !strings.Contains(path[i+1:], "/") {
			return present
		}
	}
	return absent
}

// readFirewall lists nftables' base chains for forwarding IPv4 whose policy is to drop, as nft names them ("ip filter
// FORWARD"); the error says that the kernel has no nftables. The rules of iptables are among them, but for those of
// iptables-legacy.
func readFirewall() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var dropping []string
	for _, c := range chains {
		family, ipv4 := map[nftables.TableFamily]string{
			nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet",
		}[c.Table.Family]
		forwards := c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
		if ipv4 && forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			dropping = append(dropping, family+" "+c.Table.Name+" "+c.Name)
		}
	}
	return dropping, nil
}
