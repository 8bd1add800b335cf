package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/test/leak"
)

func TestRemoveAll(t *testing.T) {
	r, dir := root(t, New(nil))
	for i := range 3 * removeBatch / 2 {
		if err := os.MkdirAll(filepath.Join(dir, "tree", fmt.Sprint(i), "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.RemoveAll(ctx, "l", "tree"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	for range 2 {
		if err := r.RemoveAll(t.Context(), "l", "tree"); err != nil {
			t.Error(err)
		}
	}
	if names, err := r.Names("."); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// A tree far deeper than paths can be long, which any user can build by going down step by step, is removed like another.
func TestRemoveAllDeep(t *testing.T) {
	r, dir := root(t, New(nil))
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Also there: what moving up would collide with.
	if err := errors.Join(top.MkdirAll("tree/.up-1/x", 0o700), top.WriteFile("tree/.up-2", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	at, err := top.OpenRoot("tree")
	for range 1500 {
		if err != nil {
			t.Fatal(err)
		}
		down := at
		if err = errors.Join(down.Mkdir("d", 0o700), down.WriteFile("f", nil, 0o600)); err == nil {
			at, err = down.OpenRoot("d")
		}
		err = errors.Join(err, down.Close())
	}
	if err := errors.Join(err, at.Close(), top.Close()); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveAll(t.Context(), "l", "tree"); err != nil {
		t.Error(err)
	}
	if names, err := r.Names("."); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// What is mounted within a tree is not removed with it.
func TestRemoveAllStopsAtMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	leak.Check(t)
	r, dir := root(t, New(nil))
	outside := t.TempDir()
	kept := filepath.Join(outside, "kept")
	inside := filepath.Join(dir, "tree", "a", "b")
	if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.MkdirAll(inside, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, inside, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveAll(t.Context(), "l", "tree"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove over a mount: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what was mounted there is damaged: %v", err)
	}
	if err := unix.Unmount(inside, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveAll(t.Context(), "l", "tree"); err != nil {
		t.Error(err)
	}
}
