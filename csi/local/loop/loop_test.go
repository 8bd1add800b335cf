package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
	"github.com/orlop-io/orlop/test/leak"
)

// Every mount option of ext4's own that is taken is one that the kernel takes.
func TestMountFlags(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	leak.Check(t)
	h := host.New(nil)
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	vol, err := h.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := New(h)
	err = errors.Join(m.Allocate(t.Context(), vol, MinSize), m.Format(t.Context(), vol, false), os.Mkdir(target, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range append(mountFlags, "") {
		flags := []string{flag}
		if flag == "" {
			flags = nil
		}
		if err := m.Check(volume.Capability{Mode: volume.SingleNodeWriter, MountFlags: flags}); err != nil {
			t.Error(err)
		}
		if err := m.Mount(t.Context(), vol, target, 0, flags); err != nil {
			t.Error(err)
		}
		if err := h.Unmount("test", target); err != nil {
			t.Error(err)
		}
	}
	if err := vol.Close(); err != nil {
		t.Error(err)
	}
}
