package writer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// at is the payload at another version of its object.
func at(p payload.Payload, version string) payload.Payload {
	p.Objects = slices.Clone(p.Objects)
	p.Objects[0].ResourceVersion = version
	return p
}

// An edit that changes no file notes its version and leaves ..data and the files as they are.
func TestVersionOfWhatHasNotChanged(t *testing.T) {
	clock := time.Date(2026, 11, 20, 10, 0, 0, 5, time.UTC)
	w := New(t.TempDir(), Options{Sync: true, Now: func() time.Time { return clock }})
	p := files("a", "1", "d/b", "1")
	write(t, w, p, true)
	first, _, err := ReadGeneration(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(w.dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, at(p, "2"), false)
	g, ok, err := ReadGeneration(w.dir)
	if err != nil || !ok || g.Name != first.Name || g.Objects[0].ResourceVersion != "2" {
		t.Errorf("after an edit that changed no file: %+v, %v, %v; want %s at version 2", g, ok, err, first.Name)
	}
	if after, err := os.Stat(filepath.Join(w.dir, "a")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file is another one, %v", err)
	}
	if want := clock.Truncate(time.Second); !g.Time().Equal(want) {
		t.Errorf("the generation is of %v, want %v", g.Time(), want)
	}

	w.o.Before = func(s Step) error { return errors.New("no step is due: " + string(s)) }
	write(t, w, at(p, "2"), false)
}

// A fault at any step of noting a version leaves the files, and either version; the next write notes the new one.
func TestFaultWhileNoting(t *testing.T) {
	for _, kill := range []bool{false, true} {
		for n := 1; ; n++ {
			w := New(t.TempDir(), Options{Sync: true})
			p := files("a", "1")
			write(t, w, p, true)
			left := n
			w.o.Before = func(Step) error {
				if left--; left != 0 {
					return nil
				}
				if kill {
					panic(killed{})
				}
				return errInjected
			}
			var err error
			dead := runKilled(func() { _, err = w.Write(at(p, "2")) })
			if left > 0 {
				if n < 5 {
					t.Errorf("only %d steps", n)
				}
				break
			}
			if !dead && !errors.Is(err, errInjected) {
				t.Fatalf("fault at step %d: %v", n, err)
			}
			check(t, w.dir, p)
			g, ok, err := ReadGeneration(w.dir)
			if err != nil || !ok || len(g.Objects) != 1 {
				t.Fatalf("after a fault at step %d: %+v, %v, %v", n, g, ok, err)
			}
			w = New(w.dir, Options{Sync: true})
			write(t, w, at(p, "3"), false)
			if g, _, err := ReadGeneration(w.dir); err != nil || g.Objects[0].ResourceVersion != "3" {
				t.Errorf("after a fault at step %d the version is %+v, %v", n, g, err)
			}
		}
	}
}

func TestReadGenerationOfNothing(t *testing.T) {
	for name, dir := range map[string]string{"no directory": filepath.Join(t.TempDir(), "none"), "empty": t.TempDir()} {
		if g, ok, err := ReadGeneration(dir); ok || err != nil {
			t.Errorf("%s: %+v, %v, %v", name, g, ok, err)
		}
	}
	if got := (Generation{Name: "..2x"}).Time(); !got.IsZero() {
		t.Errorf("a name without a time gives %v", got)
	}
}
