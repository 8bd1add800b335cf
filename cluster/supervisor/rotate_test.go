package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	r, err := openRotated(path, 10, 2)
	if err != nil {
		t.Fatal(err)
	}
	// Each fills a file: five are written, three are kept.
	for i := range 5 {
		write(t, r, fmt.Sprintf("line %d..\n", i))
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"x.log": "line 4..\n", "x.log.1": "line 3..\n", "x.log.2": "line 2..\n"}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("%d files are left, want %d: %v", len(entries), len(want), entries)
	}
	for name, content := range want {
		p := filepath.Join(filepath.Dir(path), name)
		if got := read(t, p); got != content {
			t.Errorf("%s holds %q, want %q", name, got, content)
		}
		if info, err := os.Stat(p); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", name, info.Mode(), err)
		}
	}
}

func TestRotationGoesOnWhereAPredecessorLeftOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, []byte("12345678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openRotated(path, 10, 1)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "a\n")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "a\n" {
		t.Errorf("the new file holds %q", got)
	}
	if got := read(t, path+".1"); got != "12345678\n" {
		t.Errorf("the old one holds %q", got)
	}
}

func TestRotationNeverCutsAWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	r, err := openRotated(path, 4, 1)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r, "longer than the file may be\n")
	if got := read(t, path); got != "longer than the file may be\n" {
		t.Errorf("the file holds %q", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A log directory that cannot be written, and then can again, must not stop the component nor its log for ever.
func TestLogSurvivesAFailureToWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.log")
	file, err := openRotated(path, 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	l := &logFile{path: path, file: file}
	write(t, l, "1234567\n")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	write(t, l, "lost\n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, l, "kept\n")
	if got := read(t, path); got != "kept\n" {
		t.Errorf("the log holds %q", got)
	}
	if got, want := l.last(), []string{"1234567", "lost", "kept"}; !slices.Equal(got, want) {
		t.Errorf("last lines are %q, want %q", got, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	numbered := func(from, to int) []string {
		var lines []string
		for i := from; i < to; i++ {
			lines = append(lines, fmt.Sprint(i))
		}
		return lines
	}
	long := strings.Repeat("x", 3*maxLine)
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"lines in pieces", []string{"on", "e\ntw", "o\n"}, []string{"one", "two"}},
		{"the last ones alone", []string{strings.Join(numbered(0, 30), "\n") + "\n"}, numbered(30-tailLines, 30)},
		{"a line without an end", []string{"one\npanic: "}, []string{"one", "panic: "}},
		{"a line without an end among many", []string{strings.Join(numbered(0, 30), "\n")}, numbered(30-tailLines, 30)},
		{"a line too long", []string{long, long, "\nnext\n"}, []string{long[:maxLine], "next"}},
		{"a panic", []string{"one\npanic: no room\n\ngoroutine 1 [running]:\nmain.main()\n\t/ma"},
			[]string{"one", "panic: no room", ""}},
		{"an empty line", []string{"a\n\nb\n"}, []string{"a", "", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := newLogFile(filepath.Join(t.TempDir(), "x.log"))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.writes {
				write(t, l, w)
			}
			if got := l.last(); !slices.Equal(got, tt.want) {
				t.Errorf("last lines are %q, want %q", got, tt.want)
			}
			if got, want := read(t, l.path), strings.Join(tt.writes, ""); got != want {
				t.Errorf("the file holds %q, want %q", got, want)
			}
			l.endLine()
			if got := read(t, l.path); got != "" && !strings.HasSuffix(got, "\n") {
				t.Errorf("after endLine the file ends in %q", got[len(got)-1:])
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func write(t *testing.T, w interface{ Write([]byte) (int, error) }, s string) {
	t.Helper()
	if n, err := w.Write([]byte(s)); err != nil || n != len(s) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(s), err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
