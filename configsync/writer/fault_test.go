package writer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// Before every step of a change the writer fails, or its process ends. What is visible afterwards is the last good
// generation or the new one, whole; and the next write, or the first one of the next process, puts all in order.
func TestFaultAtEveryStep(t *testing.T) {
	mixed := files("a", "new", "d/b", "new", "d/e", "")
	mixed.Files["a"] = payload.File{Data: payload.Content("new"), Mode: 0o400, UID: -1, GID: -1}
	for name, change := range map[string]struct{ from, to payload.Payload }{
		"first":           {files(), files("a", "new", "d/b", "new")},
		"content":         {files("a", "old", "d/b", "old"), mixed},
		"file to folder":  {files("a", "old"), files("a/b", "new", "a/c", "new")},
		"folder to file":  {files("a/b", "old"), files("a", "new", "b", "new")},
		"all disappears":  {files("a", "old", "b", "old"), files()},
		"names come & go": {files("a", "old", "b", "old"), files("b", "new", "c", "new")},
	} {
		for _, kill := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", failing", true: ", killed"}[kill], func(t *testing.T) {
				seen := map[Step]bool{}
				for at := 0; ; at++ {
					if faultAt(t, change.from, change.to, at, kill, seen) {
						break
					}
				}
				for _, step := range []Step{StepMakeGen, StepSyncDir, StepFinishDir, StepClearLink, StepMakeLink, StepSwap, StepSyncRoot} {
					if !seen[step] {
						t.Errorf("no fault was tried at: %s", step)
					}
				}
			})
		}
	}
}

// faultAt breaks the at-th step of a change. It reports whether the change has no more steps.
func faultAt(t *testing.T, from, to payload.Payload, at int, kill bool, seen map[Step]bool) (done bool) {
	t.Helper()
	dir := t.TempDir()
	w := New(dir, Options{Sync: true})
	if _, err := w.Write(from); err != nil {
		t.Fatal(err)
	}
	n := 0
	var broken Step
	w.o.Before = func(s Step) error {
		n++
		if n <= at || (!kill && broken != "") {
			return nil
		}
		broken = s
		seen[s] = true
		if kill {
			panic(killed{})
		}
		return errInjected
	}
	var err error
	dead := runKilled(func() { _, err = w.Write(to) })
	if broken == "" {
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	var step *StepError
	if !dead && (!errors.Is(err, errInjected) || !errors.As(err, &step)) {
		t.Fatalf("fault at %q: error %v", broken, err)
	}
	wholeOneOf(t, dir, broken, from, to)

	// Going back, on, and back again must all work, in the same process or in the next.
	if kill {
		w = New(dir, Options{Sync: true})
	}
	w.o.Before = nil
	for _, p := range []payload.Payload{to, from, to} {
		if _, err := w.Write(p); err != nil {
			t.Fatalf("after a fault at %q: %v", broken, err)
		}
		check(t, dir, p)
	}
	tidy(t, w)
	check(t, dir, to)
	return false
}

// wholeOneOf fails unless every path of each payload either has the content of one generation, the same for all
// paths, or is not there because that generation does not have it.
func wholeOneOf(t *testing.T, dir string, broken Step, from, to payload.Payload) {
	t.Helper()
	matched := func(p, other payload.Payload) bool {
		for path, f := range p.Files {
			raw, err := os.ReadFile(filepath.Join(dir, dataLink, path))
			if err != nil || string(raw) != string(f.Data) {
				return false
			}
		}
		for path := range other.Files {
			if _, err := os.ReadFile(filepath.Join(dir, dataLink, path)); err == nil {
				if _, ok := p.Files[path]; !ok {
					return false
				}
			}
		}
		return true
	}
	if !matched(from, to) && !matched(to, from) {
		got, err := show(dir)
		t.Fatalf("after a fault at %q the volume shows %q, %v", broken, got, err)
	}
}

// While a file is being written it must not be open to anybody whom its mode and owner do not let in.
func TestNeverWiderThanAsked(t *testing.T) {
	dir := t.TempDir()
	p := files("a", "1", "d/b", "1")
	p.Files["a"] = payload.File{Data: payload.Content("1"), Mode: 0o400, UID: -1, GID: -1}
	p.Files["d/b"] = payload.File{Data: payload.Content("1"), Mode: 0, UID: -1, GID: -1}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	looked := 0
	w := New(dir, Options{Sync: true, Before: func(s Step) error {
		return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || e.Name() == generationFile {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			looked++
			_, rel, _ := strings.Cut(strings.TrimPrefix(path, dir+"/"), "/")
			if extra := uint32(info.Mode().Perm()) &^ p.Files[rel].Mode; extra != 0 {
				t.Errorf("before %q: %s has mode %v, want no more than %04o", s, rel, info.Mode(), p.Files[rel].Mode)
			}
			return nil
		})
	}})
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if looked == 0 {
		t.Error("no file was seen")
	}
}

func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	w := New(dir, Options{})
	fill := func(c string) payload.Payload {
		return files("a", strings.Repeat(c, 50<<10), "b", strings.Repeat(c, 30<<10))
	}
	// Two generations fit, three do not: the superseded one has to make room.
	for _, c := range []string{"1", "2", "3", "4"} {
		write(t, w, fill(c), true)
	}
	// One that never fits leaves the last good one, and nothing of itself.
	if _, err := w.Write(files("a", strings.Repeat("x", 300<<10))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	check(t, dir, fill("4"))
	write(t, w, fill("5"), true)
	tidy(t, w)
}

func TestGraceAndBound(t *testing.T) {
	clock := time.Now()
	o := Options{Grace: time.Minute, KeepBytes: 100, Now: func() time.Time { return clock }}
	w := New(t.TempDir(), o)
	generations := func() int {
		t.Helper()
		entries, err := os.ReadDir(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !isGeneration(e.Name()) }))
	}
	prune := func(wantNext time.Duration, wantLeft int) {
		t.Helper()
		next, err := w.Prune()
		if err != nil || next != wantNext || generations() != wantLeft {
			t.Errorf("next prune in %v, %v, and %d generations; want %v and %d", next, err, generations(), wantNext, wantLeft)
		}
	}
	write(t, w, files("a", "1"), true)
	prune(0, 1)
	write(t, w, files("a", "2"), true)
	prune(time.Minute, 2)
	clock = clock.Add(59 * time.Second)
	prune(time.Second, 2)
	// A new process does not know since when the first is superseded: it gives it all of its grace again.
	w = New(w.dir, o)
	prune(time.Minute, 2)
	clock = clock.Add(time.Minute)
	prune(0, 1)

	// Too much for the bound: the youngest superseded generation stays all the same.
	for _, c := range []string{"3", "4", "5", "6"} {
		write(t, w, files("a", strings.Repeat(c, 500)), true)
		clock = clock.Add(time.Second)
	}
	if n := generations(); n != 2 {
		t.Errorf("%d generations, want the visible one and the last before it", n)
	}
	clock = clock.Add(time.Hour)
	w.o.Before = func(Step) error { return errInjected }
	if next, err := w.Prune(); !errors.Is(err, errInjected) || next != o.Grace {
		t.Errorf("a prune that fails: %v, %v", next, err)
	}
	w.o.Before = nil
	prune(0, 1)
}

// Readers that pin a generation see one generation, all of it, however often it is swapped meanwhile.
func TestTornReads(t *testing.T) {
	swaps := 10_000
	if testing.Short() {
		swaps = 500
	}
	dir := memoryDir(t)
	// The bound is what a slow reader has; a generation here is 16 KiB.
	w := New(dir, Options{KeepBytes: 4 << 20})
	const size = 4 << 10
	generation := func(n int) payload.Payload {
		s := strings.Repeat(string(rune('a'+n%26)), size)
		return files("one", s, "two", s, "sub/three", s, "sub/four", s)
	}
	write(t, w, generation(0), true)
	stop := make(chan struct{})
	var reads [2]int
	var wg sync.WaitGroup
	reader := func(i int, read func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Microsecond): // The writer is to have most of the machine.
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
				reads[i]++
			}
		}()
	}
	reader(0, func() error {
		gen, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			return err
		}
		var first byte
		for _, name := range []string{"one", "sub/three", "two", "sub/four"} {
			raw, err := os.ReadFile(filepath.Join(dir, gen, name))
			if err != nil {
				return err
			}
			if len(raw) != size || (first != 0 && raw[0] != first) || raw[len(raw)-1] != raw[0] {
				return errors.New("a reader that pinned a generation saw another, or a part")
			}
			first = raw[0]
		}
		return nil
	})
	reader(1, func() error {
		raw, err := os.ReadFile(filepath.Join(dir, "one"))
		if err != nil {
			return err
		}
		if len(raw) != size || raw[0] != raw[len(raw)-1] {
			return errors.New("a reader of one file saw a part of it")
		}
		return nil
	})
	for n := 1; n <= swaps; n++ {
		if _, err := w.Write(generation(n)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d swaps, %d pinned reads of four files, %d reads of one file", swaps, reads[0], reads[1])
	if reads[0] == 0 || reads[1] == 0 {
		t.Error("a reader read nothing")
	}
	tidy(t, w)
}

// memoryDir is a directory on a tmpfs, where writes are not waiting for a disk; an ordinary one where there is none.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "orlop-writer-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
