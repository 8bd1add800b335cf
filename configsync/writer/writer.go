package writer

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// Names in the volume's directory. All begin with "..", which no user's file can.
const (
	dataLink       = "..data"
	dataLinkTmp    = "..data_tmp"
	visibleTmp     = "..link_tmp"
	generationFile = "..generation"
	generationTmp  = "..generation_tmp"
)

// The defaults of Options.
const (
	DefaultGrace     = 30 * time.Second
	DefaultKeepBytes = 8 << 20
)

// Options of a Writer. The zero value is ready to use, for a volume on tmpfs.
type Options struct {
	// Sync makes every generation durable before it becomes visible. It is for volumes on disk.
	Sync bool
	// Grace is how long a superseded generation is kept for its readers: DefaultGrace when zero.
	Grace time.Duration
	// KeepBytes bounds what superseded generations take in sum: beyond it the oldest go before their grace has
	// passed, all but the last one. DefaultKeepBytes when zero.
	KeepBytes int64
	// Pinned, when not nil, returns the names of generations that must stay, however old, because somebody shows a
	// directory of theirs by other means than ..data. Where it fails, no generation is removed.
	Pinned func() (map[string]bool, error)
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Before, when not nil, is called before each step and fails it by an error. It is for tests.
	Before func(Step) error
}

// Writer writes one volume. Its methods may be called from several goroutines; no other process may write the same
// directory at the same time.
type Writer struct {
	dir string
	o   Options

	mu         sync.Mutex
	superseded map[string]superseded
}

// New returns the writer of the volume in dir, which must exist when Write is called.
func New(dir string, o Options) *Writer {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.KeepBytes == 0 {
		o.KeepBytes = DefaultKeepBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Writer{dir: dir, o: o, superseded: map[string]superseded{}}
}

// Write makes the payload visible and reports whether that changed anything. Where it returns an error, the visible
// files are still the last good ones, or already the new ones if only what surrounds them (a link, say) is not right.
// The error then is a *StepError, and the next Write repairs what is left.
func (w *Writer) Write(p payload.Payload) (changed bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	root, err := os.OpenRoot(w.dir)
	if err != nil {
		return false, fmt.Errorf("configuration volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := w.ownRoot(root, p.GID); err != nil {
		return false, err
	}
	current, err := readCurrent(root)
	if err != nil {
		return false, err
	}
	if current != "" {
		same, err := matches(root, current, p)
		if err != nil {
			return false, err
		}
		if same {
			if err := w.vouch(root, current, p); err != nil {
				return false, err
			}
			return false, w.show(root, p, current)
		}
	}
	next, err := w.makeGeneration(root, p)
	if errors.Is(err, syscall.ENOSPC) {
		// Readers of superseded generations lose more by stale files than by an ENOENT.
		if err := w.removeSuperseded(root, current); err != nil {
			return false, err
		}
		next, err = w.makeGeneration(root, p)
	}
	if err != nil {
		return false, err
	}
	if err := w.swap(root, next, p.GID); err != nil {
		return false, errors.Join(err, w.do(StepRemoveFailed, func() error { return root.RemoveAll(next) }))
	}
	return true, w.show(root, p, next)
}

// swap makes ..data name the generation.
func (w *Writer) swap(root *os.Root, next string, gid int) error {
	if err := w.do(StepClearLink, func() error { return root.RemoveAll(dataLinkTmp) }); err != nil {
		return err
	}
	// A directory of this name would make every rename fail.
	if info, err := root.Lstat(dataLink); err == nil && info.Mode()&os.ModeSymlink == 0 {
		if err := w.do(StepClearLink, func() error { return root.RemoveAll(dataLink) }); err != nil {
			return err
		}
	}
	if err := w.do(StepMakeLink, func() error {
		if err := root.Symlink(next, dataLinkTmp); err != nil {
			return err
		}
		return root.Lchown(dataLinkTmp, -1, gid)
	}); err != nil {
		return err
	}
	return w.do(StepSwap, func() error { return root.Rename(dataLinkTmp, dataLink) })
}

// show makes the visible links agree with the payload, registers what is superseded, and syncs.
func (w *Writer) show(root *os.Root, p payload.Payload, current string) error {
	entries, err := readDir(root)
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	wanted := visible(p)
	changed := false
	for name, uid := range wanted {
		made, err := w.showFile(root, name, uid, p.GID)
		if err != nil {
			return err
		}
		changed = changed || made
	}
	for _, e := range entries {
		name := e.Name()
		if name == dataLinkTmp || name == visibleTmp {
			if err := w.do(StepClearLink, func() error { return root.RemoveAll(name) }); err != nil {
				return err
			}
		}
		if _, ok := wanted[name]; ok || e.Type()&os.ModeSymlink == 0 || strings.HasPrefix(name, "..") {
			continue
		}
		// Only what a writer made: what else is here (the mount points of nested volumes) is not ours.
		if target, err := root.Readlink(name); err != nil || target != path.Join(dataLink, name) {
			continue
		}
		if err := w.do(StepHideFile, func() error { return root.Remove(name) }); err != nil {
			return err
		}
		changed = true
	}
	supersededNow, err := w.supersede(root, entries, current)
	if err != nil {
		return err
	}
	if w.o.Sync && (changed || supersededNow) {
		return w.do(StepSyncRoot, func() error { return syncDir(root, ".") })
	}
	return nil
}

// showFile makes one visible link, unless it is there or a nested volume's mount point is in its place.
func (w *Writer) showFile(root *os.Root, name string, uid, gid int) (made bool, err error) {
	target := path.Join(dataLink, name)
	info, err := root.Lstat(name)
	switch {
	case err == nil && info.Mode()&os.ModeSymlink == 0 && info.IsDir():
		return false, nil
	case err == nil && info.Mode()&os.ModeSymlink != 0:
		if old, err := root.Readlink(name); err == nil && old == target {
			return false, nil
		}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false, fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	return true, w.do(StepShowFile, func() error {
		if err := root.RemoveAll(visibleTmp); err != nil {
			return err
		}
		if err := root.Symlink(target, visibleTmp); err != nil {
			return err
		}
		if err := root.Lchown(visibleTmp, uid, gid); err != nil {
			return err
		}
		return root.Rename(visibleTmp, name)
	})
}

// visible returns the top-level names of the payload's files, and the owner of each link.
func visible(p payload.Payload) map[string]int {
	names := map[string]int{}
	for file, f := range p.Files {
		name, _, nested := strings.Cut(file, "/")
		if nested {
			names[name] = -1
		} else {
			names[name] = f.UID
		}
	}
	return names
}
