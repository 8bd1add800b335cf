package preflight

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// neededCapabilities are those without which the kubelet, the runtime or the mounts of volumes fail.
var neededCapabilities = []struct {
	bit  uint
	name string
}{
	{unix.CAP_CHOWN, "CAP_CHOWN"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_FOWNER, "CAP_FOWNER"},
	{unix.CAP_KILL, "CAP_KILL"},
	{unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_SETPCAP, "CAP_SETPCAP"},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_MKNOD, "CAP_MKNOD"},
}

func checkPrivileges(_ context.Context, m machine, _ Options, facts *Facts) []Problem {
	if m.euid != 0 {
		return []Problem{{
			What: "user", Cause: fmt.Sprintf("running as uid %d, and a node mounts, makes cgroups and configures networks",
				m.euid), Next: "run it as root, for instance with sudo", Fatal: true,
		}}
	}
	effective, err := m.effectiveCapabilities()
	if err != nil {
		return []Problem{{What: "capabilities", Cause: err.Error(), Next: "mount /proc", Fatal: true}}
	}
	has := func(bit uint) bool { return effective&(1<<bit) != 0 }
	facts.RestrictOOM = !has(unix.CAP_SYS_RESOURCE)
	var missing []string
	for _, c := range neededCapabilities {
		if !has(c.bit) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []Problem{{
		What: "capabilities", Cause: "this root lacks " + strings.Join(missing, ", "),
		Next: "run it outside the container, or in a privileged one", Fatal: true,
	}}
}

func (m machine) effectiveCapabilities() (uint64, error) {
	status, err := m.read("proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, fmt.Errorf("%s has no line CapEff", m.path("proc/self/status"))
}
