package preflight

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// leftoverLooks is how often ports are looked at while processes of this cluster's former supervisor hold them: for
// 10 s with [pause].
const leftoverLooks = 500

// checkPorts reports the ports that others hold. Processes of this very cluster are waited for: its supervisor is
// gone, or its data directory would still be locked, and they end with it.
func checkPorts(ctx context.Context, m machine, opts Options, _ *Facts) []Problem {
	if len(opts.Ports) == 0 {
		return nil
	}
	for look := 1; ; look++ {
		problems, ours := m.heldPorts(opts)
		if !ours || look == leftoverLooks || m.pause(ctx) != nil {
			return problems
		}
	}
}

// pause is the time between two looks at something that is about to change.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}

// heldPorts looks once; ours tells whether one of the holders belongs to the cluster that is to be started.
func (m machine) heldPorts(opts Options) (problems []Problem, ours bool) {
	held := map[int]string{} // port → socket inode
	for _, table := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		content, err := m.read(table)
		if isAbsent(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return []Problem{{"ports", err.Error(), "mount /proc", true}}, false
		}
		for port, inode := range listeners(content) {
			if slices.Contains(opts.Ports, port) {
				held[port] = inode
			}
		}
	}
	if len(held) == 0 {
		return nil, false
	}
	holders := m.holders(held)
	for _, port := range slices.Sorted(maps.Keys(held)) {
		p := Problem{What: fmt.Sprintf("port %d", port), Fatal: true,
			Cause: "in use by a process that cannot be seen, perhaps of another container",
			Next:  "stop it, or start with --netns, which needs no port of the host"}
		if pid, known := holders[held[port]]; known {
			args := m.args(pid)
			p.Cause = fmt.Sprintf("in use by process %d (%s)", pid, command(args))
			switch {
			case opts.DataDir != "" && slices.ContainsFunc(args, func(a string) bool {
				return strings.Contains(a, opts.DataDir+"/") || strings.HasSuffix(a, opts.DataDir)
			}):
				ours = true
				p.Next = "it is left over from this cluster's last run and does not end: kill it"
			case strings.HasPrefix(filepath.Base(args[0]), "orlop"):
				p.Next = "a host runs one cluster without --netns: stop the other with 'orlop down', or start with --netns"
			}
		}
		problems = append(problems, p)
	}
	return problems, ours
}

// listeners reads a table of /proc/net/tcp's form (proc_net_tcp.rst) for the ports that are listened on, with
// the inode of a socket for each. It does not matter at which address: ours are opened on all of them.
func listeners(table string) map[int]string {
	const (
		localAddress = 1
		state        = 2 + 1
		inode        = 9
		stateListen  = "0A" // TCP_LISTEN
	)
	out := map[int]string{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) <= inode || f[state] != stateListen {
			continue
		}
		_, hexPort, ok := strings.Cut(f[localAddress], ":")
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if ok && err == nil {
			out[int(port)] = f[inode]
		}
	}
	return out
}

// holders finds the processes that have the sockets open, by inode. Only asked when there is something to find: it
// reads every file descriptor of the host.
func (m machine) holders(held map[int]string) map[string]int {
	wanted := map[string]string{}
	for _, inode := range held {
		wanted["socket:["+inode+"]"] = inode
	}
	out := map[string]int{}
	fds, err := filepath.Glob(m.path("proc/[0-9]*/fd"))
	if err != nil {
		return out
	}
	for _, dir := range fds {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // the process is gone, or not ours to look at
		}
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			if inode, ok := wanted[target]; ok {
				out[inode] = pid
				delete(wanted, target)
			}
		}
		if len(wanted) == 0 {
			break
		}
	}
	return out
}

// args is a process's command line; of one that has none, a kernel thread or a process that is gone, its name.
func (m machine) args(pid int) []string {
	dir := filepath.Join("proc", strconv.Itoa(pid))
	if line, err := m.read(filepath.Join(dir, "cmdline")); err == nil && line != "" {
		return strings.Split(strings.TrimRight(line, "\x00"), "\x00")
	}
	if comm, err := m.read(filepath.Join(dir, "comm")); err == nil {
		return []string{comm}
	}
	return []string{"gone"}
}

var subcommand = regexp.MustCompile(`^[a-z][a-z-]{0,30}$`)

// command is the program and, where the first argument looks like one, the subcommand, for an error message. The
// other arguments are left out, lest a secret among them is printed.
func command(args []string) string {
	const most = 80
	out := args[0]
	if len(args) > 1 && subcommand.MatchString(args[1]) {
		out += " " + args[1]
	}
	return out[:min(len(out), most)]
}
