// Package preflight looks at a host before a cluster is started on it.
//
// [Run] gathers facts that the cluster's configuration depends on, and the problems that would otherwise show as
// an obscure failure of some component a minute later. It changes nothing on the host, asks no network, and takes
// a few milliseconds, for it runs at every start, unless processes of the cluster's last run are still ending.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orlop-io/orlop/cluster/cgroup"
	"github.com/orlop-io/orlop/cluster/dnsrelay"
)

// Options say what the cluster to be started needs.
type Options struct {
	// DataDir is the cluster's data directory, which need not exist yet. The caller holds its lock.
	DataDir string
	// MinFree is the free space in bytes without which the cluster is not started; 0 takes 1 GiB.
	MinFree uint64
	// Ports are the TCP ports that must be free in this process's network namespace.
	Ports []int
	// Netns says that the node gets a network namespace of its own.
	Netns bool
	// Plain says that Orlop's storage is left out: what only it needs is not asked for.
	Plain bool
}

// Facts are what a host is like.
type Facts struct {
	// RestrictOOM says that CAP_SYS_RESOURCE is missing, so that the runtime must not lower oom_score_adj
	// (containerd's restrict_oom_score_adj).
	RestrictOOM bool
	// CgroupVersion is 1 or 2; 0 when no cgroup hierarchy is mounted. CgroupMode tells a hybrid host apart.
	CgroupVersion int
	CgroupMode    cgroup.Mode
	// KubeProxyMode is "nftables" where the host can do it, else "iptables".
	KubeProxyMode string
	// Resolvers are the host's, as in /etc/resolv.conf; none when it has none.
	Resolvers []string
	// Hostname is the kernel's. HostnameInHosts says that /etc/hosts has it: the cluster does without.
	Hostname        string
	HostnameInHosts bool
	// Swap says that swap space is in use, which is fine.
	Swap bool
	// Kernel is its release, such as "6.1.0-28-amd64".
	Kernel string
}

// Problem is something on the host that stands in a cluster's way.
type Problem struct {
	What  string // the object, such as "port 6443"
	Cause string // what is wrong with it
	Next  string // what to do about it
	Fatal bool   // a cluster cannot be started; otherwise something of it will not work
}

// Error is the problem in one sentence.
func (p Problem) Error() string { return fmt.Sprintf("%s: %s; %s", p.What, p.Cause, p.Next) }

var _ error = Problem{}

// Run makes all checks and returns what it found out together with the problems, fatal ones first. With ctx
// done it stops early, and a fatal problem says so.
func Run(ctx context.Context, opts Options) (Facts, []Problem) {
	return host().run(ctx, opts)
}

// machine is the host, or a test's idea of one.
type machine struct {
	root string // beneath which /proc, /etc and /usr are
	euid int
	// firewall tells whether the kernel has nftables, and the forwarding chains that drop what no rule accepts.
	firewall func() (dropping []string, err error)
	pause    func(context.Context) error
}

func host() machine {
	return machine{root: "/", euid: os.Geteuid(), firewall: readFirewall, pause: pause}
}

func (m machine) path(elem ...string) string {
	return filepath.Join(append([]string{m.root}, elem...)...)
}

func (m machine) read(name string) (string, error) {
	b, err := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(b)), err
}

// check is one look at the host: it fills in facts and returns problems.
type check func(ctx context.Context, m machine, opts Options, facts *Facts) []Problem

// checks run in this order; checkPrivileges goes before them all.
var checks = []check{
	checkDataDir,
	checkPorts,
	checkCgroups,
	checkKernel,
	checkProxy,
	checkTools,
	gatherNames,
}

func (m machine) run(ctx context.Context, opts Options) (Facts, []Problem) {
	var facts Facts
	problems := checkPrivileges(ctx, m, opts, &facts)
	if len(problems) > 0 {
		return facts, problems // what the other checks may not do they would blame on the host
	}
	for _, c := range checks {
		if err := ctx.Err(); err != nil {
			problems = append(problems, Problem{
				What: "checking the host", Cause: err.Error(), Next: "start again", Fatal: true,
			})
			break
		}
		problems = append(problems, c(ctx, m, opts, &facts)...)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		switch {
		case a.Fatal == b.Fatal:
			return 0
		case a.Fatal:
			return -1
		}
		return 1
	})
	return facts, problems
}

func checkCgroups(_ context.Context, m machine, _ Options, facts *Facts) []Problem {
	mode, err := cgroup.DetectAt(m.root)
	if err != nil {
		return []Problem{{
			What: "cgroups", Cause: err.Error(), Next: "pods cannot be given their resources without", Fatal: true,
		}}
	}
	facts.CgroupMode, facts.CgroupVersion = mode, mode.Version()
	return nil
}

// gatherNames reads how the host names things. It looks no name up: a resolver that does not answer would hold
// the start up for seconds, and the cluster needs no name of the host's.
func gatherNames(_ context.Context, m machine, _ Options, facts *Facts) []Problem {
	var problems []Problem
	resolvers, err := dnsrelay.Upstreams(m.path("etc/resolv.conf"))
	if err != nil {
		problems = append(problems, Problem{
			What: "the host's resolvers", Cause: err.Error(),
			Next: "names outside the cluster will not resolve in pods until the file can be read",
		})
	}
	facts.Resolvers = resolvers
	if facts.Hostname, err = m.read("proc/sys/kernel/hostname"); err == nil {
		facts.HostnameInHosts = m.inHosts(facts.Hostname)
	}
	if swaps, err := m.read("proc/swaps"); err == nil {
		facts.Swap = strings.Count(swaps, "\n") > 0 // beneath a line of headings
	}
	return problems
}

func (m machine) inHosts(name string) bool {
	hosts, err := m.read("etc/hosts")
	if err != nil || name == "" {
		return false
	}
	for line := range strings.Lines(hosts) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 && slices.Contains(fields[1:], name) {
			return true
		}
	}
	return false
}

func isAbsent(err error) bool { return errors.Is(err, os.ErrNotExist) }
