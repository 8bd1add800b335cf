package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFirstStart(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		name         string
		netns, plain *bool
	}{{"as it comes", nil, nil}, {"netns", &yes, nil}, {"plain", nil, &yes}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "not", "there yet")
			if _, err := ReadState(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("before the start: %v", err)
			}
			s, err := ensureState(dir, tt.netns, tt.plain)
			if err != nil {
				t.Fatal(err)
			}
			if s.Netns != (tt.netns != nil) || s.Plain != (tt.plain != nil) || s.Version != stateVersion || s.Node != nodeName() {
				t.Errorf("got %+v", s)
			}
			if !validID.MatchString(s.ID) {
				t.Errorf("ID %q", s.ID)
			}
			again, err := ensureState(dir, nil, nil)
			if err != nil || *again != *s {
				t.Errorf("the second start has %+v, %v", again, err)
			}
		})
	}
}

func TestModeThatContradicts(t *testing.T) {
	yes, no := true, false
	dir := t.TempDir()
	first, err := ensureState(dir, &yes, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Its start was refused before anything was made: the next one may choose again.
	changed, err := ensureState(dir, &no, &yes)
	if err != nil || changed.Netns || !changed.Plain || changed.ID != first.ID {
		t.Fatalf("got %+v, %v", changed, err)
	}
	if read, err := ReadState(dir); err != nil || *read != *changed {
		t.Fatalf("on disk is %+v, %v", read, err)
	}
	if err := os.Mkdir(Layout{DataDir: dir}.pkiDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		netns, plain *bool
		flag         string
	}{{&yes, nil, "--netns=false"}, {nil, &no, "--plain=true"}} {
		_, err := ensureState(dir, tt.netns, tt.plain)
		if err == nil || !strings.Contains(err.Error(), tt.flag) || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want %s named", err, tt.flag)
		}
	}
	if _, err := ensureState(dir, &no, &yes); err != nil {
		t.Errorf("the same again: %v", err)
	}
}

func TestStatesThatCannotBeRead(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"damaged":    {`{"version": 1, "id"`, "damaged: restore it"},
		"empty":      {``, "damaged"},
		"newer":      {`{"version": 2}`, "format 2 and this orlop knows up to 1"},
		"wrong type": {`{"version": "x"}`, "damaged"},
		// These would tear down every cluster of the host.
		"no ID":        {`{"version": 1, "node": "n"}`, "damaged"},
		"another's ID": {`{"version": 1, "id": "..", "node": "n"}`, "damaged"},
		"no node":      {`{"version": 1, "id": "0a1b2c3d"}`, "damaged"},
		"a path":       {`{"version": 1, "id": "0a1b2c3d", "node": "../../etc"}`, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := Layout{DataDir: dir}.stateFile()
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, read := range []func() error{
				func() error { _, err := ReadState(dir); return err },
				func() error { _, err := ensureState(dir, nil, nil); return err },
				func() error { return Teardown(t.Context(), dir, dir) },
			} {
				if err := read(); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
			if got := content(t, path); got != tt.data {
				t.Errorf("it was overwritten by %q", got)
			}
		})
	}
}
