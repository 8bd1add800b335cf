package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnThisHost makes a cgroup root for real, runs a process in it and removes it again.
func TestOnThisHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	mode, hierarchies, err := host.mounts()
	if err != nil {
		t.Skip(err)
	}
	top := fmt.Sprintf("/orlop-test-%d", os.Getpid())
	p := top + "/cluster/node"
	t.Cleanup(func() {
		if err := RemoveRoot(context.Background(), p); err != nil { // t's own context is over by now
			t.Error(err)
		}
		for _, h := range hierarchies {
			if _, err := os.Stat(filepath.Join(h.dir, top)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", filepath.Join(h.dir, top), err)
			}
		}
	})
	for range 2 {
		if err := EnsureRoot(p); err != nil {
			t.Fatal(err)
		}
	}

	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	running := true
	stop := func() {
		if running {
			running = false
			if err := child.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = child.Wait() // reports the kill
		}
	}
	defer stop()
	joined := 0
	for _, h := range hierarchies {
		if mode != V2 && h.unified {
			continue
		}
		file := filepath.Join(h.dir, p, "cgroup.procs")
		if mode == V2 {
			file = filepath.Join(h.dir, p, "leaf/cgroup.procs") // controllers are enabled, so p itself takes none
			if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeExisting(file, fmt.Sprint(child.Process.Pid)); err != nil {
			t.Fatalf("entering %s: %v", file, err)
		}
		joined++
	}
	if joined == 0 {
		t.Fatal("no hierarchy was entered")
	}

	pids, err := Pids(p)
	if err != nil || len(pids) != 1 || pids[0] != child.Process.Pid {
		t.Fatalf("Pids = %v, %v; want %d", pids, err, child.Process.Pid)
	}
	want := fmt.Sprintf("%d (sleep)", child.Process.Pid)
	if err := RemoveRoot(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("RemoveRoot with a process inside: %v; want it to name %s", err, want)
	}
	stop()
	if err := RemoveRoot(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if pids, err := Pids(p); err != nil || len(pids) != 0 {
		t.Fatalf("Pids after removal = %v, %v", pids, err)
	}
}
