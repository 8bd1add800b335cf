package writer

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/orlop-io/orlop/configsync/payload"
)

func TestLayoutIsUpstreams(t *testing.T) {
	dir := t.TempDir()
	w := New(dir, Options{})
	write(t, w, files("app.conf", "x", "deep/er/file", "y"), true)
	for name, want := range map[string]string{"app.conf": "..data/app.conf", "deep": "..data/deep"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s -> %q, %v; want %q", name, got, err, want)
		}
	}
	gen, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil || !isGeneration(gen) {
		t.Fatalf("..data -> %q, %v", gen, err)
	}
	info, err := os.Stat(filepath.Join(dir, gen))
	if err != nil || info.Mode() != os.ModeDir|0o755 {
		t.Errorf("%s: %v, %v", gen, info.Mode(), err)
	}
	current, ok, err := w.Current()
	if err != nil || !ok || current.Name != gen {
		t.Errorf("Current() = %+v, %v, %v", current, ok, err)
	}
	if want := files().Objects; !reflect.DeepEqual(current.Objects, want) {
		t.Errorf("the generation was made of %+v, want %+v", current.Objects, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("%v, %v; want the generation, ..data and two names", entries, err)
	}
}

// Each case writes the payloads one after the other into one volume, and every time all of it must be right.
func TestChanges(t *testing.T) {
	mode := func(p payload.Payload, path string, mode uint32) payload.Payload {
		f := p.Files[path]
		f.Mode = mode
		p.Files[path] = f
		return p
	}
	for name, steps := range map[string][]payload.Payload{
		"content":              {files("a", "1", "b", "1"), files("a", "2", "b", "2")},
		"same length":          {files("a", "11"), files("a", "12")},
		"a key more":           {files("a", "1"), files("a", "1", "b", "1")},
		"a key less":           {files("a", "1", "b", "1"), files("a", "1")},
		"all keys less":        {files("a", "1", "b/c", "1"), files()},
		"from nothing":         {files(), files("a", "1"), files()},
		"a becomes a/b":        {files("a", "1"), files("a/b", "1"), files("a/b/c", "1"), files("a", "1")},
		"a file in a folder":   {files("d/a", "1", "d/b", "1"), files("d/a", "1")},
		"the mode alone":       {files("a", "1", "b", "1"), mode(files("a", "1", "b", "1"), "b", 0o400)},
		"mode 0":               {mode(files("a", "1"), "a", 0), mode(files("a", "1"), "a", 0o777)},
		"empty file":           {files("a", "1"), files("a", ""), files("a", "1")},
		"names with oddities":  {files("a\nb", "1", "-rf", "1", "*", "1", ".hidden", "1", "\xff", "1"), files("-rf", "2")},
		"name like our suffix": {files("a/..data", "1", "a/..generation", "1"), files("a/..data", "2")},
		"a large file":         {files("a", strings.Repeat("1", 1<<20)), files("a", strings.Repeat("2", 1<<20))},
	} {
		for _, sync := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := New(t.TempDir(), Options{Sync: sync})
				for _, p := range steps {
					write(t, w, p, true)
					before, _, err := w.Current()
					if err != nil {
						t.Fatal(err)
					}
					write(t, w, p, false)
					// A writer that knows nothing of the first, as after a restart, changes nothing either.
					write(t, New(w.dir, w.o), p, false)
					if after, _, err := w.Current(); err != nil || after.Name != before.Name {
						t.Errorf("%q was rewritten as %q, %v", before.Name, after.Name, err)
					}
				}
				tidy(t, w)
				check(t, w.dir, steps[len(steps)-1])
			})
		}
	}
}

func TestHeals(t *testing.T) {
	for name, damage := range map[string]func(dir, gen string) error{
		"stale ..data_tmp link":      func(dir, _ string) error { return os.Symlink("..gone", filepath.Join(dir, dataLinkTmp)) },
		"stale ..data_tmp directory": func(dir, _ string) error { return os.MkdirAll(filepath.Join(dir, dataLinkTmp, "x"), 0o700) },
		"stale ..data_tmp file":      func(dir, _ string) error { return os.WriteFile(filepath.Join(dir, dataLinkTmp), nil, 0o600) },
		"stale visible link":         func(dir, _ string) error { return os.Symlink("x", filepath.Join(dir, visibleTmp)) },
		"..data gone":                func(dir, _ string) error { return os.Remove(filepath.Join(dir, dataLink)) },
		"generation gone":            func(dir, gen string) error { return os.RemoveAll(filepath.Join(dir, gen)) },
		"generation is a file": func(dir, gen string) error {
			if err := os.RemoveAll(filepath.Join(dir, gen)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, gen), nil, 0o600)
		},
		"file changed":      func(dir, gen string) error { return os.WriteFile(filepath.Join(dir, gen, "a"), []byte("?"), 0o640) },
		"file truncated":    func(dir, gen string) error { return os.Truncate(filepath.Join(dir, gen, "a"), 0) },
		"file gone":         func(dir, gen string) error { return os.Remove(filepath.Join(dir, gen, "d/b")) },
		"file more":         func(dir, gen string) error { return os.WriteFile(filepath.Join(dir, gen, "d/x"), nil, 0o640) },
		"file is a link":    replace("a", func(path string) error { return os.Symlink("d/b", path) }),
		"file is a pipe":    replace("a", func(path string) error { return syscall.Mkfifo(path, 0o640) }),
		"mode changed":      func(dir, gen string) error { return os.Chmod(filepath.Join(dir, gen, "a"), 0o777) },
		"folder's mode":     func(dir, gen string) error { return os.Chmod(filepath.Join(dir, gen, "d"), 0o700) },
		"visible link gone": func(dir, _ string) error { return os.Remove(filepath.Join(dir, "a")) },
		"visible link strayed": func(dir, _ string) error {
			if err := os.Remove(filepath.Join(dir, "a")); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", filepath.Join(dir, "a"))
		},
		"..data leaves the volume": func(dir, _ string) error {
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				return err
			}
			return os.Symlink("../../../etc", filepath.Join(dir, dataLink))
		},
		"..data is a directory": func(dir, _ string) error {
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(dir, dataLink, "x"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := files("a", "1", "d/b", "1")
			w := New(dir, Options{})
			write(t, w, p, true)
			current, _, err := w.Current()
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(dir, current.Name); err != nil {
				t.Fatal(err)
			}
			w = New(dir, Options{})
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
			check(t, dir, p)
			write(t, w, files("a", "2"), true)
			if name != "generation is a file" {
				tidy(t, w)
			}
		})
	}
}

func replace(name string, with func(path string) error) func(dir, gen string) error {
	return func(dir, gen string) error {
		path := filepath.Join(dir, gen, name)
		if err := os.Remove(path); err != nil {
			return err
		}
		return with(path)
	}
}

// A volume that upstream's writer made is taken over as it is, and updated.
func TestTakesOverUpstreamsVolume(t *testing.T) {
	dir := t.TempDir()
	gen := "..2026_11_20_10_00_00.1234567890"
	if err := os.Mkdir(filepath.Join(dir, gen), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, gen, "a"), []byte("1"), 0o640); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{dataLink: gen, "a": "..data/a"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	w := New(dir, Options{})
	if current, ok, err := w.Current(); err != nil || !ok || current.Name != gen || current.Objects != nil {
		t.Errorf("before the first write: Current() = %+v, %v, %v", current, ok, err)
	}
	write(t, w, files("a", "1"), false)
	if current, ok, err := w.Current(); err != nil || !ok || current.Name != gen || len(current.Objects) != 1 {
		t.Errorf("Current() = %+v, %v, %v", current, ok, err)
	}
	write(t, w, files("a", "2", "b", "2"), true)
	tidy(t, w)
}

// Another volume may be mounted beneath this one; its mount point is no link and stays.
func TestNestedMountPointStays(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "nested"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := New(dir, Options{})
	for _, p := range []payload.Payload{files("a", "1"), files("b", "1")} {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "nested")); err != nil || !info.IsDir() {
			t.Errorf("the mount point: %v, %v", info, err)
		}
	}
}

func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: giving files away needs root")
	}
	dir := t.TempDir()
	w := New(dir, Options{})
	p := files("a", "1", "d/b", "1")
	p.GID = 2000
	p.Files["a"] = payload.File{Data: payload.Content("1"), Mode: 0o640, UID: 1000, GID: 2000}
	p.Files["d/b"] = payload.File{Data: payload.Content("1"), Mode: 0o440, UID: -1, GID: 2000}
	for range 2 {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		check(t, dir, p)
	}
	current, _, err := w.Current()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		mode     os.FileMode
		uid, gid int
	}{
		"":                    {os.ModeDir | os.ModeSetgid | 0o755, 0, 2000},
		current.Name:          {os.ModeDir | os.ModeSetgid | 0o755, 0, 2000},
		current.Name + "/d":   {os.ModeDir | os.ModeSetgid | 0o755, 0, 2000},
		current.Name + "/d/b": {0o440, 0, 2000},
		current.Name + "/a":   {0o640, 1000, 2000},
		"a":                   {os.ModeSymlink | 0o777, 1000, 2000},
		"d":                   {os.ModeSymlink | 0o777, 0, 2000},
		dataLink:              {os.ModeSymlink | 0o777, 0, 2000},
	} {
		info, err := os.Lstat(filepath.Join(dir, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != want.mode || !owns(info, want.uid, want.gid) {
			stat := info.Sys().(*syscall.Stat_t)
			t.Errorf("%s: %v %d:%d, want %+v", path, info.Mode(), stat.Uid, stat.Gid, want)
		}
	}
}

func TestMissingDirectory(t *testing.T) {
	w := New(filepath.Join(t.TempDir(), "gone"), Options{})
	if _, err := w.Write(files("a", "1")); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("Write: %v, want that the directory does not exist", err)
	}
	if _, ok, err := w.Current(); ok || err != nil {
		t.Errorf("Current: %v, %v", ok, err)
	}
	if next, err := w.Prune(); next != 0 || err != nil {
		t.Errorf("Prune: %v, %v", next, err)
	}
}

// unwrapAll returns the innermost error, as os.IsNotExist does not look for it.
func unwrapAll(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		next := inner.Unwrap()
		if next == nil {
			return err
		}
		err = next
	}
}
