package leak

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func testScope(t *testing.T) *scope {
	t.Helper()
	s := &scope{dirs: []string{t.TempDir()}}
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	return s
}

func has(all []thing, kind, part string) bool {
	return slices.ContainsFunc(all, func(i thing) bool { return i.kind == kind && strings.Contains(i.text, part) })
}

func TestFindsProcesses(t *testing.T) {
	Check(t)
	s := testScope(t)
	before, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	now, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if !has(now, "process", "cat") {
		t.Errorf("the child is not found in %v", now)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	left, err := s.remaining(before)
	if err != nil || len(left) > 0 {
		t.Errorf("after the child's end: %v, %v", left, err)
	}
}

// A daemon that left the process tree is found by the marker it inherited.
func TestFindsDaemons(t *testing.T) {
	Check(t)
	s := testScope(t)
	fifo := filepath.Join(s.dirs[0], "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "setsid cat <fifo >/dev/null 2>&1 &")
	cmd.Dir = s.dirs[0]
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns once the daemon has opened its end
	if err != nil {
		t.Fatal(err)
	}
	now, err := (&scope{dirs: []string{"/nonexistent"}}).snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if !has(now, "process", "") {
		t.Error("the daemon is not found")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFindsMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a mount")
	}
	Check(t)
	s := testScope(t)
	dir := filepath.Join(s.dirs[0], "m")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	now, err := s.snapshot()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !has(now, "mount", dir) {
		t.Errorf("the mount is not found in %v", now)
	}
}

func TestFindsNamespacesByPrefix(t *testing.T) {
	s := testScope(t)
	if found, err := s.namespaces(); err != nil || found != nil {
		t.Errorf("without a prefix: %v, %v", found, err)
	}
	s.netns = []string{"no-namespace-begins-so-"}
	if found, err := s.namespaces(); err != nil || found != nil {
		t.Errorf("with a prefix of none: %v, %v", found, err)
	}
}

func TestRefusesRootDirectory(t *testing.T) {
	if err := (&scope{dirs: []string{"/"}}).prepare(); err == nil {
		t.Error("/ was accepted as a directory of the test's")
	}
}

func TestOwns(t *testing.T) {
	s := &scope{dirs: []string{"/a/b"}}
	for path, want := range map[string]bool{"/a/b": true, "/a/b/c": true, "/a/bc": false, "/a": false, "": false} {
		if s.owns(path) != want {
			t.Errorf("owns(%q) = %v", path, !want)
		}
	}
}
