package volumes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/reference"
	"github.com/orlop-io/orlop/configsync/writer"
)

// While the node's disk is full the last good files stay, whole, and the pod is told; the next try after there is room
// brings the change. A file mounted with subPath fares the same.
func TestDiskFull(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	h := newHostIn(t, root, true)
	recorder := h.real()
	h.pod.Annotations[reference.SubPathAnnotation] = reference.SubPathInPlace
	var tries atomic.Int32
	h.manager.writer.Before = func(s writer.Step) error {
		if s == writer.StepMakeGen {
			tries.Add(1)
		}
		return nil
	}
	v := v1.Volume{Name: "v", VolumeSource: cases["ConfigMap"]}
	dir := h.mounted(v, volume.MounterArgs{})
	file := h.startContainer("c", 0, dir, "a")

	filler := filepath.Join(root, "filler")
	if err := os.WriteFile(filler, make([]byte, 400<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("n", 150<<10)
	h.update(large)
	var events []string
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		for _, f := range []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), file} {
			if got := read(t, f); len(got) != 1 {
				t.Errorf("on a full disk %s has %d bytes", f, len(got))
			}
		}
		events = append(events, of(told(recorder), "FailedMount")...)
		// Each try is two, since superseded generations make room for the second.
		return tries.Load() > 6 && len(events) > 0, nil
	})
	if err != nil {
		t.Fatalf("%d tries, events %q: %v", tries.Load(), events, err)
	}
	if len(events) != 1 || !strings.Contains(events[0], "no space left") || strings.Contains(events[0], "nnnn") {
		t.Errorf("events: %.500q", events)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	before := tries.Load()
	h.eventually("there is room again", filepath.Join(dir, "a"), large)
	h.eventually("there is room again", file, large)
	// One may have been under way when the room was made.
	if more := tries.Load() - before; more > 3 {
		t.Errorf("it took %d tries", more)
	}
}
