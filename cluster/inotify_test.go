package cluster

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The check must give back what it takes, however often it runs.
func TestCheckInotifyLeavesNothing(t *testing.T) {
	open := func() int {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			t.Skipf("the host has none left: %v", err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	first := open()
	for range 20 {
		if err := checkInotify(); err != nil && !strings.Contains(err.Error(), "max_user_instances=1024") {
			t.Fatal(err)
		}
	}
	if last := open(); last != first {
		t.Errorf("the next descriptor was %d and is %d now", first, last)
	}
}

func TestCheckInotifySaysWhatToDo(t *testing.T) {
	// The limit on descriptors gives the same error without taking anything from the host's other processes.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 20, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err := checkInotify()
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(errors.Join(err, rerr))
	}
	if err == nil || !strings.Contains(err.Error(), "sysctl fs.inotify.max_user_instances=1024") {
		t.Errorf("got %v", err)
	}
}
