// Package nfstest starts real NFS servers for tests, in network namespaces of their own.
package nfstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cluster/osthread"
	"github.com/orlop-io/orlop/csi/nfs/client"
)

// startPatience is how long ganesha may take to serve; it is given up when it ends, which is what usually goes wrong.
const startPatience = 60 * time.Second

// Ganesha serves a directory by nfs-ganesha's NFS version 3 for as long as the test runs.
type Ganesha struct {
	// Options mount the share; they dial into the server's network namespace.
	Options client.Options

	t         *testing.T
	namespace string
	dir       string
	process   *exec.Cmd
	ended     chan struct{}
}

const ports = `NFS_CORE_PARAM { NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; Protocols = 3;
	Enable_UDP = false; mount_path_pseudo = false; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = /data; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
	Transports = TCP; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`

// StartGanesha serves the directory. Without root, or without nfs-ganesha, it skips the test and says so.
func StartGanesha(t *testing.T, share string) *Ganesha {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("nfs-ganesha needs root")
	}
	for _, program := range []string{"ganesha.nfsd", "rpcbind"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: install nfs-ganesha, nfs-ganesha-vfs and rpcbind", err)
		}
	}
	g := &Ganesha{t: t, dir: t.TempDir(), namespace: Namespace(t)}
	config := filepath.Join(g.dir, "ganesha.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, ports, share), 0o600); err != nil {
		t.Fatal(err)
	}
	// It registers with a port mapper or does not start.
	g.run("rpcbind", "-f")
	g.wait("rpcbind", "127.0.0.1:111", nil)
	g.Start()
	g.Options = client.Options{Server: "127.0.0.1", Share: share, DialContext: g.dial}
	return g
}

// Start starts the server after Stop.
func (g *Ganesha) Start() {
	g.t.Helper()
	log := filepath.Join(g.dir, "ganesha.log")
	g.process, g.ended = g.run("ganesha.nfsd", "-F", "-f", filepath.Join(g.dir, "ganesha.conf"), "-L", log, "-p", filepath.Join(g.dir, "pid"))
	for _, address := range []string{"127.0.0.1:2049", "127.0.0.1:20048"} {
		g.wait("nfs-ganesha", address, func() string {
			said, err := os.ReadFile(log)
			return fmt.Sprint(string(said[max(0, len(said)-2000):]), err)
		})
	}
}

// Kill ends the server as a crash would.
func (g *Ganesha) Kill() {
	g.t.Helper()
	if err := g.process.Process.Kill(); err != nil {
		g.t.Fatal(err)
	}
	<-g.ended
}

// run starts a process in the namespace, which ends with the test.
func (g *Ganesha) run(name string, args ...string) (*exec.Cmd, chan struct{}) {
	g.t.Helper()
	cmd := exec.Command(name, args...)
	if err := osthread.Run(func() error {
		if err := osthread.JoinNetns(g.namespace); err != nil {
			return err
		}
		if err := g.privateRun(); err != nil {
			return err
		}
		return cmd.Start()
	}); err != nil {
		g.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends by a signal
		close(ended)
	}()
	g.t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			g.t.Error(err)
		}
		<-ended
	})
	return cmd, ended
}

// privateRun gives the thread's children a /run of the test's: rpcbind's lock and socket there are one for a machine, and
// tests of several packages run at a time.
func (g *Ganesha) privateRun() error {
	run := filepath.Join(g.dir, "run")
	if err := os.MkdirAll(filepath.Join(run, "rpcbind"), 0o777); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("mount", unix.Mount(run, "/run", "", unix.MS_BIND, ""))
}

func (g *Ganesha) wait(what, address string, log func() string) {
	g.t.Helper()
	deadline := time.Now().Add(startPatience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		conn, err := g.dial(g.t.Context(), "tcp", address)
		if err == nil {
			if err := conn.Close(); err != nil {
				g.t.Error(err)
			}
			return
		}
		over := time.Now().After(deadline)
		if g.ended != nil {
			select {
			case <-g.ended:
				over = true
			default:
			}
		}
		if over {
			said := ""
			if log != nil {
				said = log()
			}
			g.t.Fatalf("%s does not serve %s: %v\n%s", what, address, err, said)
		}
	}
}

// dial connects from within the namespace; a connection belongs to where it was made.
func (g *Ganesha) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = osthread.Run(func() (err error) {
		if err := osthread.JoinNetns(g.namespace); err != nil {
			return err
		}
		// Two addresses of a name would be tried by goroutines elsewhere.
		if !strings.HasPrefix(address, "127.0.0.1:") {
			return fmt.Errorf("%s is not in the namespace", address)
		}
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Namespace makes a network namespace with its loopback up, for as long as the test runs, and returns a path to it.
func Namespace(t *testing.T) string {
	t.Helper()
	var ns *os.File
	if err := osthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("/proc/self/fd/%d", ns.Fd())
}
