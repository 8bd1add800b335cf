package volumetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

func testLostMount(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.up()
	w.write("kept")
	h := host.New(nil)
	w.ok(h.Unmount("test", w.target(1)))
	w.ok(h.Unmount("test", w.staging()))
	w.ok(w.Stage(t.Context(), v.ID, w.staging(), mountWriter))
	w.ok(w.Publish(t.Context(), v.ID, w.publishRequest(1)))
	if got := w.read(1); got != "kept" {
		t.Errorf("the volume shows %q", got)
	}
	w.down(v.ID)
}

func testOccupied(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.create("a")
	w.ok(os.MkdirAll(w.staging(), 0o700))
	w.ok(unix.Mount("none", w.staging(), "tmpfs", 0, ""))
	w.fails(w.Stage(t.Context(), v.ID, w.staging(), mountWriter), volume.ErrIncompatible)
	w.fails(w.Publish(t.Context(), v.ID, w.publishRequest(1)), volume.ErrIncompatible)
	_, err := w.Stats(t.Context(), v.ID, w.staging())
	w.fails(err, volume.ErrNotFound)
	w.ok(unix.Unmount(w.staging(), 0))
	// A volume is not taken for another one.
	other := w.create("b")
	w.ok(w.Stage(t.Context(), v.ID, w.staging(), mountWriter))
	w.fails(w.Stage(t.Context(), other.ID, w.staging(), mountWriter), volume.ErrIncompatible)
	w.down(v.ID)
	w.down(other.ID)
}

func testReadOnly(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.up()
	w.write("kept")
	req := w.publishRequest(2)
	req.ReadOnly = true
	for range 2 {
		w.ok(w.Publish(t.Context(), v.ID, req))
	}
	if err := os.WriteFile(filepath.Join(w.target(2), "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only target: %v", err)
	}
	w.write("changed")
	if got := w.read(2); got != "changed" {
		t.Errorf("the read-only target shows %q", got)
	}
	// The same target cannot be both.
	w.fails(w.Publish(t.Context(), v.ID, w.publishRequest(2)), volume.ErrIncompatible)
	w.ok(w.Unpublish(t.Context(), v.ID, w.target(2)))
	req = w.publishRequest(2)
	req.Capability.Mode = volume.SingleNodeReaderOnly
	w.ok(w.Publish(t.Context(), v.ID, req))
	if err := os.WriteFile(filepath.Join(w.target(2), "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write as a reader: %v", err)
	}
	w.down(v.ID)
}

// Every mount option that is taken is one that the kernel takes, and it shows.
func testMountOptions(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.create("a")
	for option, flag := range map[string]int64{
		"defaults": 0, "noatime": unix.ST_NOATIME, "relatime": unix.ST_RELATIME, "nodiratime": unix.ST_NODIRATIME,
		"strictatime": 0, "nosuid": unix.ST_NOSUID, "nodev": unix.ST_NODEV, "noexec": unix.ST_NOEXEC, "ro": unix.ST_RDONLY,
		"rw,nosuid,noexec": unix.ST_NOSUID | unix.ST_NOEXEC,
	} {
		c := volume.Capability{Mode: volume.SingleNodeWriter, MountFlags: []string{option}}
		w.ok(w.Stage(t.Context(), v.ID, w.staging(), c))
		req := w.publishRequest(1)
		req.Capability = c
		for range 2 {
			w.ok(w.Publish(t.Context(), v.ID, req))
		}
		var st unix.Statfs_t
		w.ok(unix.Statfs(w.target(1), &st))
		if st.Flags&flag != flag {
			t.Errorf("%s: the target has flags %x, want %x", option, st.Flags, flag)
		}
		stats, err := w.Stats(t.Context(), v.ID, w.target(1))
		if err != nil || stats.Abnormal != "" {
			t.Errorf("%s: stats %+v, %v", option, stats, err)
		}
		w.ok(w.Unpublish(t.Context(), v.ID, w.target(1)))
		w.ok(w.Unstage(t.Context(), v.ID, w.staging()))
	}
	w.down(v.ID)
}

func testSingleWriter(t *testing.T, s Subject) {
	w := newWorld(t, s)
	single := volume.Capability{Mode: volume.SingleNodeSingleWriter}
	spec := w.spec("a")
	spec.Capabilities = []volume.Capability{single}
	v, err := w.Create(t.Context(), spec)
	w.ok(err)
	w.ok(w.Stage(t.Context(), v.ID, w.staging(), single))
	first, second := w.publishRequest(1), w.publishRequest(2)
	first.Capability, second.Capability = single, single
	w.ok(w.Publish(t.Context(), v.ID, first))
	// The kubelet mounts what is published in further places, for the same pod.
	further := filepath.Join(w.dir, "further")
	w.ok(os.Mkdir(further, 0o700))
	w.ok(unix.Mount(w.target(1), further, "", unix.MS_BIND, ""))
	w.ok(w.Publish(t.Context(), v.ID, first))
	w.ok(unix.Unmount(further, 0))
	w.fails(w.Publish(t.Context(), v.ID, second), volume.ErrInUse)
	w.ok(w.Unpublish(t.Context(), v.ID, w.target(1)))
	w.ok(w.Publish(t.Context(), v.ID, second))
	w.down(v.ID)
}

func testNotStaged(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.create("a")
	w.fails(w.Publish(t.Context(), v.ID, w.publishRequest(1)), volume.ErrNotStaged)
	w.down(v.ID)
}

// A container's user is seldom root, and not every pod has an fsGroup (csi-driver-nfs #434, #894).
func testAnyUser(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.up()
	// A fresh volume is empty, or a database refuses to begin in it.
	names, err := os.ReadDir(w.target(1))
	w.ok(err)
	if len(names) != 0 {
		t.Errorf("a fresh volume holds %v", names)
	}
	// The volume is handed over open, as to a container, since the directories above it admit root alone.
	dir, err := os.Open(w.target(1))
	w.ok(err)
	cmd := exec.Command("sh", "-c", "echo x > /proc/self/fd/3/mine")
	cmd.ExtraFiles = []*os.File{dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("write as nobody: %v: %s", err, out)
	}
	w.ok(dir.Close())
	// Permissions that a workload gave itself stay when it moves.
	w.ok(os.Chmod(w.target(1), 0o750))
	w.ok(w.Stage(t.Context(), v.ID, w.staging(), mountWriter))
	w.ok(w.Unpublish(t.Context(), v.ID, w.target(1)))
	w.ok(w.Unstage(t.Context(), v.ID, w.staging()))
	w.ok(w.Stage(t.Context(), v.ID, w.staging(), mountWriter))
	w.ok(w.Publish(t.Context(), v.ID, w.publishRequest(1)))
	if info, err := os.Stat(w.target(1)); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("the volume's mode is %v, %v", info.Mode(), err)
	}
	w.down(v.ID)
}

func testSize(t *testing.T, s Subject) {
	if !s.Enforced {
		t.Skip("the size is not enforced, and the volume's context says so")
	}
	w := newWorld(t, s)
	v := w.up()
	f, err := os.Create(filepath.Join(w.target(1), "big"))
	w.ok(err)
	chunk, written := make([]byte, 1<<20), int64(0)
	for err == nil {
		if written > v.Capacity {
			t.Fatalf("%d bytes fit into a volume of %d", written, v.Capacity)
		}
		var n int
		n, err = f.Write(chunk)
		written += int64(n)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full volume says %v", err)
	}
	// What is missing is the file system's own, most of it the journal.
	if written < v.Capacity*6/10 {
		t.Errorf("%d bytes fit into a volume of %d", written, v.Capacity)
	}
	w.ok(errors.Join(f.Sync(), f.Close()))
	w.down(v.ID)
}

func testBlock(t *testing.T, s Subject) {
	w := newWorld(t, s)
	ctx := t.Context()
	block := volume.Capability{Mode: volume.SingleNodeWriter, Block: true}
	spec := w.spec("a")
	spec.Capabilities = []volume.Capability{block}
	v, err := w.Create(ctx, spec)
	if !s.Block {
		w.fails(err, volume.ErrInvalid)
		w.clean()
		return
	}
	w.ok(err)
	req := w.publishRequest(1)
	req.Capability = block
	up := func() {
		t.Helper()
		for range 2 {
			w.ok(w.Stage(ctx, v.ID, w.staging(), block))
		}
		for range 2 {
			w.ok(w.Publish(ctx, v.ID, req))
		}
	}
	up()
	dev, err := os.OpenFile(w.target(1), os.O_RDWR, 0)
	w.ok(err)
	if size, err := dev.Seek(0, 2); err != nil || size != v.Capacity {
		t.Errorf("the device has %d bytes, %v; the volume %d", size, err, v.Capacity)
	}
	_, err = dev.WriteAt([]byte("pattern"), v.Capacity-4096)
	w.ok(errors.Join(err, dev.Sync(), dev.Close()))
	stats, err := w.Stats(ctx, v.ID, w.target(1))
	if err != nil || !stats.Block || stats.TotalBytes != v.Capacity {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	w.fails(w.Delete(ctx, v.ID), volume.ErrInUse)
	readOnly := req
	readOnly.Target, readOnly.ReadOnly = w.target(2), true
	w.fails(w.Publish(ctx, v.ID, readOnly), volume.ErrInvalid)
	// A restart of the service takes the device from nobody.
	w.reopen(nil)
	readBack(t, w.target(1), v.Capacity-4096)
	w.ok(w.Unpublish(ctx, v.ID, w.target(1)))
	w.ok(w.Unstage(ctx, v.ID, w.staging()))
	w.fails(w.Stage(ctx, v.ID, w.staging(), mountWriter), volume.ErrInvalid)
	up()
	readBack(t, w.target(1), v.Capacity-4096)
	w.down(v.ID)
}

func readBack(t *testing.T, device string, offset int64) {
	t.Helper()
	dev, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("pattern"))
	_, err = dev.ReadAt(got, offset)
	if err = errors.Join(err, dev.Close()); err != nil || string(got) != "pattern" {
		t.Errorf("the device holds %q, %v", got, err)
	}
}
