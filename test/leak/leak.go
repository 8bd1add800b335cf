// Package leak fails a test that leaves something of the operating system behind: a mount, a loop device, a network
// namespace or a process.
//
// Tests of several packages run at the same time on one machine, so the package never blames a test for what merely
// appeared while it ran. A mount or a loop device is the test's when it lies beneath, or is backed by a file beneath,
// one of the test's directories; a process is the test's when it descends from the test process, carries its marker in
// its environment (see MarkerVar), or names one of the test's directories in its working directory, root directory or
// arguments; a network namespace is the test's when its name has a prefix the test declared (see Netns).
//
// The package never removes what it finds: what it reports is a bug of the code under test, or of the test.
package leak

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// grace is how long what is being torn down asynchronously (a process that was told to end, a loop device with
// autoclear) has to vanish before it is reported.
const grace = 5 * time.Second

// pollInterval is the time between two looks within the grace.
const pollInterval = 20 * time.Millisecond

// Option widens what Check watches.
type Option func(*scope)

// Under declares further directories of the test, besides the one that holds its t.TempDir: whatever is mounted on,
// backed by or run from anything beneath them is the test's. Symbolic links in dirs are resolved where they exist.
func Under(dirs ...string) Option {
	return func(s *scope) { s.dirs = append(s.dirs, dirs...) }
}

// Netns declares that every named network namespace whose name begins with one of the prefixes is the test's. Without
// it no network namespace is checked.
func Netns(prefixes ...string) Option {
	return func(s *scope) { s.netns = append(s.netns, prefixes...) }
}

// Check records what exists now and fails t, when it ends, for each thing of the test's that is still there and was
// not before. Call it first in a test: cleanups registered after it run before its comparison.
//
// Check is safe for parallel tests as long as each of them has directories of its own; descendants of the test
// process cannot be told apart then, so a parallel test is blamed for its siblings' processes too.
func Check(t testing.TB, opts ...Option) {
	t.Helper()
	s := &scope{dirs: []string{filepath.Dir(t.TempDir())}}
	for _, opt := range opts {
		opt(s)
	}
	if err := s.prepare(); err != nil {
		t.Fatalf("leak check cannot start: %v", err)
	}
	before, err := s.snapshot()
	if err != nil {
		t.Fatalf("leak check cannot start: %v", err)
	}
	t.Cleanup(func() {
		left, err := s.remaining(before)
		if err != nil {
			t.Errorf("leak check could not compare: %v", err)
			return
		}
		for _, l := range left {
			t.Errorf("leaked %s", l)
		}
	})
}

// thing is one object of the operating system; key tells it from a later object under the same name.
type thing struct {
	kind, key, text string
}

func (i thing) String() string { return i.kind + ": " + i.text }

// scope says which objects are the test's.
type scope struct {
	dirs  []string
	netns []string
}

func (s *scope) prepare() error {
	for i, d := range s.dirs {
		abs, err := filepath.Abs(d)
		if err != nil {
			return err
		}
		if resolved, err := filepath.EvalSymlinks(abs); err == nil {
			abs = resolved
		}
		if abs == "/" {
			return fmt.Errorf("the directory %q holds everything; give one of the test's own", d)
		}
		s.dirs[i] = abs
	}
	return mark()
}

// owns reports whether path is one of the test's directories or lies beneath one.
func (s *scope) owns(path string) bool {
	return slices.ContainsFunc(s.dirs, func(d string) bool {
		return path == d || strings.HasPrefix(path, d+"/")
	})
}

func (s *scope) snapshot() ([]thing, error) {
	var all []thing
	for _, find := range []func() ([]thing, error){s.loops, s.mounts, s.namespaces, s.processes} {
		found, err := find()
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// remaining returns what is there now and was not before, once the grace is over or nothing is left.
func (s *scope) remaining(before []thing) ([]thing, error) {
	deadline, tick := time.After(grace), time.NewTicker(pollInterval)
	defer tick.Stop()
	for over := false; ; {
		now, err := s.snapshot()
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(now, func(i thing) bool {
			return slices.ContainsFunc(before, func(b thing) bool { return b.kind == i.kind && b.key == i.key })
		})
		if len(left) == 0 || over {
			slices.SortFunc(left, func(a, b thing) int { return cmp.Compare(a.kind+a.text, b.kind+b.text) })
			return left, nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			over = true
		}
	}
}

func (s *scope) namespaces() ([]thing, error) {
	if len(s.netns) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir("/run/netns")
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []thing
	for _, e := range entries {
		if slices.ContainsFunc(s.netns, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			found = append(found, thing{"network namespace", e.Name(), e.Name()})
		}
	}
	return found, nil
}
