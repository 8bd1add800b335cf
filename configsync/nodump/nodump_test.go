package nodump

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childMode is what the test binary does instead of running tests.
const childMode = "ORLOP_NODUMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		crash(mode)
	}
	os.Exit(m.Run())
}

// copies is how often a child holds the marker.
const copies = 100_000

// marker returns a text that is nowhere in the binary.
func marker() []byte {
	m := []byte("psmpq.ovndvq.nbslfs")
	for i := range m {
		m[i]--
	}
	return m
}

// crash protects itself as the mode says, holds the marker and dies with a core, if it may.
func crash(mode string) {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	var err error
	switch {
	case mode == "inherits":
	case unix.Setrlimit(unix.RLIMIT_CORE, &limit) != nil:
		err = errors.New("the limit of a core's size cannot be raised")
	case mode == "Protect":
		err = Protect()
	case mode == "filter":
		err = emptyFilter()
	case mode == "becomes another program":
		if err = errors.Join(Protect(), os.Setenv(childMode, "inherits")); err == nil {
			err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	held := bytes.Repeat(marker(), copies)
	// The kernel's own handling of the signal, instead of Go's, which may wait for threads that wait for it.
	var byDefault struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGABRT), uintptr(unsafe.Pointer(&byDefault)), 0,
		unsafe.Sizeof(byDefault.mask), 0, 0); errno != 0 {
		os.Exit(3)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGABRT); err != nil {
		os.Exit(3)
	}
	for {
		runtime.KeepAlive(held)
	}
}

// run lets a child crash in a directory of its own and returns the core it left, nil where it left none.
func run(t *testing.T, mode string) []byte {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), childMode+"="+mode)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() == 3 {
		t.Fatalf("the child ended with %v: %s", err, out)
	}
	cores, err := filepath.Glob(filepath.Join(cmd.Dir, "*"))
	if err != nil || len(cores) > 1 {
		t.Fatalf("the child left %v, %v", cores, err)
	}
	if len(cores) == 0 {
		return nil
	}
	raw, err := os.ReadFile(cores[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(raw, []byte("\x7fELF")) {
		t.Fatalf("%s is no core", cores[0])
	}
	return raw
}

// A process that holds a Secret and crashes leaves it in no core, where one that is not protected does.
func TestNoSecretInCore(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(string(pattern), "|@/") || limit.Max != unix.RLIM_INFINITY {
		t.Skipf("skipped: cores do not go to the working directory here (core_pattern %q, limit %d)", pattern, limit.Max)
	}
	if core := run(t, "none"); bytes.Count(core, marker()) < copies {
		t.Fatalf("the core of a process that is not protected, %d bytes, has no marker: the test shows nothing", len(core))
	}
	if core := run(t, "Protect"); core != nil {
		t.Errorf("a protected process left a core of %d bytes", len(core))
	}
	if core := run(t, "becomes another program"); core != nil {
		t.Errorf("a program that a protected process became left a core of %d bytes", len(core))
	}
	core := run(t, "filter")
	if core == nil {
		t.Fatal("with the filter alone there is no core: the test shows nothing")
	}
	// Threads' registers are in every core, and those for vectors may have held a piece of what was copied last.
	if n := bytes.Count(core, marker()); n > copies/100 {
		t.Errorf("with the filter alone the marker is in the core %d times", n)
	}
}

// Twice is as good as once. It runs in a child, for it cannot be undone.
func TestLimits(t *testing.T) {
	if os.Getenv("ORLOP_NODUMP_TEST_LIMITS") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestLimits$")
		cmd.Env = append(os.Environ(), "ORLOP_NODUMP_TEST_LIMITS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	for range 2 {
		if err := Protect(); err != nil {
			t.Fatal(err)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 1 || limit.Max != 1 {
		t.Errorf("limit %+v, %v", limit, err)
	}
	filter, err := os.ReadFile("/proc/self/coredump_filter")
	if err != nil || strings.Trim(string(filter), "0\n") != "" {
		t.Errorf("filter %q, %v", filter, err)
	}
}
