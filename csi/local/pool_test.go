package local_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/local/dir"
	"github.com/orlop-io/orlop/csi/local/loop"
	"github.com/orlop-io/orlop/csi/volume"
	"github.com/orlop-io/orlop/test/leak"
)

func open(t *testing.T, c local.Config) *local.Pool {
	t.Helper()
	pool, err := local.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// refused checks that the pool does not open and that the error says each of the words.
func refused(t *testing.T, c local.Config, words ...string) {
	t.Helper()
	pool, err := local.Open(t.Context(), c)
	if err == nil {
		t.Errorf("the pool was opened, close says %v", pool.Close())
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		words         []string
	}{
		"another cluster": {"pool.json", `{"version":1,"clusterID":"theirs"}`, []string{"theirs", clusterID, "choose"}},
		"a newer format":  {"pool.json", `{"version":2,"clusterID":"test-cluster"}`, []string{"version 2", "newer"}},
		"damage":          {"pool.json", `{"versi`, []string{"damaged"}},
		"no version":      {"pool.json", `{}`, []string{"damaged"}},
		"something else":  {"photos/cat.jpg", "meow", []string{"photos", "empty directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			write(t, filepath.Join(path, c.file), c.content)
			refused(t, config(path, nil), append(c.words, path)...)
			if data, err := os.ReadFile(filepath.Join(path, c.file)); err != nil || string(data) != c.content {
				t.Errorf("the refused directory was changed: %q, %v", data, err)
			}
		})
	}
	refused(t, config("relative", nil), "absolute")
	c := config(t.TempDir(), nil)
	c.ClusterID = ""
	refused(t, c, "cluster")
}

func TestReadyTellsPoolIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	pool := open(t, config(path, nil))
	if err := pool.Ready(); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := pool.Ready(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a pool that is gone: %v", err)
	}
}

func TestOpenTwice(t *testing.T) {
	c := config(t.TempDir(), nil)
	open(t, c)
	refused(t, c, "another orlop-storage", "process")
}

// A file system of its own is a usual pool, and mkfs leaves lost+found in it.
func TestOpenOnFreshFileSystem(t *testing.T) {
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, config(path, nil))
}

// A process killed while it makes the pool leaves what the next one takes up.
func TestOpenAfterCrash(t *testing.T) {
	for _, label := range []host.Label{
		"open.meta.write", "open.meta.rename", "open.meta.sync", "open.volumes", "open.trash",
	} {
		t.Run(string(label), func(t *testing.T) {
			path := t.TempDir()
			refused(t, config(path, func(l host.Label) error {
				if l == label {
					return unix.EIO
				}
				return nil
			}), "input/output error")
			open(t, config(path, nil))
		})
	}
}

// What is damaged, or no volume at all, is left alone and does not keep the rest from working.
func TestForeignThingsInPool(t *testing.T) {
	path := t.TempDir()
	pool, err := local.Open(t.Context(), config(path, nil))
	if err != nil {
		t.Fatal(err)
	}
	spec := volume.Spec{
		Name: "a", Capabilities: []volume.Capability{{Mode: volume.SingleNodeWriter}},
		Parameters: map[string]string{local.ParamBackend: "dir"},
	}
	v, err := pool.Create(t.Context(), spec)
	if err := errors.Join(err, pool.Close()); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(path, "volumes", "stray", "file")
	write(t, stray, "kept")
	broken := filepath.Join(path, "volumes", volume.NewID(volume.KindDir, "b").Key(), "record.json")
	write(t, broken, "{")
	swapped := filepath.Join(path, "volumes", volume.NewID(volume.KindDir, "c").Key(), "record.json")
	record, err := os.ReadFile(filepath.Join(path, "volumes", v.ID.Key(), "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, swapped, string(record))

	pool = open(t, config(path, nil))
	if all, err := pool.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != v.ID {
		t.Errorf("list: %v, %v", all, err)
	}
	for _, name := range []string{"b", "c"} {
		spec.Name = name
		if _, err := pool.Create(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("create over a damaged record: %v", err)
		}
		if err := pool.Delete(t.Context(), volume.NewID(volume.KindDir, name)); err == nil {
			t.Error("a volume with a damaged record was deleted")
		}
	}
	for _, file := range []string{stray, broken, swapped} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

// An unknown backend or parameter is answered with what is allowed; what provisioners add is taken.
func TestParameters(t *testing.T) {
	pool := open(t, config(t.TempDir(), nil))
	spec := volume.Spec{Name: "a", Capabilities: []volume.Capability{{Mode: volume.SingleNodeWriter}}}
	for key, value := range map[string]string{
		"backend": "zfs", "csi.storage.k8s.io/fstype": "ext4", "onDelete": "keep", "": "",
	} {
		spec.Parameters = map[string]string{key: value}
		_, err := pool.Create(t.Context(), spec)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "loop, dir") {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
	spec.Parameters = map[string]string{
		"backend": "dir", "csi.storage.k8s.io/pvc/name": "p", "csi.storage.k8s.io/pvc/namespace": "n",
		"csi.storage.k8s.io/pv/name": "v",
	}
	v, err := pool.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if v.Context[dir.EnforcementKey] != dir.EnforcementNone {
		t.Errorf("the context does not say that the size is not enforced: %v", v.Context)
	}
	// The same name with another backend is another volume, which cannot be.
	spec.Parameters = map[string]string{"backend": "loop"}
	if _, err := pool.Create(t.Context(), spec); !errors.Is(err, volume.ErrIncompatible) {
		t.Errorf("another backend: %v", err)
	}
}

// The size of a loop volume is taken from the pool when it is made. A pool that is full, and then filled by others to its
// last block, leaves the volumes that exist whole: they can be written to their size without an I/O error.
func TestFullPool(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a file system")
	}
	for fstype, size := range map[string]int64{"ext4": 192 << 20, "xfs": 320 << 20, "btrfs": 256 << 20} {
		t.Run(fstype, func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + fstype); err != nil {
				t.Skipf("needs mkfs.%s", fstype)
			}
			if fstype == "btrfs" && os.Getenv("SOAK") == "" {
				t.Skip("takes 10 s, since btrfs is slow to admit that it is full: set SOAK=1")
			}
			testFullPool(t, fstype, size)
		})
	}
}

func testFullPool(t *testing.T, fstype string, size int64) {
	leak.Check(t)
	base := t.TempDir()
	small := smallFS(t, base, fstype, size)
	h := host.New(nil)
	pool, err := local.Open(t.Context(), local.Config{
		Path: filepath.Join(small, "pool"), ClusterID: clusterID, Host: h, Media: []local.Medium{loop.New(h)},
	})
	if err != nil {
		t.Fatal(err)
	}
	spec := func(name string) volume.Spec {
		return volume.Spec{
			Name: name, Size: volume.SizeRange{Required: 32 << 20},
			Capabilities: []volume.Capability{{Mode: volume.SingleNodeWriter}},
		}
	}
	var made []volume.Volume
	for {
		v, err := pool.Create(t.Context(), spec(string(rune('a'+len(made)))))
		if errors.Is(err, volume.ErrExhausted) {
			if !strings.Contains(err.Error(), "32Mi") {
				t.Errorf("the error does not name the size: %v", err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, v)
	}
	if len(made) < 2 {
		t.Fatalf("only %d volumes fit", len(made))
	}
	staging := filepath.Join(base, "staging")
	if err := pool.Stage(t.Context(), made[0].ID, staging, volume.Capability{Mode: volume.SingleNodeWriter}); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(small, "filler"))
	// Staged only now, on a pool that has not a block left.
	fill(t, filepath.Join(staging, "data"))
	if err := exec.Command("sync", "-f", staging).Run(); err != nil {
		t.Errorf("sync of a full volume in a full pool: %v", err)
	}
	if err := os.Remove(filepath.Join(small, "filler")); err != nil {
		t.Fatal(err)
	}
	if err := pool.Unstage(t.Context(), made[0].ID, staging); err != nil {
		t.Error(err)
	}
	// Room that is given back can be had again, but for what the file system has taken for itself meanwhile.
	if err := pool.Delete(t.Context(), made[1].ID); err != nil {
		t.Fatal(err)
	}
	again := spec("again")
	again.Size.Required = 24 << 20
	if _, err := pool.Create(t.Context(), again); err != nil {
		t.Errorf("create after delete: %v", err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// smallFS mounts a file system of that type and size until the test ends.
func smallFS(t *testing.T, base, fstype string, size int64) string {
	t.Helper()
	h := host.New(nil)
	image, err := os.Create(filepath.Join(base, "small"))
	if err != nil {
		t.Fatal(err)
	}
	mount := filepath.Join(base, "mnt")
	err = errors.Join(h.Reserve("test", image, size), os.Mkdir(mount, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs."+fstype, "-q", image.Name()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dev, err := h.AttachLoop("test", image, true)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(h.MountFS("test", dev.Name(), mount, fstype, 0, ""), dev.Close(), image.Close())
	t.Cleanup(func() {
		if err := h.Unmount("test", mount); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return mount
}

// fill writes a file until its file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); err == nil; {
		if _, err = f.Write(chunk); err != nil && len(chunk) > 1<<12 {
			chunk, err = chunk[:len(chunk)/2], nil
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filling %s: %v", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Errorf("filling %s: %v", path, err)
	}
}

// A file system that ext4 made read-only after an error is reported, and so is a single-purpose read-only mount not.
func TestStatsTellReadOnlyFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	leak.Check(t)
	base := t.TempDir()
	pool := open(t, config(filepath.Join(base, "pool"), nil))
	writer := volume.Capability{Mode: volume.SingleNodeWriter}
	v, err := pool.Create(t.Context(), volume.Spec{
		Name: "a", Size: volume.SizeRange{Required: 16 << 20}, Capabilities: []volume.Capability{writer},
	})
	if err != nil {
		t.Fatal(err)
	}
	staging := filepath.Join(base, "staging")
	target := filepath.Join(base, "target")
	err = errors.Join(pool.Stage(t.Context(), v.ID, staging, writer), pool.Publish(t.Context(), v.ID, volume.PublishRequest{
		Staging: staging, Target: target, Capability: writer, ReadOnly: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := pool.Stats(t.Context(), v.ID, target); err != nil || s.Abnormal != "" {
		t.Errorf("a read-only mount: %+v, %v", s, err)
	}
	if err := unix.Mount("", staging, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if s, err := pool.Stats(t.Context(), v.ID, staging); err != nil || s.Abnormal == "" {
		t.Errorf("a read-only file system: %+v, %v", s, err)
	}
	err = errors.Join(pool.Unpublish(t.Context(), v.ID, target), pool.Unstage(t.Context(), v.ID, staging),
		pool.Delete(t.Context(), v.ID))
	if err != nil {
		t.Error(err)
	}
}
