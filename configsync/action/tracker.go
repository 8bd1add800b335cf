package action

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/orlop-io/orlop/configsync/writer"
)

// Tracker follows the generations of one volume and reports those to a Runner that are changes. Which generation was
// acted on is in a file outside the volume, the marker, so that a process that was killed between the swap and the
// action acts when it runs again. Its methods may be called from several goroutines.
//
// A volume's first generation is no change. Nor is one that differs from the one before in ignored files alone: a
// service-account token is made anew every hour, and at each restart of the kubelet.
type Tracker struct {
	runner *Runner
	writer *writer.Writer
	dir    string
	marker string

	mu     sync.Mutex
	closed bool
	// last is the generation that was visible when it was looked at last; nothing for none.
	last string
	// reported counts the changes that were reported, and acted up to which of them was acted on.
	reported, acted int
	// missed is a change that an earlier process did not act on.
	missed bool
}

// Track begins to follow the volume in dir, before it is written. The directory of the marker must not be part of a
// volume; it is made where it is missing.
func (r *Runner) Track(w *writer.Writer, dir, marker string) (*Tracker, error) {
	t := &Tracker{runner: r, writer: w, dir: dir, marker: marker}
	current, ok, err := w.Current()
	if err != nil {
		return nil, err
	}
	if !ok {
		return t, nil
	}
	t.last = current.Name
	acted, err := os.ReadFile(marker)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The volume was written before it was followed.
		if err := t.mark(t.last); err != nil {
			return nil, err
		}
		return t, nil
	case err != nil:
		return nil, fmt.Errorf("what was acted on: %w", err)
	}
	t.missed = strings.TrimSuffix(string(acted), "\n") != t.last
	return t, nil
}

// Written is called after each Write of the volume, whether it succeeded or not, and reports c where there is a change.
// ignored are the paths in the volume whose content is no reason to act. c.Done is set by Written.
func (t *Tracker) Written(c Change, ignored []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	current, ok, err := t.writer.Current()
	if err != nil || !ok {
		return err
	}
	before := t.last
	t.last = current.Name
	changed := t.missed
	t.missed = false
	switch {
	case before == t.last:
	case before == "":
		return t.mark(t.last)
	case !changed:
		if changed, err = t.differs(before, t.last, ignored); err != nil {
			// Rather once too often than not at all.
			changed = true
		}
	}
	if !changed {
		if before != t.last && t.acted == t.reported {
			return t.mark(t.last)
		}
		return nil
	}
	t.reported++
	n := t.reported
	c.Done = func() { t.done(n) }
	t.runner.Changed(c)
	return err
}

// done notes that the n-th change was acted on.
func (t *Tracker) done(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.acted = max(t.acted, n)
	if t.acted < t.reported {
		return
	}
	if err := t.mark(t.last); err != nil {
		// The action runs once more after a restart; that is the worst of it.
		t.runner.o.Log(err)
	}
}

// Close ends following. The marker stays.
func (t *Tracker) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// Forget removes the marker of a volume that is gone or not followed any more.
func Forget(marker string) error {
	if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what was acted on: %w", err)
	}
	return nil
}

// mark writes the marker in one step. It is not synced: a node that lost its power starts all containers again.
func (t *Tracker) mark(generation string) error {
	err := os.MkdirAll(filepath.Dir(t.marker), 0o700)
	if err == nil {
		tmp := t.marker + ".tmp"
		if err = os.WriteFile(tmp, []byte(generation+"\n"), 0o600); err == nil {
			err = os.Rename(tmp, t.marker)
		}
	}
	if err != nil {
		return fmt.Errorf("what was acted on: %w", err)
	}
	return nil
}

// differs reports whether two generations of the volume differ in other files than the ignored. Where nothing is
// ignored, they do: the writer makes no generation that is the same as the one before.
func (t *Tracker) differs(a, b string, ignored []string) (_ bool, err error) {
	if len(ignored) == 0 {
		return true, nil
	}
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	skip := map[string]bool{}
	for _, p := range ignored {
		skip[path.Clean(p)] = true
	}
	one, err := list(root, a, skip)
	if err != nil {
		return false, err
	}
	other, err := list(root, b, skip)
	if err != nil {
		return false, err
	}
	if len(one) != len(other) {
		return true, nil
	}
	for file, mode := range one {
		if otherMode, ok := other[file]; !ok || mode != otherMode {
			return true, nil
		}
	}
	for file := range one {
		x, err := root.ReadFile(path.Join(a, file))
		if err != nil {
			return false, err
		}
		y, err := root.ReadFile(path.Join(b, file))
		if err != nil {
			return false, err
		}
		if !bytes.Equal(x, y) {
			return true, nil
		}
	}
	return false, nil
}

// list returns the regular files of a generation with their modes.
func list(root *os.Root, generation string, skip map[string]bool) (map[string]fs.FileMode, error) {
	files := map[string]fs.FileMode{}
	err := fs.WalkDir(root.FS(), generation, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		// What begins with two dots is the writer's own.
		if name := strings.TrimPrefix(file, generation+"/"); !skip[name] && !strings.HasPrefix(name, "..") {
			files[name] = info.Mode()
		}
		return nil
	})
	return files, err
}
