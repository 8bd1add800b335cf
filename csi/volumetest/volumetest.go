// Package volumetest is the conformance suite that every volume.Service must pass: on real mounts, real loop devices and
// real files, with a crash and an error at every step that the service labels.
//
// It says nothing about how volumes are kept. What it cannot see, it asks the Subject for.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/volume"
)

// Size of the volumes that the suite makes, in bytes.
const Size = 32 << 20

// Subject is what is tested.
type Subject struct {
	// Open opens the service whose state is kept beneath dir, as a process that starts does: with what an earlier one,
	// perhaps killed, has left there. All its system calls pass fault.
	Open func(ctx context.Context, dir string, fault host.Fault) (Instance, error)
	// Leftovers lists what is kept beneath dir for volumes, complete or not. It is empty when there are no volumes.
	Leftovers func(dir string) ([]string, error)
	// LeakCheck fails t when it leaves mounts, loop devices or processes of dir behind; it is called first in a test.
	LeakCheck func(t testing.TB, dir string)
	// Parameters of the StorageClass.
	Parameters map[string]string
	// Enforced says that a volume cannot grow past its size, Block that it can be a block device.
	Enforced, Block bool
}

// Instance is an open service.
type Instance struct {
	volume.Service
	// Settle finishes what the service does in the background.
	Settle func(ctx context.Context) error
	// Close ends the use of the service and leaves its volumes as they are.
	Close func() error
}

// Run runs the suite. Without root it skips what it cannot do, which is all of it.
func Run(t *testing.T, s Subject) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes mounts and loop devices")
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"lifecycle", testLifecycle},
		{"create/incompatible", testIncompatible},
		{"create/refused", testRefused},
		{"create/exhausted", testExhausted},
		{"create/cancelled", testCancelled},
		{"create/concurrent", testConcurrent},
		{"delete/in use", testDeleteInUse},
		{"delete/unknown", testDeleteUnknown},
		{"stage/lost mount", testLostMount},
		{"stage/occupied", testOccupied},
		{"publish/read-only", testReadOnly},
		{"publish/mount options", testMountOptions},
		{"publish/single writer", testSingleWriter},
		{"publish/not staged", testNotStaged},
		{"publish/any user writes", testAnyUser},
		{"size", testSize},
		{"block", testBlock},
		{"crash", testCrash},
		{"error", testError},
		{"full", testFull},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

// world is one service with its directories.
type world struct {
	t *testing.T
	s Subject
	Instance
	dir string
}

// newWorld opens a service on an empty directory. What a failing test leaves is removed, after it is reported.
func newWorld(t *testing.T, s Subject) *world {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { sweep(t, dir) })
	s.LeakCheck(t, dir)
	w := &world{t: t, s: s, dir: dir}
	w.open(nil)
	t.Cleanup(w.close)
	return w
}

// open opens the service; the one that was open must be closed.
func (w *world) open(fault host.Fault) {
	w.t.Helper()
	inst, err := w.s.Open(w.t.Context(), filepath.Join(w.dir, "state"), fault)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.Instance = inst
}

func (w *world) close() {
	w.t.Helper()
	if w.Close == nil {
		return
	}
	if err := w.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.Instance = Instance{}
}

// reopen opens the service anew, as after a restart.
func (w *world) reopen(fault host.Fault) {
	w.t.Helper()
	w.close()
	w.open(fault)
}

func (w *world) staging() string { return filepath.Join(w.dir, "staging") }

func (w *world) target(n int) string { return filepath.Join(w.dir, "pods", fmt.Sprint(n), "mount") }

var mountWriter = volume.Capability{Mode: volume.SingleNodeWriter}

func (w *world) spec(name string) volume.Spec {
	return volume.Spec{
		Name: name, Size: volume.SizeRange{Required: Size}, Capabilities: []volume.Capability{mountWriter},
		Parameters: w.s.Parameters,
	}
}

func (w *world) create(name string) volume.Volume {
	w.t.Helper()
	v, err := w.Create(w.t.Context(), w.spec(name))
	w.ok(err)
	return v
}

func (w *world) publishRequest(n int) volume.PublishRequest {
	return volume.PublishRequest{Staging: w.staging(), Target: w.target(n), Capability: mountWriter}
}

// up makes, stages and publishes a volume at target 1.
func (w *world) up() volume.Volume {
	w.t.Helper()
	v := w.create("a")
	w.ok(w.Stage(w.t.Context(), v.ID, w.staging(), mountWriter))
	w.ok(w.Publish(w.t.Context(), v.ID, w.publishRequest(1)))
	return v
}

// down undoes all that may have been done to a volume, and checks that nothing is left.
func (w *world) down(id volume.ID) {
	w.t.Helper()
	for n := range 3 {
		w.ok(w.Unpublish(w.t.Context(), id, w.target(n)))
		if _, err := os.Lstat(w.target(n)); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("unpublish left the target: %v", err)
		}
	}
	w.ok(w.Unstage(w.t.Context(), id, w.staging()))
	w.ok(w.Delete(w.t.Context(), id))
	w.gone(id)
}

// gone checks that the volume does not exist, and that nothing is kept when there is no other.
func (w *world) gone(id volume.ID) {
	w.t.Helper()
	if _, err := w.Get(w.t.Context(), id); !errors.Is(err, volume.ErrNotFound) {
		w.t.Errorf("get of a volume that is gone: %v", err)
	}
	if all := w.list(); len(all) == 0 {
		w.clean()
	}
}

// clean checks that nothing is kept for any volume.
func (w *world) clean() {
	w.t.Helper()
	w.ok(w.Settle(w.t.Context()))
	left, err := w.s.Leftovers(filepath.Join(w.dir, "state"))
	w.ok(err)
	if len(left) > 0 {
		w.t.Errorf("left over: %s", strings.Join(left, ", "))
	}
}

func (w *world) list() []volume.Volume {
	w.t.Helper()
	all, err := w.List(w.t.Context())
	w.ok(err)
	return all
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// fails checks that err is the one that is wanted.
func (w *world) fails(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("error is %v, want one that wraps %q", err, want)
	}
}

// write and read go through the published volume, write at target 1.
func (w *world) write(content string) {
	w.t.Helper()
	f, err := os.Create(filepath.Join(w.target(1), "file"))
	w.ok(err)
	_, err = f.WriteString(content)
	w.ok(errors.Join(err, f.Sync(), f.Close()))
}

func (w *world) read(n int) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.target(n), "file"))
	w.ok(err)
	return string(data)
}

// sweep takes away what a failed test left mounted or attached beneath dir.
func sweep(t *testing.T, dir string) {
	h := host.New(nil)
	mounts, err := h.Mounts()
	if err != nil {
		t.Error(err)
		return
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Target, dir+"/") {
			if err := unix.Unmount(m.Target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				t.Errorf("sweep %s: %v", m.Target, err)
			}
		}
	}
	devices, err := h.LoopDevices()
	if err != nil {
		t.Error(err)
		return
	}
	for _, d := range devices {
		if strings.HasPrefix(d.Backing, dir+"/") {
			if err := h.DetachLoop("sweep", d.Path); err != nil {
				t.Error(err)
			}
		}
	}
}
