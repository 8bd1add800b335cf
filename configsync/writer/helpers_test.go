package writer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/configsync/payload"
)

// files makes a payload of path and content in turn, with mode 0640.
func files(kv ...string) payload.Payload {
	p := payload.Payload{Files: map[string]payload.File{}, GID: -1}
	for i := 0; i < len(kv); i += 2 {
		p.Files[kv[i]] = payload.File{Data: payload.Content(kv[i+1]), Mode: 0o640, UID: -1, GID: -1}
	}
	p.Objects = []payload.Version{{Kind: payload.ConfigMap, Namespace: "ns", Name: "cm", ResourceVersion: "1"}}
	return p
}

// show is what a user of the volume sees: path=content and mode of every file below the visible names, sorted.
func show(dir string) ([]string, error) {
	seen := []string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		// WalkDir does not follow the visible link itself.
		top, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(path)
			seen = append(seen, fmt.Sprintf("%s=%s %04o", e.Name()+strings.TrimPrefix(path, top), raw, info.Mode().Perm()))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(seen)
	return seen, nil
}

func expected(p payload.Payload) []string {
	want := []string{}
	for path, f := range p.Files {
		want = append(want, fmt.Sprintf("%s=%s %04o", path, string(f.Data), f.Mode))
	}
	slices.Sort(want)
	return want
}

// check fails unless the volume shows exactly the payload.
func check(t *testing.T, dir string, p payload.Payload) {
	t.Helper()
	got, err := show(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := expected(p); !slices.Equal(got, want) {
		t.Fatalf("the volume shows\n%q\nwant\n%q", got, want)
	}
}

func write(t *testing.T, w *Writer, p payload.Payload, wantChanged bool) {
	t.Helper()
	changed, err := w.Write(p)
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChanged {
		t.Fatalf("changed: %v, want %v", changed, wantChanged)
	}
	check(t, w.dir, p)
}

// tidy prunes until only the visible generation is left and fails on anything else that is hidden.
func tidy(t *testing.T, w *Writer) {
	t.Helper()
	clock := time.Now()
	w.o.Now = func() time.Time { clock = clock.Add(time.Hour); return clock }
	for range 2 {
		if _, err := w.Prune(); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	current, _, err := w.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") && e.Name() != dataLink && e.Name() != current.Name {
			t.Errorf("%s is left", e.Name())
		}
	}
}

var errInjected = errors.New("injected")

// killed is what the end of the process looks like to a test: nothing that runs on an error runs after it.
type killed struct{}

// runKilled reports whether the call was ended by killed.
func runKilled(call func()) (dead bool) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case killed{}:
			dead = true
		default:
			panic(r)
		}
	}()
	call()
	return false
}
