package nodenet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
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
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	err := Enter(file, func() error { return nil })
	if err == nil || !strings.Contains(err.Error(), "no network namespace") {
		t.Errorf("entering a file: %v", err)
	}
	child := exec.Command("readlink", "/proc/self/ns/net")
	var out strings.Builder
	child.Stdout = &out
	must(t, n.Enter(child.Run))
	if got := strings.TrimSpace(out.String()); got != fmt.Sprintf("net:[%d]", want) {
		t.Errorf("a process started inside is in %s, want %d", got, want)
	}
}
