package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUpRefused starts clusters that cannot be: each refusal names what is wrong, why and what to do, and nothing is left
// running.
func TestUpRefused(t *testing.T) {
	refuse := func(name string, words []string, args []string, prepare func(*testCluster)) {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			prepare(c)
			c.refused(words, args...)
			c.in = nil
			if s := c.status(); s.PID != 0 || len(s.Components) > 0 {
				t.Errorf("after a refusal there runs %+v", s)
			}
		})
	}
	up := []string{"up", "--netns"}

	refuse("FileInTheWay", []string{"data directory", "not a directory", "--data-dir"}, up, func(c *testCluster) {
		const content = "precious"
		if err := os.WriteFile(c.dir, []byte(content), 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() {
			sameFile(c, c.dir, content)
			if err := os.Remove(c.dir); err != nil {
				c.t.Error(err)
			}
		})
	})
	refuse("ReadOnly", []string{"data directory", "read-only file system", "--data-dir"}, up, func(c *testCluster) {
		c.onTmpfs("ro")
	})
	refuse("FullDisk", []string{"data directory", "63 MiB free", "1.0 GiB are needed", "make room"}, up,
		func(c *testCluster) {
			c.onTmpfs("size=64m")
			if err := os.WriteFile(filepath.Join(filepath.Dir(c.dir), "fill"), make([]byte, 64<<10), 0o600); err != nil {
				c.t.Fatal(err)
			}
		})
	refuse("LongPath", []string{"data directory", "Unix socket", "107", "shorter"}, up, func(c *testCluster) {
		c.dir = filepath.Join(c.dir, strings.Repeat("long", 30))
	})
	refuse("NoTool", []string{"mkfs.ext4", "not installed", "apt-get install e2fsprogs"}, up, func(c *testCluster) {
		c.in = hide("mkfs.ext4")
	})
	refuse("NoProxy", []string{"nft", "iptables", "apt-get install nftables"}, up, func(c *testCluster) {
		c.in = hide("nft", "iptables")
	})
	refuse("NotRoot", []string{"needs root", "sudo"}, up, func(c *testCluster) { c.in = nobody(c.t) })
	refuse("UnknownFlag", []string{"unknown flag", "--nets"}, []string{"up", "--nets"}, func(*testCluster) {})
	refuse("UnknownArgument", []string{"unknown command", "now"}, []string{"up", "now"}, func(*testCluster) {})
	refuse("NoSuchCommand", []string{"unknown command", "start"}, []string{"start"}, func(*testCluster) {})
}

// onTmpfs puts the data directory on a file system of its own, with mount options.
func (c *testCluster) onTmpfs(options string) {
	c.t.Helper()
	dir := c.t.TempDir()
	c.dir = filepath.Join(dir, "o")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			c.t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	// Not with the mount itself: the data directory is to be there when it turns read-only.
	var flags uintptr = unix.MS_REMOUNT
	if options == "ro" {
		flags, options = flags|unix.MS_RDONLY, ""
	}
	if err := unix.Mount("", dir, "", flags, options); err != nil {
		c.t.Fatal(err)
	}
}

// hide runs a program in a mount namespace in which other programs are not there.
func hide(programs ...string) []string {
	script := ""
	for _, p := range programs {
		script += fmt.Sprintf(`for d in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
			if [ -f $d/%s ]; then mount --bind /dev/null $d/%[1]s; fi; done; `, p)
	}
	return []string{"unshare", "--mount", "sh", "-ec", script + `exec "$@"`, "sh"}
}

// nobody runs a program without root, if the program can be reached so.
func nobody(t *testing.T) []string {
	t.Helper()
	line := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	if out, err := exec.Command(line[0], append(line[1:], "test", "-x", filepath.Join(root(), "bin", "orlop"))...).
		CombinedOutput(); err != nil {
		t.Skipf("skipped: the repository is not open to other users: %v %s", err, out)
	}
	return line
}

// TestNoCluster asks for things of a cluster that there is not.
func TestNoCluster(t *testing.T) {
	c := newCluster(t)
	if out := c.orlop("down"); !strings.Contains(out, "There is no cluster in "+c.dir) {
		t.Errorf("orlop down says:\n%s", out)
	}
	c.refused([]string{"There is no cluster in " + c.dir}, "status")
	c.refused([]string{c.dir, "no cluster was started"}, "logs", "etcd")
	c.refused([]string{"kubeconfig does not exist", "orlop up"}, "kubectl", "get", "nodes")
	c.refused([]string{c.dir, "is not running", "orlop up"}, "images", "import", "some.tar")
	c.refused([]string{`"yaml" is unknown`, "json"}, "status", "-o", "yaml")
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("asking made %s: %v", c.dir, err)
	}
}

// TestRefusedLater gives a cluster bad input in the course of its life. Its data outlives all of it.
func TestRefusedLater(t *testing.T) {
	c := start(t)
	c.kubectl("create", "configmap", "kept", "--from-literal=key=value")

	garbage := filepath.Join(t.TempDir(), "garbage.tar")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no archive", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.refused([]string{garbage, "archive"}, "images", "import", garbage)
	c.refused([]string{"/nonexistent.tar", "no such file"}, "images", "import", "/nonexistent.tar")
	c.refused([]string{`no component "kubelt"`, "kubelet"}, "logs", "kubelt")
	c.refused([]string{"--netns=true", "--data-dir"}, "up", "--netns=false")

	c.orlop("down")
	c.refused([]string{"--netns=true", "--data-dir"}, "up", "--netns=false")
	c.refused([]string{"--plain=false", "--data-dir"}, "up", "--plain")

	state := filepath.Join(c.dir, "cluster.json")
	c.replaced(state, []byte(`{"version": 1, "id": "0`), func() {
		for _, command := range []string{"up", "down"} {
			c.refused([]string{state, "damaged"}, command)
		}
	})
	c.replaced(state, []byte(`{"version": 99, "id": "00000000", "node": "n", "netns": true}`), func() {
		for _, command := range []string{"up", "down"} {
			c.refused([]string{state, "format 99", "newer orlop"}, command)
		}
	})
	db := filepath.Join(c.dir, "etcd", "member", "snap", "db")
	c.replaced(db, []byte(strings.Repeat("no database ", 10000)), func() {
		out := c.refused([]string{"did not start", "etcd", "last lines of etcd", "etcd.log"}, "up")
		if strings.Contains(out, "goroutine") {
			t.Errorf("the reason is buried in a stack:\n%s", out)
		}
		if s := c.status(); s.PID != 0 {
			t.Errorf("after a failed start there runs %+v", s)
		}
	})
	c.up()
	if got := c.get("configmap/kept", ".data.key"); got != "value" {
		t.Errorf("after all that the ConfigMap holds %q", got)
	}
}

// replaced runs fn with a file that has other content.
func (c *testCluster) replaced(path string, content []byte, fn func()) {
	c.t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		c.t.Fatal(err)
	}
	aside := path + ".aside"
	if err := os.Rename(path, aside); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, info.Mode().Perm()); err != nil {
		c.t.Fatal(err)
	}
	fn()
	if err := os.Rename(aside, path); err != nil {
		c.t.Fatal(err)
	}
}
