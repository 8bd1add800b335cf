package action

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/writer"
)

// followed is a volume that is written and followed, by one process after the other.
type followed struct {
	*bench

	dir, marker string
	writer      *writer.Writer
	tracker     *Tracker
	ignored     []string
}

// follow has the volume followed by a new process.
func follow(b *bench, dir, marker string) *followed {
	b.t.Helper()
	f := &followed{bench: b, dir: dir, marker: marker, writer: writer.New(dir, writer.Options{})}
	var err error
	if f.tracker, err = b.Track(f.writer, dir, marker); err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (f *followed) write(files map[string]string) {
	f.t.Helper()
	p := payload.Payload{Files: map[string]payload.File{}, GID: -1}
	for name, data := range files {
		p.Files[name] = payload.File{Data: []byte(data), Mode: 0o644, UID: -1, GID: -1}
	}
	if _, err := f.writer.Write(p); err != nil {
		f.t.Fatal(err)
	}
	f.written()
}

func (f *followed) written() {
	f.t.Helper()
	s, err := Parse(map[string]string{onChange: "signal=SIGHUP,container=app"})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.tracker.Written(Change{Pod: pod, Volume: volumeOf("v"), Spec: s}, f.ignored); err != nil {
		f.t.Fatal(err)
	}
}

// acted wants so many actions since the last time.
func (f *followed) acted(what string, n int) {
	f.t.Helper()
	later(time.Minute)
	if got := len(f.runtime.made()); got != n {
		f.t.Errorf("%s: %d actions, want %d", what, got, n)
	}
	f.runtime.mu.Lock()
	f.runtime.calls = nil
	f.runtime.mu.Unlock()
}

// marked wants the marker to name the visible generation.
func (f *followed) marked() {
	f.t.Helper()
	got, err := os.ReadFile(f.marker)
	current, ok, currentErr := f.writer.Current()
	if err != nil || currentErr != nil || !ok || string(got) != current.Name+"\n" {
		f.t.Errorf("acted on %q, visible %q; %v, %v", got, current.Name, err, currentErr)
	}
}

func TestTracker(t *testing.T) {
	run(t, func(b *bench) {
		dir, marker := b.t.TempDir(), filepath.Join(b.t.TempDir(), "new", "v")
		f := follow(b, dir, marker)
		f.write(map[string]string{"a": "1"})
		f.acted("the first files", 0)
		f.marked()
		f.write(map[string]string{"a": "1"})
		f.acted("the same files", 0)
		f.write(map[string]string{"a": "2"})
		f.acted("a change", 1)
		f.marked()
		f.tracker.Close()

		f = follow(b, dir, marker)
		f.written()
		f.write(map[string]string{"a": "2"})
		f.acted("a restart without a change", 0)
		f.tracker.Close()

		f = follow(b, dir, marker)
		f.write(map[string]string{"a": "3"})
		f.acted("a change while no process ran", 1)
		f.marked()
		f.tracker.Close()
		f.write(map[string]string{"a": "4"})
		f.acted("a change after the end", 0)

		// A process was killed after the swap, and the next one finds nothing new.
		f = follow(b, dir, marker)
		f.written()
		f.acted("a change that was not acted on", 1)
		f.marked()
		f.write(map[string]string{"a": "4"})
		f.acted("the same files", 0)

		// The action asked for anew: what changed before does not count.
		f.tracker.Close()
		if err := errors.Join(Forget(marker), Forget(marker)); err != nil {
			t.Error(err)
		}
		f.write(map[string]string{"a": "5"})
		f = follow(b, dir, marker)
		f.write(map[string]string{"a": "5"})
		f.acted("a change before it was followed", 0)
		f.marked()

		// A marker of a volume that is not there any more, a tmpfs before the node was started again, says nothing.
		f.tracker.Close()
		dir = t.TempDir()
		f = follow(b, dir, marker)
		f.write(map[string]string{"a": "6"})
		f.acted("the first files, with an old marker", 0)
		f.marked()
	})
}

// Tokens are made anew from time to time, and after a restart.
func TestTrackerIgnores(t *testing.T) {
	run(t, func(b *bench) {
		dir, marker := b.t.TempDir(), filepath.Join(b.t.TempDir(), "v")
		f := follow(b, dir, marker)
		f.ignored = []string{"d/token"}
		f.write(map[string]string{"a": "1", "d/token": "1"})
		f.write(map[string]string{"a": "1", "d/token": "2"})
		f.acted("a new token", 0)
		f.marked()
		f.write(map[string]string{"a": "2", "d/token": "3"})
		f.acted("a new token with a change", 1)
		f.marked()
		f.write(map[string]string{"a": "2", "b": "", "d/token": "3"})
		f.acted("a new file", 1)
		f.write(map[string]string{"a": "2", "c": "", "d/token": "3"})
		f.acted("a file of another name", 1)
		if _, err := f.writer.Write(payload.Payload{GID: -1, Files: map[string]payload.File{
			"a":       {Data: []byte("2"), Mode: 0o600, UID: -1, GID: -1},
			"c":       {Mode: 0o644, UID: -1, GID: -1},
			"d/token": {Data: []byte("3"), Mode: 0o644, UID: -1, GID: -1}}}); err != nil {
			t.Fatal(err)
		}
		f.written()
		f.acted("another mode", 1)
		f.tracker.Close()

		f = follow(b, dir, marker)
		f.ignored = []string{"d/token"}
		f.write(map[string]string{"a": "2", "d/token": "4"})
		f.acted("a mode and a token", 1)
		f.tracker.Close()
		f = follow(b, dir, marker)
		f.ignored = []string{"d/token"}
		f.write(map[string]string{"a": "2", "d/token": "5"})
		f.acted("a new token after a restart", 0)
		f.marked()

		// A token that is renewed while a change waits neither hides the change nor is taken for one.
		f.write(map[string]string{"a": "3", "d/token": "6"})
		f.write(map[string]string{"a": "3", "d/token": "7"})
		if got, err := os.ReadFile(marker); err != nil || string(got) == "" {
			t.Error(err)
		}
		current, _, err := f.writer.Current()
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(marker); err != nil || string(raw) == current.Name+"\n" {
			t.Errorf("the change is marked before it was acted on: %v", err)
		}
		f.acted("a change and then a new token", 1)
		f.marked()
	})
}

// Only the last of several changes ends the wait for the action.
func TestTrackerMarksLast(t *testing.T) {
	run(t, func(b *bench) {
		b.runtime.began, b.runtime.goOn = make(chan struct{}), make(chan struct{})
		dir, marker := b.t.TempDir(), filepath.Join(b.t.TempDir(), "v")
		f := follow(b, dir, marker)
		f.write(map[string]string{"a": "1"})
		before, err := os.ReadFile(marker)
		if err != nil {
			t.Fatal(err)
		}
		f.write(map[string]string{"a": "2"})
		<-b.runtime.began
		f.write(map[string]string{"a": "3"})
		b.runtime.goOn <- struct{}{}
		<-b.runtime.began
		synctest.Wait()
		if now, err := os.ReadFile(marker); err != nil || string(now) != string(before) {
			t.Errorf("marked %q while a change waits, %v", now, err)
		}
		b.runtime.goOn <- struct{}{}
		f.acted("two changes", 2)
		f.marked()
	})
}

// A marker that cannot be written costs an action too many after a restart, and no action now.
func TestTrackerMarkerFails(t *testing.T) {
	run(t, func(b *bench) {
		var logged error
		b.o.Log = func(err error) { logged = err }
		dir, at := b.t.TempDir(), filepath.Join(b.t.TempDir(), "d")
		f := follow(b, dir, filepath.Join(at, "v"))
		f.write(map[string]string{"a": "1"})
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f.write(map[string]string{"a": "2"})
		f.acted("a change", 1)
		if logged == nil {
			t.Error("nobody was told")
		}
		if _, err := b.Track(f.writer, dir, filepath.Join(at, "v")); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a marker that cannot be read: %v", err)
		}
	})
}
