package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskFull fills the disk beneath a running cluster to the last block. Once there is room again everything goes on,
// with all data.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	disk := smallDisk(t, 3<<30)
	c := newCluster(t)
	c.dir = filepath.Join(disk, "o")
	c.up()
	c.importImage("busybox")
	c.apply(volumePod("diary", "64Mi", ""))
	c.waitReady("diary")
	c.exec("diary", "echo kept > /data/file && sync")
	c.kubectl("create", "configmap", "kept", "--from-literal=key=value")

	fill := filepath.Join(disk, "fill")
	fillDisk(t, fill)
	c.refused([]string{"no space"}, "images", "import", filepath.Join(root(), "bin", "images", "busybox.tar"))
	// etcd may end over it, again and again.
	if out, err := c.try("kubectl", "create", "configmap", "unlucky"); err != nil && out == "" {
		t.Errorf("without room kubectl says nothing: %v", err)
	}
	// With a little room the cluster is its old self, and the node sends its pods away.
	info, err := os.Stat(fill)
	if err == nil {
		err = os.Truncate(fill, info.Size()-64<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	const pressure = `.items[0].status.conditions[?(@.type=="DiskPressure")].status`
	c.eventuallyIs("node", pressure, "True")
	c.eventually("the pod is evicted", func() error {
		if phase := c.get("pod/diary", ".status.phase"); phase == "Running" {
			return errors.New("it runs")
		}
		return nil
	})
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}

	c.eventuallyIs("configmap/kept", ".data.key", "value")
	c.eventuallyIs("node", pressure, "False")
	// The kubelet may have removed the image for want of room.
	c.importImage("busybox")
	c.kubectl("delete", "pod", "diary")
	c.apply(user("reader", "diary") + claim("new", "16Mi", "") + user("new", "new"))
	c.waitReady("reader")
	if got := c.exec("reader", "cat /data/file"); got != "kept\n" {
		t.Errorf("the volume holds %q", got)
	}
	c.waitReady("new")
}

// smallDisk mounts an ext4 file system of that many bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	must(t, "mkfs.ext4", "-q", "-F", image)
	must(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { must(t, "umount", dir) })
	return dir
}

// fillDisk makes a file that takes all the room its disk has, what is kept for root included.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	offset := int64(0)
	for chunk := int64(64 << 20); chunk >= 4<<10; {
		switch err := unix.Fallocate(int(f.Fd()), 0, offset, chunk); {
		case err == nil:
			offset += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		case !errors.Is(err, unix.EINTR):
			t.Error(err)
			chunk = 0
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
