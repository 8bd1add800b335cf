// Package nodump keeps the memory of a process that holds Secrets out of core dumps.
//
// It works on the whole process rather than on single buffers (madvise's MADV_DONTDUMP): a Secret is also in what the
// API client decoded, in strings that the garbage collector has not yet overwritten, on stacks and in registers.
//
// It does so by the process's own limits, and not by prctl(PR_SET_DUMPABLE), after which /proc/<pid> belongs to a
// tracer alone: the kubelet lets mount(8) bind /proc/<its pid>/fd/<n> for every subPath, which in a container without
// CAP_SYS_PTRACE would then be refused.
package nodump

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Protect lets no core of the process be dumped from now on, nor of the programs that it starts afterwards, such as mount
// helpers; limits are inherited. Debuggers, and a core that root takes with gcore, are not kept out. It cannot be undone
// without CAP_SYS_RESOURCE. It is safe to call more than once.
func Protect() error {
	if err := emptyFilter(); err != nil {
		return err
	}
	return noCore()
}

// noCore sets the limit of a core's size to 1 byte. With it the kernel writes no file, since no core is as small, and
// does not start the program that core_pattern pipes cores to: there 0 means no limit, and 1 means no core (core(5) and
// fs/coredump.c).
func noCore() error {
	limit := unix.Rlimit{Cur: 1, Max: 1}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("keeping memory out of core dumps: the limit of a core's size: %w", err)
	}
	return nil
}

// emptyFilter lets a core that is dumped all the same, by a handler that raises the limit again, have no memory in it.
func emptyFilter() error {
	err := os.WriteFile("/proc/self/coredump_filter", []byte("0"), 0)
	// A kernel that dumps no cores has no filter.
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping memory out of core dumps: %w", err)
	}
	return nil
}
