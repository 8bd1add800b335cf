package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/test/leak"
)

// A tmpfs is nowhere until it is attached, then with all that was written, and read-only but for who cloned it.
func TestTmpfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	leak.Check(t)
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	h := New(nil)
	target := filepath.Join(t.TempDir(), "target")
	must(os.Mkdir(target, 0o700))
	tmpfs, err := h.NewTmpfs("l", "test-source", 1<<20)
	must(err, os.WriteFile(h.FDPath(tmpfs)+"/file", []byte("1"), 0o600))
	if m, err := h.MountAt(target); err != nil || m != nil {
		t.Fatalf("before it is attached there is %+v, %v", m, err)
	}
	must(h.Attach("l", tmpfs, target, unix.MS_RDONLY|unix.MS_NOSUID), tmpfs.Close())
	m, err := h.MountAt(target)
	if err != nil || m == nil || m.FSType != "tmpfs" || m.Source != "test-source" || !m.ReadOnly || m.FSReadOnly {
		t.Fatalf("the mount is %+v, %v", m, err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(err)
	for line := range strings.Lines(string(table)) {
		if !strings.Contains(line, target) {
			continue
		}
		for _, option := range []string{"nosuid", "nodev", "size=1024k", "noswap"} {
			if option == "noswap" && !knowsNoswap(t) {
				continue
			}
			if !strings.Contains(line, option) {
				t.Errorf("the mount has no %s: %s", option, line)
			}
		}
	}
	if err := os.WriteFile(target+"/file", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing at the target: %v", err)
	}
	clone, err := h.CloneWritable(target)
	must(err, os.WriteFile(h.FDPath(clone)+"/file", []byte("2"), 0o600))
	if got, err := os.ReadFile(target + "/file"); err != nil || string(got) != "2" {
		t.Errorf("at the target there is %q, %v", got, err)
	}
	// The clone keeps the files, not the mount; attached, they are back.
	must(h.Unmount("l", target), h.Attach("l", clone, target, unix.MS_RDONLY))
	if got, err := os.ReadFile(target + "/file"); err != nil || string(got) != "2" {
		t.Errorf("at the target there is %q, %v", got, err)
	}
	must(clone.Close(), h.Unmount("l", target))

	failing := New(func(Label) error { return unix.EIO })
	if _, err := failing.NewTmpfs("l", "x", 1); !errors.Is(err, unix.EIO) {
		t.Errorf("a failed step: %v", err)
	}
	if err := failing.Attach("l", clone, target, 0); !errors.Is(err, unix.EIO) {
		t.Errorf("a failed step: %v", err)
	}
	if _, err := h.CloneWritable(target + "/none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a clone of nothing: %v", err)
	}
}

// knowsNoswap asks the kernel by itself.
func knowsNoswap(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.FsconfigSetFlag(fd, "noswap")
	if closeErr := unix.Close(fd); closeErr != nil {
		t.Fatal(closeErr)
	}
	return err == nil
}
