package volumetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/orlop-io/orlop/csi/volume"
)

func testLifecycle(t *testing.T, s Subject) {
	w := newWorld(t, s)
	ctx := t.Context()
	v := w.create("a")
	if v.Capacity < Size {
		t.Errorf("capacity is %d, want at least %d", v.Capacity, Size)
	}
	again := w.create("a")
	if again.ID != v.ID || again.Capacity != v.Capacity {
		t.Errorf("the second create gave %v, the first %v", again, v)
	}
	if got, err := w.Get(ctx, v.ID); err != nil || got.ID != v.ID || got.Capacity != v.Capacity {
		t.Errorf("get: %v, %v", got, err)
	}
	if all := w.list(); len(all) != 1 || all[0].ID != v.ID {
		t.Errorf("list: %v", all)
	}
	for range 2 {
		w.ok(w.Stage(ctx, v.ID, w.staging(), mountWriter))
	}
	for range 2 {
		w.ok(w.Publish(ctx, v.ID, w.publishRequest(1)))
	}
	w.write("first")
	// Another workload on the node sees the same files.
	w.ok(w.Publish(ctx, v.ID, w.publishRequest(2)))
	if got := w.read(2); got != "first" {
		t.Errorf("the second target shows %q", got)
	}
	for _, path := range []string{w.staging(), w.target(1)} {
		stats, err := w.Stats(ctx, v.ID, path)
		w.ok(err)
		if stats.TotalBytes <= 0 || stats.AvailableBytes < 0 || stats.TotalInodes <= 0 || stats.Abnormal != "" {
			t.Errorf("stats at %s: %+v", path, stats)
		}
		if s.Enforced && stats.TotalBytes > v.Capacity {
			t.Errorf("the file system has %d bytes, the volume %d", stats.TotalBytes, v.Capacity)
		}
	}
	_, err := w.Stats(ctx, v.ID, w.dir)
	w.fails(err, volume.ErrNotFound)

	// The process is killed and started again: mounts and data stay.
	w.reopen(nil)
	if got := w.read(1); got != "first" {
		t.Errorf("after a restart of the service the volume shows %q", got)
	}
	// The machine is, in effect, started again: mounts are gone, data stays.
	for range 2 {
		w.ok(w.Unpublish(ctx, v.ID, w.target(1)))
		w.ok(w.Unpublish(ctx, v.ID, w.target(2)))
	}
	for range 2 {
		w.ok(w.Unstage(ctx, v.ID, w.staging()))
	}
	w.reopen(nil)
	w.ok(w.Stage(ctx, v.ID, w.staging(), mountWriter))
	w.ok(w.Publish(ctx, v.ID, w.publishRequest(1)))
	if got := w.read(1); got != "first" {
		t.Errorf("after unstage and stage the volume shows %q", got)
	}
	w.down(v.ID)
	w.ok(w.Delete(ctx, v.ID))
	// A volume of the same name is a new one.
	w.up()
	w.write("second")
	w.down(v.ID)
}

func testIncompatible(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.create("a")
	for name, change := range map[string]func(*volume.Spec){
		"larger":        func(s *volume.Spec) { s.Size = volume.SizeRange{Required: 2 * Size} },
		"smaller limit": func(s *volume.Spec) { s.Size = volume.SizeRange{Limit: Size / 2} },
	} {
		spec := w.spec("a")
		change(&spec)
		if _, err := w.Create(t.Context(), spec); !errors.Is(err, volume.ErrIncompatible) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Block {
		spec := w.spec("a")
		spec.Capabilities = []volume.Capability{{Mode: volume.SingleNodeWriter, Block: true}}
		_, err := w.Create(t.Context(), spec)
		w.fails(err, volume.ErrIncompatible)
	}
	w.down(v.ID)
}

func testRefused(t *testing.T, s Subject) {
	w := newWorld(t, s)
	for name, c := range map[string]struct {
		change func(*volume.Spec)
		want   error
		says   string
	}{
		"unknown parameter": {
			func(s *volume.Spec) { s.Parameters = map[string]string{"colour": "blue"} }, volume.ErrInvalid, `"colour"`,
		},
		"negative size": {
			func(s *volume.Spec) { s.Size.Required = -1 }, volume.ErrInvalid, "negative",
		},
		"limit below the size": {
			func(s *volume.Spec) { s.Size.Limit = Size / 2 }, volume.ErrInvalid, "32Mi",
		},
		"unknown file system": {
			func(s *volume.Spec) { s.Capabilities[0].FSType = "ntfs" }, volume.ErrInvalid, `"ntfs"`,
		},
		"unknown mount option": {
			func(s *volume.Spec) { s.Capabilities[0].MountFlags = []string{"noatime,usrquota"} }, volume.ErrInvalid, `"usrquota"`,
		},
		"no name":       {func(s *volume.Spec) { s.Name = "" }, volume.ErrInvalid, "name"},
		"no capability": {func(s *volume.Spec) { s.Capabilities = nil }, volume.ErrInvalid, "capability"},
	} {
		spec := w.spec("a")
		spec.Capabilities = []volume.Capability{mountWriter}
		c.change(&spec)
		_, err := w.Create(t.Context(), spec)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error is %v, want one that wraps %q and says %s", name, err, c.want, c.says)
		}
	}
	w.clean()
}

func testExhausted(t *testing.T, s Subject) {
	w := newWorld(t, s)
	// The absurd and what is merely too large for this pool: an exabyte, a tebibyte more than there is.
	have, err := w.Capacity(t.Context(), s.Parameters, nil)
	w.ok(err)
	for _, size := range []int64{math.MaxInt64, 1 << 60, have.Available + 1<<40} {
		spec := w.spec("a")
		spec.Size.Required = size
		_, err := w.Create(t.Context(), spec)
		if !errors.Is(err, volume.ErrExhausted) && !errors.Is(err, volume.ErrOutOfRange) {
			t.Errorf("size %d: %v", size, err)
		} else if !strings.Contains(err.Error(), volume.Bytes(size)) {
			t.Errorf("size %d is not named: %v", size, err)
		}
	}
	w.clean()
	// No size at all means a usual one.
	spec := w.spec("a")
	spec.Size = volume.SizeRange{}
	v, err := w.Create(t.Context(), spec)
	w.ok(err)
	if v.Capacity <= 0 {
		t.Errorf("without a size the capacity is %d", v.Capacity)
	}
	w.down(v.ID)
}

func testCancelled(t *testing.T, s Subject) {
	w := newWorld(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Create(ctx, w.spec("a"))
	w.fails(err, context.Canceled)
	w.clean()
}

func testConcurrent(t *testing.T, s Subject) {
	w := newWorld(t, s)
	var group errgroup.Group
	for i := range 8 {
		group.Go(func() error {
			v, err := w.Create(t.Context(), w.spec(fmt.Sprint("v", i)))
			if err != nil || i%2 == 0 {
				return err
			}
			return w.Delete(t.Context(), v.ID)
		})
	}
	w.ok(group.Wait())
	all := w.list()
	if len(all) != 4 {
		t.Errorf("%d volumes, want 4", len(all))
	}
	for _, v := range all {
		w.ok(w.Delete(t.Context(), v.ID))
	}
	w.clean()
}

func testDeleteInUse(t *testing.T, s Subject) {
	w := newWorld(t, s)
	v := w.up()
	w.write("kept")
	w.fails(w.Delete(t.Context(), v.ID), volume.ErrInUse)
	w.ok(w.Unpublish(t.Context(), v.ID, w.target(1)))
	w.fails(w.Delete(t.Context(), v.ID), volume.ErrInUse)
	w.ok(w.Publish(t.Context(), v.ID, w.publishRequest(1)))
	if got := w.read(1); got != "kept" {
		t.Errorf("after a refused delete the volume shows %q", got)
	}
	w.down(v.ID)
}

func testDeleteUnknown(t *testing.T, s Subject) {
	w := newWorld(t, s)
	for _, kind := range []volume.Kind{volume.KindDir, volume.KindLoop} {
		id := volume.NewID(kind, "never made")
		w.ok(w.Delete(t.Context(), id))
		w.ok(w.Unpublish(t.Context(), id, w.target(1)))
		w.ok(w.Unstage(t.Context(), id, w.staging()))
		w.fails(w.Stage(t.Context(), id, w.staging(), mountWriter), volume.ErrNotFound)
		w.fails(w.Publish(t.Context(), id, w.publishRequest(1)), volume.ErrNotFound)
		_, err := w.Stats(t.Context(), id, w.staging())
		w.fails(err, volume.ErrNotFound)
	}
}
