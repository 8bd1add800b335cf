package nodenet

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// netnsOf identifies the namespace behind a /proc/…/ns/net link or a mounted name.
func netnsOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestEnter(t *testing.T) {
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	want, host := netnsOf(t, n.NetnsPath), netnsOf(t, "/proc/self/ns/net")
	if want == host {
		t.Fatal("the namespace is the host's")
	}
	sentinel := errors.New("as it was")
	if err := n.Enter(func() error { return sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("Enter = %v, want fn's error", err)
	}
	var wg sync.WaitGroup
	for range 32 { // more than there are threads, so that some would land on the first
		wg.Go(func() {
			err := n.Enter(func() error {
				if got := netnsOf(t, "/proc/thread-self/ns/net"); got != want {
					t.Errorf("inside Enter the namespace is %d, want %d", got, want)
				}
				if unix.Gettid() == unix.Getpid() {
					t.Error("Enter runs on the process's first thread")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if got := netnsOf(t, "/proc/thread-self/ns/net"); got != host {
				t.Error("the namespace leaked out of Enter")
			}
		})
	}
	wg.Wait()
	if netnsOf(t, "/proc/self/ns/net") != host {
		t.Error("the process as a whole has moved")
	}
	gone := newNetwork("orlop-test-absent", "", n.Prefix)
	if err := gone.Enter(func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("entering a namespace that does not exist: %v", err)
	}
	if _, err := gone.Thread(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a thread in a namespace that does not exist: %v", err)
	}
}

// TestThread starts a child with Pdeathsig: it must outlive the call that started it, and die with the thread.
func TestThread(t *testing.T) {
	n := ensure(t, newTestNet(t))
	defer remove(t, n)
	th, err := n.Thread()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "600")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := th.Do(child.Start); err != nil {
		t.Fatal(err)
	}
	for range 4 { // the child lives on while the thread works
		if err := th.Do(func() error { return child.Process.Signal(syscall.Signal(0)) }); err != nil {
			t.Errorf("the child is gone: %v", err)
		}
	}
	got := netnsOf(t, "/proc/"+strconv.Itoa(child.Process.Pid)+"/ns/net")
	if want := netnsOf(t, n.NetnsPath); got != want {
		t.Errorf("the child is in namespace %d, want %d", got, want)
	}
	closeAll(t, th, th) // twice is once
	err = child.Wait()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the child ended with %v, want to be killed", err)
	}
}
