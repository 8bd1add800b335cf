package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orlop-io/orlop/cluster"
)

func TestSeekLines(t *testing.T) {
	long := strings.Repeat("x", 70<<10) // longer than what is read at a time
	for _, tt := range []struct {
		name string
		data string
		n    int
		want string
	}{
		{"empty", "", 3, ""},
		{"none", "a\nb\n", 0, ""},
		{"one", "a\nb\n", 1, "b\n"},
		{"all", "a\nb\n", 2, "a\nb\n"},
		{"more than there are", "a\nb\n", 9, "a\nb\n"},
		{"long lines", long + "\n" + long + "\nend\n", 2, long + "\nend\n"},
		{"empty lines", "a\n\n\n", 2, "\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			writeFile(t, path, tt.data)
			var out bytes.Buffer
			if err := printLog(t.Context(), &out, path, tt.n, false); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.want {
				t.Errorf("printed %d bytes, want %d: %.80q", out.Len(), len(tt.want), out.String())
			}
		})
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	l := cluster.Layout{DataDir: dir}
	writeFile(t, l.LogFile("etcd"), "one\ntwo\n")
	writeFile(t, l.LogFile("etcd")+".1", "rotated\n")
	writeFile(t, l.LogFile("supervisor"), "s\n")
	if out, err := run(t, "logs", "--data-dir", dir, "etcd"); err != nil || out != "one\ntwo\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := run(t, "logs", "--data-dir", dir, "etcd", "-n", "1"); err != nil || out != "two\n" {
		t.Errorf("got %q, %v", out, err)
	}
	_, err := run(t, "logs", "--data-dir", dir, "etdc")
	if want := `there is no component "etdc": choose one of etcd, supervisor`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// buffer is a bytes.Buffer whose growth can be waited for.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

func (b *buffer) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		got := b.b.String()
		b.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-b.changed:
		case <-deadline:
			t.Fatalf("printed %q, want %q", got, want)
		}
	}
}

func TestFollowOverRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	writeFile(t, path, "0\n")
	out := &buffer{changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- printLog(ctx, out, path, -1, true) }()
	want := "0\n"
	out.await(t, want)
	for i := range 5 {
		appendTo(t, path, fmt.Sprintf("%d old\n", i))
		want += fmt.Sprintf("%d old\n", i)
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		// Written by one that still has the old file open.
		appendTo(t, path+".1", "late\n")
		writeFile(t, path, fmt.Sprintf("%d new\n", i))
		want += fmt.Sprintf("late\n%d new\n", i)
		out.await(t, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func appendTo(t *testing.T, path, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
