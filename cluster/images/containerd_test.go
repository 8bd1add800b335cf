package images

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/orlop-io/orlop/test/leak"
)

// node is a containerd of the test's own, configured as the bundled cluster's, with directories of its own.
type node struct {
	socket, pause, log string
	cmd                *exec.Cmd
	dir                string
	bin                string
}

// startNode starts containerd from bin/ and stops it at the end of the test.
func startNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "containerd")); err != nil {
		t.Skipf("%v: build it with cluster/tools/build.sh bin", err)
	}
	// Not t.TempDir: shim sockets under the state directory need a short path.
	dir, err := os.MkdirTemp("", "ct")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	leak.Check(t, leak.Under(dir))
	n := &node{socket: dir + "/c.sock", pause: bin + "/pause", log: dir + "/log", dir: dir, bin: bin}
	n.configure(t)
	n.start(t)
	t.Cleanup(func() { n.stop(t) })
	return n
}

func (n *node) configure(t *testing.T) {
	t.Helper()
	tmpl, err := template.ParseFiles("../containerd.toml.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := PauseRef(n.pause)
	if err != nil {
		t.Fatal(err)
	}
	var config bytes.Buffer
	err = tmpl.Option("missingkey=error").Execute(&config, map[string]any{
		"Root": n.dir + "/root", "State": n.dir + "/state", "Socket": n.socket, "PauseImage": ref,
		"BinDir": n.bin, "CNIBinDir": n.bin + "/cni", "CNIConfDir": n.dir + "/cni", "CgroupPath": "",
		"RestrictOOM": true, "SystemdCgroup": false, "RegistryDir": n.dir + "/certs.d",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.dir+"/config.toml", config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *node) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(n.bin+"/containerd", "--config", n.dir+"/config.toml")
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := List(ctx, n.socket)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			text, readErr := os.ReadFile(n.log)
			t.Fatalf("containerd does not start: %v\n%s%v", err, text, readErr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("containerd: %v", err)
	}
	if t.Failed() {
		if text, err := os.ReadFile(n.log); err == nil {
			t.Logf("containerd's log:\n%s", text)
		}
	}
}

// testCgroup returns a cgroup parent for the pods of a test, removed at its end from every hierarchy.
func testCgroup(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("orlop-images-test-%d", os.Getpid())
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/" + name} {
			dirs, err := filepath.Glob(pattern)
			if err != nil {
				t.Error(err)
			}
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil {
					t.Errorf("a cgroup is left: %v", err)
				}
			}
		}
	})
	return "/" + name
}
