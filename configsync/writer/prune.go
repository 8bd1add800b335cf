package writer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// superseded is a generation that is not visible any more.
type superseded struct {
	since time.Time
	bytes int64
}

// Prune removes the superseded generations whose grace has passed and returns how long to wait before the next is due,
// zero when none is left. After a restart the grace of what it finds begins anew. What cannot be removed is tried again
// by the next Prune, and so are generations that are pinned, but those are not waited for.
func (w *Writer) Prune() (next time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	root, err := os.OpenRoot(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("configuration volume: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	current, err := readCurrent(root)
	if err != nil {
		return 0, err
	}
	entries, err := readDir(root)
	if err != nil {
		return 0, fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	if _, err := w.supersede(root, entries, current); err != nil {
		return 0, err
	}
	pinned, err := w.pinned()
	if err != nil {
		return 0, err
	}
	now := w.o.Now()
	var errs []error
	for name, s := range w.superseded {
		if pinned[name] {
			continue
		}
		wait := w.o.Grace - now.Sub(s.since)
		if wait <= 0 {
			if err := w.remove(root, name); err == nil {
				continue
			} else {
				errs = append(errs, err)
				wait = w.o.Grace
			}
		}
		if next == 0 || wait < next {
			next = wait
		}
	}
	return next, errors.Join(errs...)
}

// supersede registers the generations that are on disk and not visible, and keeps their sum in bounds. It reports
// whether it found one it did not know.
func (w *Writer) supersede(root *os.Root, entries []fs.DirEntry, current string) (found bool, err error) {
	now := w.o.Now()
	for _, e := range entries {
		name := e.Name()
		if _, known := w.superseded[name]; known || name == current || !isGeneration(name) || !e.IsDir() {
			continue
		}
		size, err := sizeOf(root, name)
		if err != nil {
			return found, fmt.Errorf("configuration volume %s: %w", w.dir, err)
		}
		w.superseded[name] = superseded{since: now, bytes: size}
		found = true
	}
	return found, w.bound(root)
}

// bound removes the oldest superseded generations while they take too much in sum, but never the youngest.
func (w *Writer) bound(root *os.Root) error {
	var sum int64
	names := make([]string, 0, len(w.superseded))
	for name, s := range w.superseded {
		sum += s.bytes
		names = append(names, name)
	}
	if sum <= w.o.KeepBytes {
		return nil
	}
	pinned, err := w.pinned()
	if err != nil {
		return err
	}
	slices.SortFunc(names, func(a, b string) int { return w.superseded[a].since.Compare(w.superseded[b].since) })
	for _, name := range names[:len(names)-1] {
		if pinned[name] {
			continue
		}
		sum -= w.superseded[name].bytes
		if err := w.remove(root, name); err != nil {
			return err
		}
		if sum <= w.o.KeepBytes {
			return nil
		}
	}
	return nil
}

// removeSuperseded removes all generations but the visible one and the pinned ones, also those of an earlier process.
func (w *Writer) removeSuperseded(root *os.Root, current string) error {
	pinned, err := w.pinned()
	if err != nil {
		return err
	}
	entries, err := readDir(root)
	if err != nil {
		return fmt.Errorf("configuration volume %s: %w", w.dir, err)
	}
	for _, e := range entries {
		if isGeneration(e.Name()) && e.Name() != current && !pinned[e.Name()] {
			if err := w.remove(root, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) pinned() (map[string]bool, error) {
	if w.o.Pinned == nil {
		return nil, nil
	}
	pinned, err := w.o.Pinned()
	if err != nil {
		return nil, fmt.Errorf("configuration volume %s: which generations are in use: %w", w.dir, err)
	}
	return pinned, nil
}

func (w *Writer) remove(root *os.Root, name string) error {
	if err := w.do(StepRemoveGen, func() error { return root.RemoveAll(name) }); err != nil {
		return err
	}
	delete(w.superseded, name)
	return nil
}

// block is what a file or a directory takes at least.
const block = 4096

// sizeOf returns what a generation takes, by whole blocks: many small files are not free either.
func sizeOf(root *os.Root, name string) (size int64, err error) {
	gen, err := root.OpenRoot(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, gen.Close()) }()
	err = fs.WalkDir(gen.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += max(1, (info.Size()+block-1)/block) * block
		}
		return err
	})
	return size, err
}

// readDir lists the volume's directory. It is not sorted.
func readDir(root *os.Root) ([]fs.DirEntry, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	return entries, errors.Join(err, dir.Close())
}
