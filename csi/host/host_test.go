package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/test/leak"
)

func root(t *testing.T, h *Host) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := h.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, dir
}

// No name and no link leads out of a root.
func TestRootIsNotLeft(t *testing.T) {
	r, dir := root(t, New(nil))
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link/outside", "../outside", "/etc/hostname", outside} {
		if _, err := r.ReadFile(name); err == nil {
			t.Errorf("%s was read", name)
		}
		if err := r.WriteFile("l", name, []byte("x"), 0o600); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	// A link is removed, not what it leads to.
	if err := r.RemoveAll(t.Context(), "l", "link"); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "kept" {
		t.Errorf("what the link led to: %q, %v", data, err)
	}
}

// A file is written as a whole or not at all, wherever the writing stops.
func TestWriteFileIsAtomic(t *testing.T) {
	for _, stop := range []Label{"w.write", "w.rename", "w.sync", ""} {
		r, _ := root(t, New(func(l Label) error {
			if l == stop {
				return unix.EIO
			}
			return nil
		}))
		if err := (&Root{h: New(nil), root: r.root}).WriteFile("w", "f", []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := r.WriteFile("w", "f", []byte("new"), 0o600)
		if (err == nil) != (stop == "") {
			t.Errorf("stopped at %q: %v", stop, err)
		}
		data, err := r.ReadFile("f")
		if err != nil || string(data) != "old" && string(data) != "new" || stop == "" && string(data) != "new" {
			t.Errorf("stopped at %q there is %q, %v", stop, data, err)
		}
	}
}

func TestLockNamesHolder(t *testing.T) {
	r, _ := root(t, New(nil))
	first, err := r.Lock(t.Context(), "lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lock(t.Context(), "lock"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := r.Lock(t.Context(), "lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenUnix(t *testing.T) {
	h := New(nil)
	dir, err := os.MkdirTemp("/tmp", "orlop-host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "sub", "s")
	l, err := h.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := h.ListenUnix(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket in use: %v", err)
	}
	// What a killed process leaves: a socket that nobody listens on.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = h.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, "relative", filepath.Join(dir, strings.Repeat("x", 100))} {
		if l, err := h.ListenUnix(bad); err == nil {
			t.Errorf("listens on %s, close says %v", bad, l.Close())
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "kept" {
		t.Errorf("the file was touched: %q, %v", data, err)
	}
}

func TestRun(t *testing.T) {
	var tool *ToolError
	err := run(t.Context(), nil, "sh", "dash", "-c", "echo $LC_ALL wrong >&2; exit 3")
	if !errors.As(err, &tool) || tool.ExitCode != 3 || tool.Stderr != "C wrong" {
		t.Errorf("a failing tool: %v", err)
	}
	err = run(t.Context(), nil, "no-such-tool", "some-package")
	if !errors.Is(err, ErrToolMissing) || !strings.Contains(err.Error(), "some-package") {
		t.Errorf("a missing tool: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- run(ctx, []*os.File{w}, "sh", "dash", "-c", "echo x >&3; exec cat /dev/zero >/dev/null")
	}()
	if _, err := r.Read(make([]byte, 1)); err != nil { // the tool runs
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled tool: %v", err)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Error(err)
	}
}

// An image keeps all its blocks through mkfs, mounting and a trim; its loop device vanishes with its last user.
func TestLoopKeepsReservation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a loop device")
	}
	leak.Check(t)
	h := New(nil)
	r, dir := root(t, h)
	const size = 64 << 20
	image, err := r.Create("l", "image", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	blocks := func() int64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Fstat(int(image.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	target := filepath.Join(dir, "mnt")
	err = errors.Join(h.Overwrite("l", image), h.Reserve("l", image, size), h.MakeExt4(t.Context(), "l", image),
		os.Mkdir(target, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	dev, err := h.AttachLoop("l", image, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.MountFS("l", dev.Name(), target, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	mnt, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	const fitrim = 0xc0185879 // FITRIM of linux/fs.h
	trim := struct{ start, length, min uint64 }{length: 1 << 62}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, mnt.Fd(), fitrim, uintptr(unsafe.Pointer(&trim)))
	if errno == 0 && blocks() < size {
		t.Error("a trim gave reserved blocks back")
	}
	if err := mnt.Close(); err != nil {
		t.Error(err)
	}
	info, err := image.Stat()
	if err != nil {
		t.Fatal(err)
	}
	devices, err := h.LoopDevicesOf("/image", info)
	if err != nil || len(devices) != 1 || devices[0].Path != dev.Name() {
		t.Errorf("devices of the image: %v, %v", devices, err)
	}
	m, err := h.MountAt(target)
	if err != nil || m == nil || m.Major != LoopMajor || m.Minor != devices[0].Minor || m.ReadOnly {
		t.Errorf("mount: %+v, %v", m, err)
	}
	for range 2 {
		if err := h.Unmount("l", target); err != nil {
			t.Error(err)
		}
	}
	if blocks() < size {
		t.Errorf("the image has %d bytes on disk, of %d", blocks(), size)
	}
	if err := image.Close(); err != nil {
		t.Error(err)
	}
}

func TestBindOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	leak.Check(t)
	h := New(nil)
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.MkdirAll(target, 0o700); err != nil {
		t.Fatal(err)
	}
	src, err := h.OpenPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	opts := MountOptions(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	err = errors.Join(h.Bind("l", src, target, opts), src.Close())
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []int64{unix.ST_RDONLY, unix.ST_NOSUID, unix.ST_NODEV, unix.ST_NOEXEC, unix.ST_NOATIME} {
		if st.Flags&flag == 0 {
			t.Errorf("flag %x is not set", flag)
		}
	}
	if err := h.Unmount("l", target); err != nil {
		t.Error(err)
	}
}

// A fault stops exactly the call of its label.
func TestFault(t *testing.T) {
	var seen []Label
	h := New(func(l Label) error {
		seen = append(seen, l)
		if l == "two" {
			return fs.ErrPermission
		}
		return nil
	})
	dir := t.TempDir()
	for _, l := range []Label{"one", "two", "three"} {
		err := h.MakeDir(l, filepath.Join(dir, string(l)))
		if errors.Is(err, fs.ErrPermission) != (l == "two") {
			t.Errorf("%s: %v", l, err)
		}
	}
	if !slices.Equal(seen, []Label{"one", "two", "three"}) {
		t.Errorf("labels %v", seen)
	}
	if _, err := os.Stat(filepath.Join(dir, "two")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the faulted call was made: %v", err)
	}
}
