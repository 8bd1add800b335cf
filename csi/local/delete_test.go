package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/volume"
)

func dirSpec(name string) volume.Spec {
	return volume.Spec{
		Name: name, Capabilities: []volume.Capability{{Mode: volume.SingleNodeWriter}},
		Parameters: map[string]string{local.ParamBackend: string(volume.KindDir)},
	}
}

// A directory is gone for everyone when Delete returns; its files are removed by Run, also those that a process killed
// before left in the trash.
func TestRunEmptiesTrash(t *testing.T) {
	path := t.TempDir()
	trash := filepath.Join(path, "trash")
	pool, err := local.Open(t.Context(), config(path, nil))
	if err != nil {
		t.Fatal(err)
	}
	makeAndDelete := func(name string) {
		t.Helper()
		v, err := pool.Create(t.Context(), dirSpec(name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(path, "volumes", v.ID.Key(), "data", "sub", "file"), "x")
		if err := pool.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Get(t.Context(), v.ID); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("get of a deleted volume: %v", err)
		}
	}
	makeAndDelete("a")
	if left, err := os.ReadDir(trash); err != nil || len(left) != 1 {
		t.Errorf("the trash holds %v, %v", left, err)
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}

	pool = open(t, config(path, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- pool.Run(ctx) }()
	waitEmpty(t, trash)
	makeAndDelete("b")
	makeAndDelete("b")
	waitEmpty(t, trash)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitEmpty(t *testing.T, dir string) {
	t.Helper()
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			tick.Stop()
			return
		}
	}
}

// A creation that failed, and could not be undone either, is undone by a deletion.
func TestDeleteIncomplete(t *testing.T) {
	path := t.TempDir()
	broken := true
	pool := open(t, config(path, func(l host.Label) error {
		if broken && (l == "create.data" || l == "discard.rename") {
			return unix.EIO
		}
		return nil
	}))
	if _, err := pool.Create(t.Context(), dirSpec("a")); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	volumes := filepath.Join(path, "volumes")
	if left, err := os.ReadDir(volumes); err != nil || len(left) != 1 {
		t.Fatalf("the pool holds %v, %v", left, err)
	}
	broken = false
	if err := pool.Delete(t.Context(), volume.NewID(volume.KindDir, "a")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(volumes); err != nil || len(left) != 0 {
		t.Errorf("the pool holds %v, %v", left, err)
	}
}

func TestCheckVolume(t *testing.T) {
	pool := open(t, config(t.TempDir(), nil))
	v, err := pool.Create(t.Context(), dirSpec("a"))
	if err != nil {
		t.Fatal(err)
	}
	writer := []volume.Capability{{Mode: volume.SingleNodeWriter}}
	block := []volume.Capability{{Mode: volume.SingleNodeWriter, Block: true}}
	rawLoop := volume.Volume{ID: volume.NewID(volume.KindLoop, "b"), Block: true}
	for name, c := range map[string]struct {
		v      volume.Volume
		params map[string]string
		caps   []volume.Capability
		want   error
	}{
		"as made":           {v, map[string]string{"backend": "dir"}, writer, nil},
		"nothing said":      {v, nil, writer, nil},
		"another backend":   {v, map[string]string{"backend": "loop"}, writer, volume.ErrInvalid},
		"unknown parameter": {v, map[string]string{"x": "y"}, writer, volume.ErrInvalid},
		"a block device":    {v, nil, block, volume.ErrInvalid},
		"a raw volume":      {rawLoop, nil, block, nil},
		"files on a raw":    {rawLoop, nil, writer, volume.ErrInvalid},
		"both":              {rawLoop, nil, append(block, writer...), volume.ErrInvalid},
	} {
		if err := pool.CheckVolume(c.v, c.params, c.caps); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
