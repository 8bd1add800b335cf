package writer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/orlop-io/orlop/configsync/payload"
)

// held is a file of a first generation that somebody holds by its inode, as a bind mount does, and the writer.
func held(t *testing.T, dir string, o Options, content string, mode uint32) (w *Writer, file *os.File, generation string) {
	t.Helper()
	w = New(dir, o)
	p := files("d/a", content, "b", "1")
	p.Files["d/a"] = payload.File{Data: payload.Content(content), Mode: mode, UID: -1, GID: -1}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	current, _, err := w.Current()
	if err != nil {
		t.Fatal(err)
	}
	file, err = os.OpenFile(filepath.Join(dir, current.Name, "d/a"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, file, current.Name
}

func contentOf(t *testing.T, file *os.File) string {
	t.Helper()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, info.Size())
	if _, err := file.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// #50345: a file that is mounted with subPath follows in place. Before every step of an Overwrite it fails, or the process ends. The file is never empty, never open to anybody whom
// its old or its new mode keeps out, and the next Overwrite puts it right.
func TestOverwriteFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		from, to         string
		fromMode, toMode uint32
		uid              int
	}{
		"longer":      {"old", "new and longer", 0o644, 0o644, -1},
		"shorter":     {"old and longer", "new", 0o644, 0o644, -1},
		"narrower":    {"old", "new", 0o644, 0o400, -1},
		"wider":       {"old", "new", 0o400, 0o644, -1},
		"other mode":  {"old", "new", 0o604, 0o640, -1},
		"mode alone":  {"same", "same", 0o600, 0o644, -1},
		"other owner": {"old", "new", 0o600, 0o600, 1000},
	} {
		for _, kill := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", failing", true: ", killed"}[kill], func(t *testing.T) {
				if tt.uid >= 0 && os.Geteuid() != 0 {
					t.Skip("skipped: giving files away needs root")
				}
				to := payload.File{Data: payload.Content(tt.to), Mode: tt.toMode, UID: tt.uid, GID: -1}
				for at := 0; ; at++ {
					w, file, generation := held(t, t.TempDir(), Options{Sync: true}, tt.from, tt.fromMode)
					write(t, w, files("d/a", "newest", "b", "1"), true)
					n, broken := 0, Step("")
					w.o.Before = func(s Step) error {
						info, err := file.Stat()
						if err != nil {
							return err
						}
						got, widest := contentOf(t, file), tt.fromMode&tt.toMode
						switch {
						case tt.from == tt.to:
							widest = tt.fromMode | tt.toMode
						case got == tt.from:
							widest = tt.fromMode
						case got == tt.to:
							widest = tt.toMode
						}
						if got == "" || uint32(info.Mode().Perm())&^widest != 0 {
							t.Errorf("before %q the file is %q with mode %v", s, got, info.Mode())
						}
						if n++; n <= at || broken != "" {
							return nil
						}
						if broken = s; kill {
							panic(killed{})
						}
						return errInjected
					}
					var err error
					dead := runKilled(func() { _, err = w.Overwrite(file, generation, "d/a", to) })
					if broken != "" && !dead && !errors.Is(err, errInjected) {
						t.Fatalf("fault at %q: error %v", broken, err)
					}
					if kill {
						w = New(w.dir, Options{Sync: true})
					}
					w.o.Before = nil
					if _, err := w.Overwrite(file, generation, "d/a", to); err != nil {
						t.Fatalf("after a fault at %q: %v", broken, err)
					}
					info, err := file.Stat()
					if err != nil || contentOf(t, file) != tt.to || info.Mode() != os.FileMode(tt.toMode) || !owns(info, tt.uid, -1) {
						t.Errorf("after a fault at %q: %q, %v, %v", broken, contentOf(t, file), info.Mode(), err)
					}
					raw, err := os.ReadFile(filepath.Join(w.dir, generation, "d/a"))
					if err != nil || string(raw) != tt.from {
						t.Errorf("after a fault at %q, who pinned the generation reads %q, %v", broken, raw, err)
					}
					check(t, w.dir, files("d/a", "newest", "b", "1"))
					tidy(t, w)
					if broken == "" {
						break
					}
				}
			})
		}
	}
}

// A full disk leaves the file as it was, and the next try, with room, brings it up to date.
func TestOverwriteOnFullDisk(t *testing.T) {
	dir := smallDisk(t, "256k")
	w, file, generation := held(t, dir, Options{}, "old", 0o644)
	to := payload.File{Data: payload.Content(strings.Repeat("n", 100<<10)), Mode: 0o600, UID: -1, GID: -1}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Overwrite(file, generation, "d/a", to); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
	if got := contentOf(t, file); got != "old" {
		t.Errorf("on a full disk the file became %.10q", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if changed, err := w.Overwrite(file, generation, "d/a", to); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	if got := contentOf(t, file); got != string(to.Data) {
		t.Errorf("with room again the file is %.10q", got)
	}
}

// A generation that is pinned stays, whatever its age, their sum, or the disk; and goes when it is not pinned any more.
func TestPinnedGenerationStays(t *testing.T) {
	dir := smallDisk(t, "256k")
	pinned := map[string]bool{}
	var failure error
	w := New(dir, Options{KeepBytes: 1, Pinned: func() (map[string]bool, error) { return pinned, failure }})
	write(t, w, files("a", "first"), true)
	first, _, err := w.Current()
	if err != nil {
		t.Fatal(err)
	}
	pinned[first.Name] = true
	stays := func(when string) {
		t.Helper()
		if raw, err := os.ReadFile(filepath.Join(dir, first.Name, "a")); err != nil || string(raw) != "first" {
			t.Fatalf("%s: the pinned generation has %q, %v", when, raw, err)
		}
	}
	for _, c := range []string{"2", "3", "4", "5", "6"} {
		write(t, w, files("a", strings.Repeat(c, 90<<10)), true)
		stays("over the bound, on a full disk")
	}
	w = New(dir, Options{Grace: 1, Pinned: w.o.Pinned})
	for range 2 {
		if _, err := w.Prune(); err != nil {
			t.Fatal(err)
		}
	}
	stays("after its grace")
	pinned, failure = nil, errInjected
	if _, err := w.Prune(); !errors.Is(err, errInjected) {
		t.Errorf("error %v, where nobody knows what is pinned", err)
	}
	stays("where nobody knows what is pinned")
	failure = nil
	tidy(t, w)
}

// A directory of a generation that is mounted elsewhere pins it, a file does not, and not after the mount is gone.
func TestMountedDirs(t *testing.T) {
	dir := smallDisk(t, "1m")
	w := New(dir, Options{Grace: 1, Pinned: func() (_ map[string]bool, err error) {
		root, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		return MountedDirs(root)
	}})
	elsewhere := t.TempDir()
	at := func(name string) string { return filepath.Join(elsewhere, name) }
	var generations []string
	for n, name := range []string{"d", "a b"} {
		write(t, w, files("d/x", "1", "a b", "1", "n", strings.Repeat("n", n+1)), true)
		current, _, err := w.Current()
		if err != nil {
			t.Fatal(err)
		}
		generations = append(generations, current.Name)
		target := at("file")
		if name == "d" {
			target = at("dir")
			err = os.Mkdir(target, 0o755)
		} else {
			err = os.WriteFile(target, nil, 0o644)
		}
		if err = errors.Join(err, syscall.Mount(filepath.Join(dir, current.Name, name), target, "", syscall.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
	}
	write(t, w, files("d/x", "3", "a b", "3"), true)
	there := func(want ...bool) {
		t.Helper()
		for range 2 {
			if _, err := w.Prune(); err != nil {
				t.Fatal(err)
			}
		}
		for i, name := range generations {
			if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want[i] {
				t.Errorf("generation %d: %v", i, err)
			}
		}
	}
	there(true, false)
	for name, file := range map[string]string{"dir/x": "dir", "file": "file"} {
		if raw, err := os.ReadFile(at(name)); err != nil || string(raw) != "1" {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
		if err := syscall.Unmount(at(file), 0); err != nil {
			t.Error(err)
		}
	}
	there(false, false)
}

// smallDisk is a tmpfs of this size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
