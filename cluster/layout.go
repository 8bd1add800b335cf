package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Layout names every file of a cluster beneath its data directory, and the programs it runs.
type Layout struct {
	DataDir string // absolute
	BinDir  string // where orlop, orlop-storage and the runtime tools are
	ID      string // the cluster's
	Node    string // the node's name
}

func (l Layout) data(elem ...string) string {
	return filepath.Join(append([]string{l.DataDir}, elem...)...)
}

func (l Layout) bin(name string) string { return filepath.Join(l.BinDir, name) }

// Kubeconfig is the administrator's: the contract with scripts.
func (l Layout) Kubeconfig() string { return l.data("kubeconfig") }

// ControlSocket is where the supervisor answers the command line.
func (l Layout) ControlSocket() string { return l.data("run", "control.sock") }

// LogFile is the log of one component.
func (l Layout) LogFile(component string) string { return filepath.Join(l.logDir(), component+".log") }

// ContainerdSocket is where the node's container runtime answers.
func (l Layout) ContainerdSocket() string { return l.data("run", "containerd.sock") }

// KubeletDir is the kubelet's root directory, with the volumes of all pods.
func (l Layout) KubeletDir() string { return filepath.Join(l.nodeDir(), "kubelet") }

// PodLogsDir has a directory for each pod, <namespace>_<name>_<uid>.
func (l Layout) PodLogsDir() string { return filepath.Join(l.nodeDir(), "pod-logs") }

func (l Layout) stateFile() string     { return l.data("cluster.json") }
func (l Layout) lockFile() string      { return l.data("run", "lock") }
func (l Layout) netFile() string       { return l.data("network.json") }
func (l Layout) pkiDir() string        { return l.data("pki") }
func (l Layout) etcdDir() string       { return l.data("etcd") }
func (l Layout) logDir() string        { return l.data("logs") }
func (l Layout) configDir() string     { return l.data("config") }
func (l Layout) poolDir() string       { return l.data("pools", "local") }
func (l Layout) nodeDir() string       { return l.data("nodes", l.Node) }
func (l Layout) staticPodDir() string  { return filepath.Join(l.nodeDir(), "manifests") }
func (l Layout) cniConfDir() string    { return filepath.Join(l.nodeDir(), "cni") }
func (l Layout) ipamDir() string       { return filepath.Join(l.nodeDir(), "ipam") }
func (l Layout) containerdDir() string { return filepath.Join(l.nodeDir(), "containerd") }

// registryDir has what the user says of registries, a directory each (containerd's "hosts" configuration). It is the
// user's: nothing here writes it, and a purge leaves it.
func (l Layout) registryDir() string { return l.data("certs.d") }

// runtimeState is what describes running containers, their sockets included: worth nothing after a reboot, which
// empties /run, and short enough for a socket's path wherever the data directory is.
func (l Layout) runtimeState() string { return filepath.Join("/run/orlop", l.ID) }

func (l Layout) kubeconfigOf(component string) string {
	return filepath.Join(l.pkiDir(), component+".kubeconfig")
}

func (l Layout) configFile(name string) string { return filepath.Join(l.configDir(), name) }

// sockets lists every Unix socket that is bound beneath the data directory, the kubelet's own included.
func (l Layout) sockets() []string {
	return []string{
		l.ControlSocket(),
		l.ContainerdSocket(),
		l.ContainerdSocket() + ".ttrpc",
		l.storageSocket("storage-controllers"),
		l.storageSocket("storage-node"),
		filepath.Join(l.KubeletDir(), "device-plugins", "kubelet.sock"),
		filepath.Join(l.KubeletDir(), "pod-resources", "kubelet.sock"),
		filepath.Join(l.KubeletDir(), "plugins", "local.csi.orlop.io", "csi.sock"),
		filepath.Join(l.KubeletDir(), "plugins_registry", "local.csi.orlop.io-reg.sock"),
		filepath.Join(l.KubeletDir(), "plugins", "config.csi.orlop.io", "csi.sock"),
		filepath.Join(l.KubeletDir(), "plugins_registry", "config.csi.orlop.io-reg.sock"),
	}
}

func (l Layout) storageSocket(component string) string { return l.data("run", component+".sock") }

// maxSocketPath is the longest path the kernel binds a Unix socket to, in bytes (sun_path less its NUL).
const maxSocketPath = 107

// unspeakable are the characters of a path that one of those who are told it would take for something else: the options of
// overlay mounts, the Corefile, URLs of sockets.
const unspeakable = `"'\:,;{}$%?#` + "`"

// Check refuses a data directory whose path the components cannot be told, or beneath which a socket's path would be
// too long for the kernel. It looks at the path alone.
func (l Layout) Check() error {
	for _, r := range l.DataDir {
		if strings.ContainsRune(unspeakable, r) || !unicode.IsPrint(r) || r == utf8.RuneError {
			return fmt.Errorf("data directory %q: its path contains %q, which mount options or configuration files cannot take; "+
				"choose a --data-dir without it", l.DataDir, r)
		}
	}
	return l.checkSocketPaths()
}

func (l Layout) checkSocketPaths() error {
	longest := ""
	for _, s := range l.sockets() {
		if len(s) > len(longest) {
			longest = s
		}
	}
	if over := len(longest) - maxSocketPath; over > 0 {
		return fmt.Errorf("data directory %s: the Unix socket %s would have a path of %d bytes and the kernel allows %d; "+
			"choose a --data-dir at least %d bytes shorter", l.DataDir, longest, len(longest), maxSocketPath, over)
	}
	return nil
}
