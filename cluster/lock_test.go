package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(path); !errors.Is(err, ErrRunning) {
		t.Fatalf("a second one: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := acquireSoon(ctx, path); !errors.Is(err, ErrRunning) {
		t.Errorf("after an ended context: %v", err)
	}
	// Who waits gets it once the holder ends.
	type result struct {
		lock interface{ Close() error }
		err  error
	}
	got := make(chan result, 1)
	go func() {
		lock, err := acquireSoon(context.Background(), path)
		got <- result{lock, err}
	}()
	select {
	case r := <-got:
		t.Fatalf("had while it is held: %v", r.err)
	case <-time.After(30 * time.Millisecond): // it has surely tried
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := r.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whoever opened the file before a purge removed it would hold a lock that nobody else can see.
func TestLockOfAFileThatWasRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if !isAt(f, path) {
		t.Error("not found where it was made")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if isAt(f, path) {
		t.Error("found after its removal")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if isAt(f, path) {
		t.Error("another file was taken for it")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLockWithoutDirectory(t *testing.T) {
	if _, err := acquire(filepath.Join(t.TempDir(), "run", "lock")); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRunning) {
		t.Errorf("got %v", err)
	}
}
