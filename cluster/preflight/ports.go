package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func checkPorts(_ context.Context, m machine, opts Options, _ *Facts) []Problem {
	if len(opts.Ports) == 0 {
		return nil
	}
	held := map[int]string{} // port → socket inode
	for _, table := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		content, err := m.read(table)
		if isAbsent(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return []Problem{{"ports", err.Error(), "mount /proc", true}}
		}
		for port, inode := range listeners(content) {
			if slices.Contains(opts.Ports, port) {
				held[port] = inode
			}
		}
	}
	if len(held) == 0 {
		return nil
	}
	holders := m.holders(held)
	var out []Problem
	for _, port := range slices.Sorted(slices.Values(opts.Ports)) {
		inode, isHeld := held[port]
		if !isHeld {
			continue
		}
		p := Problem{What: fmt.Sprintf("port %d", port), Fatal: true,
			Cause: "in use by a process that cannot be seen, perhaps of another container",
			Next:  "stop it, or start with --netns, which needs no port of the host"}
		if h, known := holders[inode]; known {
			p.Cause = "in use by " + h.String()
			if strings.HasPrefix(filepath.Base(h.command), "orlop") {
				p.Next = "a host runs one cluster without --netns: stop the other with 'orlop down', or start with --netns"
			}
		}
		out = append(out, p)
	}
	return out
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

type holder struct {
	pid     int
	command string // with its arguments
}

func (h holder) String() string { return fmt.Sprintf("process %d (%s)", h.pid, h.command) }

// holders finds the processes that have the sockets open. Only asked when there is something to find: it
// reads every file descriptor of the host.
func (m machine) holders(held map[int]string) map[string]holder {
	wanted := map[string]string{}
	for _, inode := range held {
		wanted["socket:["+inode+"]"] = inode
	}
	out := map[string]holder{}
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
				out[inode] = holder{pid, m.command(pid)}
				delete(wanted, target)
			}
		}
		if len(wanted) == 0 {
			break
		}
	}
	return out
}

var subcommand = regexp.MustCompile(`^[a-z][a-z-]{0,30}$`)

// command is a process's program and, where its first argument looks like one, the subcommand. The other arguments
// are left out, lest a secret among them is printed.
func (m machine) command(pid int) string {
	const most = 80
	dir := filepath.Join("proc", strconv.Itoa(pid))
	line, err := m.read(filepath.Join(dir, "cmdline"))
	args := strings.Split(strings.TrimRight(line, "\x00"), "\x00")
	if err != nil || args[0] == "" {
		comm, err := m.read(filepath.Join(dir, "comm"))
		if err != nil {
			return "gone"
		}
		return comm
	}
	out := args[0]
	if len(args) > 1 && subcommand.MatchString(args[1]) {
		out += " " + args[1]
	}
	return out[:min(len(out), most)]
}
