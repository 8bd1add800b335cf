package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/test/leak"
)

const password = `it's a "pass\word`

// rootfs builds the MariaDB image, or takes the one that the demo uses, and unpacks it.
func rootfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a root directory of its own needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("building the image takes ten seconds")
	}
	image := "../../bin/images/mariadb.tar"
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-o", image}, io.Discard); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := archive.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	for entries := tar.NewReader(archive); ; {
		hdr, err := entries.Next()
		if err != nil {
			t.Fatalf("no layer in %s: %v", image, err)
		}
		if hdr.Size > 1<<20 { // the layer, beside JSON
			unpack := exec.Command("tar", "-x", "-p", "-C", dir)
			unpack.Stdin = entries
			if out, err := unpack.CombinedOutput(); err != nil {
				t.Fatalf("unpack: %v\n%s", err, out)
			}
			// The one device that a container has and the entrypoint uses.
			if err := os.Mkdir(dir+"/dev", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mknod(dir+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
}

// container is a run of the image's entrypoint as PID 1, in the image's root directory.
type container struct {
	*exec.Cmd
	root   string
	output bytes.Buffer
}

func start(t *testing.T, root string, env ...string) *container {
	t.Helper()
	c := &container{Cmd: exec.Command("/entrypoint.sh", "mysqld", "--skip-networking"), root: root}
	c.Env = append([]string{searchPath}, env...)
	c.Dir = "/"
	c.Stdout, c.Stderr = &c.output, &c.output
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		if t.Failed() {
			t.Logf("a container said:\n%s", &c.output)
		}
	})
	return c
}

// sql runs statements as root with the password.
func (c *container) sql(statements string) (string, error) {
	cmd := exec.Command("/usr/bin/mysql", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-u", "root", "-N", "-B",
		"-e", statements)
	cmd.Env = []string{searchPath, "MYSQL_PWD=" + password}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// serve waits until the server answers.
func (c *container) serve(t *testing.T) {
	t.Helper()
	eventually(t, "the server answers", func() bool {
		_, err := c.sql("SELECT 1")
		return err == nil
	})
}

// end signals PID 1 and returns its exit status, -1 when it was killed.
func (c *container) end(t *testing.T, sig syscall.Signal) int {
	t.Helper()
	if err := c.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// settingUp waits until the set-up of the data directory is under way.
func (c *container) settingUp(t *testing.T) {
	t.Helper()
	eventually(t, "the set-up has written tables", func() bool {
		found, err := filepath.Glob(c.root + "/var/lib/mysql/mysql/*.frm")
		if err != nil {
			t.Fatal(err)
		}
		return len(found) > 0
	})
}

func TestMariaDB(t *testing.T) {
	leak.Check(t)
	root := rootfs(t)
	data := filepath.Join(root, "var/lib/mysql")
	if err := os.Mkdir(filepath.Join(data, "lost+found"), 0o700); err != nil { // as on an ext4 volume
		t.Fatal(err)
	}
	env := []string{"MYSQL_ROOT_PASSWORD=" + password, "MYSQL_DATABASE=my`shop"}

	c := start(t, root)
	if err := c.Wait(); err == nil || !strings.Contains(c.output.String(), "set MYSQL_ROOT_PASSWORD") {
		t.Errorf("without a password: %v", err)
	}

	// Cut short in two ways: each time the next start does it again.
	c = start(t, root, env...)
	c.settingUp(t)
	c.end(t, syscall.SIGKILL)
	c = start(t, root, env...)
	eventually(t, "the first set-up's remains are gone", func() bool {
		found, err := filepath.Glob(data + "/mysql/*.frm")
		return err == nil && len(found) == 0
	})
	c.settingUp(t)
	if code := c.end(t, syscall.SIGTERM); code != 143 {
		t.Errorf("SIGTERM in the set-up: exit status %d, want 143", code)
	}

	c = start(t, root, env...)
	c.serve(t)
	if !strings.Contains(c.output.String(), "cut short: doing it again") {
		t.Error("nothing is said about the set-up that was cut short")
	}
	accounts, err := c.sql("SELECT DISTINCT Host FROM mysql.user WHERE User = 'root' ORDER BY 1")
	if err != nil || accounts != "%\nlocalhost" {
		t.Errorf("root may log in from %q, %v; want %%, localhost", accounts, err)
	}
	if out, err := c.sql("CREATE TABLE `my``shop`.t (i INT); INSERT INTO `my``shop`.t VALUES (42)"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.Process.Pid), "environ"))
	if err != nil || bytes.Contains(environ, []byte("PASSWORD")) {
		t.Errorf("the server's environment holds the password, or %v", err)
	}
	if code := c.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit status %d, want 0", code)
	}

	c = start(t, root) // the volume has the password
	c.serve(t)
	if got, err := c.sql("SELECT i FROM `my``shop`.t"); err != nil || got != "42" {
		t.Errorf("after a restart: %q, %v; want 42", got, err)
	}
	if code := c.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit status %d, want 0", code)
	}
	if _, err := os.Stat(filepath.Join(data, "lost+found")); err != nil {
		t.Error(err)
	}
}

// The password from a file, for which nothing else must be set as well.
func TestMariaDBPasswordFile(t *testing.T) {
	leak.Check(t)
	root := rootfs(t)
	if err := os.WriteFile(filepath.Join(root, "password"), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, root, "MARIADB_ROOT_PASSWORD_FILE=/password", "MARIADB_ROOT_PASSWORD=x")
	if err := c.Wait(); err == nil || !strings.Contains(c.output.String(), "set one of them") {
		t.Errorf("with both: %v", err)
	}
	c = start(t, root, "MARIADB_ROOT_PASSWORD_FILE=/none")
	if err := c.Wait(); err == nil || !strings.Contains(c.output.String(), "cannot be read") {
		t.Errorf("with a missing file: %v", err)
	}
	c = start(t, root, "MARIADB_ROOT_PASSWORD_FILE=/password")
	c.serve(t)
	if code := c.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit status %d, want 0", code)
	}
}
