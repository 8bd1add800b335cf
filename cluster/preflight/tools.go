package preflight

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// toolDirs are where Debian has administrators' programs: not all are in everybody's PATH.
var toolDirs = []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"}

// tool finds a program; empty when there is none.
func (m machine) tool(name string) string {
	for _, dir := range toolDirs {
		file := m.path(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

func checkTools(_ context.Context, m machine, opts Options, _ *Facts) []Problem {
	var out []Problem
	for _, t := range []struct {
		name, pkg, use string
		storage        bool
	}{
		{"mount", "mount", "the kubelet mounts volumes with", false},
		{"umount", "mount", "the kubelet unmounts volumes with", false},
		{"mkfs.ext4", "e2fsprogs", "volumes of StorageClass local are formatted with", true},
	} {
		if t.storage && opts.Plain || m.tool(t.name) != "" {
			continue
		}
		out = append(out, Problem{"program " + t.name, "it is not installed, and " + t.use + " it",
			"install it: apt-get install " + t.pkg, true})
	}
	return out
}

// version is major, minor, patch.
type version [3]int

// What kube-proxy's nftables mode asks for.
var (
	minNFT    = version{1, 0, 1}
	minKernel = version{5, 13, 0}
)

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

var versionPattern = regexp.MustCompile(`(\d+)\.(\d+)(?:\.(\d+))?`)

// parseVersion takes the first version number in a text.
func parseVersion(s string) (version, bool) {
	match := versionPattern.FindStringSubmatch(s)
	if match == nil {
		return version{}, false
	}
	var v version
	for i, part := range match[1:] {
		if part == "" {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return version{}, false
		}
		v[i] = n
	}
	return v, true
}

// checkProxy chooses kube-proxy's mode. checkKernel has run.
func checkProxy(ctx context.Context, m machine, opts Options, facts *Facts) []Problem {
	dropping, err := m.firewall()
	if err != nil {
		return []Problem{{"kernel " + facts.Kernel, fmt.Sprintf("it has no nftables (CONFIG_NF_TABLES: %v), which "+
			"masquerades pods", err), "load the module with 'modprobe nf_tables', or boot a kernel that has it", true}}
	}
	cause := m.noNFTables(ctx, facts.Kernel)
	if cause == "" {
		facts.KubeProxyMode = "nftables"
	} else {
		facts.KubeProxyMode = "iptables"
		if m.tool("iptables") == "" {
			return []Problem{{"Services", cause + ", and iptables is not installed either",
				"install nftables 1.0.1 or newer: apt-get install nftables", true}}
		}
	}
	var out []Problem
	if cause != "" {
		out = append(out, Problem{"Services", cause, "kube-proxy falls back to iptables; apt-get install nftables", false})
	}
	for _, chain := range dropping {
		// The node's link, or on the host's network the pods' own, which CNI names so.
		name := `'"orl*"'`
		if !opts.Netns {
			name = `'"veth*"'`
		}
		out = append(out, Problem{"firewall",
			"chain " + chain + " drops forwarded packets, so that pods may reach nothing outside",
			fmt.Sprintf("accept the cluster's: nft insert rule %s iifname %s accept; nft insert rule %s oifname %s accept",
				chain, name, chain, name), false})
	}
	return out
}

// noNFTables says why kube-proxy's nftables mode would not work; empty when it would.
func (m machine) noNFTables(ctx context.Context, release string) string {
	if v, ok := parseVersion(release); ok && v.less(minKernel) {
		return fmt.Sprintf("kernel %s is older than %s, which kube-proxy needs for nftables", release, minKernel)
	}
	nft := m.tool("nft")
	if nft == "" {
		return "the program nft is not installed"
	}
	cmd := exec.CommandContext(ctx, nft, "--version")
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	v, ok := parseVersion(string(out))
	switch {
	case err != nil || !ok:
		return fmt.Sprintf("%s --version printed no version (%v)", filepath.Base(nft), err)
	case v.less(minNFT):
		return fmt.Sprintf("nft has version %s, and kube-proxy needs %s", v, minNFT)
	}
	return ""
}
