package writer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/orlop-io/orlop/configsync/payload"
)

// guarded is a payload whose files ask for these modes, whatever their content.
var guarded = map[string]uint32{"closed": 0, "owner": 0o400, "d/group": 0o440, "d/e/all": 0o644}

func guardedPayload(n int) payload.Payload {
	p := files()
	for path, mode := range guarded {
		// Owners change too: who is let in by the mode alone is not yet the one it is meant for.
		f := payload.File{Data: payload.Content(strings.Repeat(fmt.Sprint(n), 5000)), Mode: mode, UID: -1, GID: -1}
		if os.Geteuid() == 0 {
			f.UID, f.GID = 1000+n%2, 2000
		}
		p.Files[path] = f
	}
	return p
}

// tooWide returns a file in any generation that lets somebody in whom its mode, or its owner, is to keep out.
func tooWide(dir string) (found string, looked int, err error) {
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // it was just removed
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		generation, rel, _ := strings.Cut(strings.TrimPrefix(path, dir+"/"), "/")
		mode, mine := guarded[rel]
		if !mine || !isGeneration(generation) {
			return nil
		}
		info, err := e.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		looked++
		if uint32(info.Mode().Perm())&^mode != 0 || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			found = fmt.Sprintf("%s has mode %v, want no more than %04o", rel, info.Mode(), mode)
		}
		if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && info.Mode().Perm() != 0 && (stat.Uid < 1000 || stat.Gid != 2000) {
			found = fmt.Sprintf("%s is open with mode %v to %d:%d", rel, info.Mode(), stat.Uid, stat.Gid)
		}
		return nil
	})
	return found, looked, err
}

// At every step of many changes, and whenever somebody happens to look, no file is wider than its generation asked for.
func TestNeverWiderDuringSwaps(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := memoryDir(t)
	atSteps := 0
	check := func(when string) int {
		found, looked, err := tooWide(dir)
		if err != nil {
			t.Error(err)
		}
		if found != "" {
			t.Errorf("%s: %s", when, found)
		}
		return looked
	}
	w := New(dir, Options{KeepBytes: 1, Before: func(s Step) error { atSteps += check(string(s)); return nil }})
	for n := range 40 {
		if _, err := w.Write(guardedPayload(n)); err != nil {
			t.Fatal(err)
		}
	}
	w.o.Before = nil
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	atRandom := 0
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				atRandom += check("at some time")
			}
		}
	})
	for n := range 2000 {
		if _, err := w.Write(guardedPayload(n)); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	watcher.Wait()
	t.Logf("looked at %d files between steps, and at %d in 2000 swaps", atSteps, atRandom)
	if atSteps < 1000 || atRandom < 1000 {
		t.Error("hardly a file was looked at")
	}
}

// Whatever fails, and however the error is printed, it names steps and paths and never content.
func TestErrorsHoldNoContent(t *testing.T) {
	const marker = "orlop-marker-7b1e"
	secret := func(n int) payload.Payload {
		p := files()
		p.Files["d/k"] = payload.File{Data: payload.Content(strings.Repeat(marker, n)), Mode: 0o400, UID: -1, GID: -1}
		return p
	}
	failed := 0
	check := func(err error) {
		t.Helper()
		if err == nil {
			return
		}
		failed++
		if text := fmt.Sprintf("%v|%+v|%#v|%q|%x", err, err, err, err, err.Error()); strings.Contains(text, marker) ||
			strings.Contains(text, fmt.Sprintf("%x", marker)) {
			t.Errorf("an error holds content: %.300s", text)
		}
	}
	for at := 1; at < 60; at++ {
		w, file, generation := held(t, t.TempDir(), Options{Sync: true}, marker, 0o644)
		left := at
		w.o.Before = func(Step) error {
			if left--; left == 0 {
				return errInjected
			}
			return nil
		}
		_, err := w.Write(secret(2))
		check(err)
		_, err = w.Overwrite(file, generation, "d/a", secret(3).Files["d/k"])
		check(err)
		_, err = w.Prune()
		check(err)
	}
	w := New(smallDisk(t, "64k"), Options{})
	_, err := w.Write(secret(50_000))
	check(err)
	_, err = New(filepath.Join(t.TempDir(), "gone"), Options{}).Write(secret(1))
	check(err)
	odd := secret(1)
	odd.Files[strings.Repeat("n", 300)] = odd.Files["d/k"]
	_, err = New(t.TempDir(), Options{}).Write(odd)
	check(err)
	if failed < 30 {
		t.Errorf("only %d calls failed", failed)
	}
}
