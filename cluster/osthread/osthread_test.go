package osthread

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNeverOnTheFirstThread(t *testing.T) {
	// The more goroutines ask at once, the surer one of them begins on the first thread.
	tids := make(chan int)
	const n = 64
	for range n {
		Start(func() { tids <- unix.Gettid() })
	}
	for range n {
		if tid := <-tids; tid == unix.Getpid() {
			t.Fatal("ran on the process's first thread")
		}
	}
}

func TestThreadOfItsOwn(t *testing.T) {
	first, second := make(chan int), make(chan int)
	release := make(chan struct{})
	for _, tid := range []chan int{first, second} {
		Start(func() { tid <- unix.Gettid(); <-release })
	}
	a, b := <-first, <-second
	if a == b {
		t.Fatalf("two functions share thread %d", a)
	}
	close(release)
	// The threads end with their functions, some moments later.
	deadline := time.Now().Add(10 * time.Second)
	for _, tid := range []int{a, b} {
		for {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
			if errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("thread %d lives on after its function", tid)
			}
			runtime.Gosched()
		}
	}
}

func TestRunReturnsTheError(t *testing.T) {
	want := errors.New("no such luck")
	if err := Run(func() error { return want }); !errors.Is(err, want) {
		t.Fatalf("got %v", err)
	}
	if err := Run(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
}
