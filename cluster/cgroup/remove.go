package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// removePatience bounds the wait for the kernel to let go of a cgroup whose last process has just
	// exited: until it has been reaped, rmdir answers EBUSY although cgroup.procs is empty.
	removePatience = 2 * time.Second
	removeRetry    = 10 * time.Millisecond
)

// RemoveRoot removes the cgroup p with everything below it, bottom up, from every hierarchy, and then the
// levels above it that are empty (/orlop/<cluster>, /orlop). A p that does not exist is no error. It kills
// nothing: where processes remain, nothing is removed and the error names them. It waits up to 2 s, or until
// ctx is done, for the kernel to release cgroups whose processes have just exited.
func RemoveRoot(ctx context.Context, p string) error { return host.remove(ctx, p) }

// Pids lists the processes in cgroup p and below it, over all hierarchies, ascending and each once. A p that
// does not exist has none.
func Pids(p string) ([]int, error) { return host.pids(p) }

func (s system) remove(ctx context.Context, p string) error {
	pids, err := s.pids(p)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("cgroup %s still holds processes %s; stop them first", p, s.describe(pids))
	}
	_, hierarchies, err := s.mounts()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	for _, h := range hierarchies {
		dirs, err := subtree(filepath.Join(h.dir, p))
		if err != nil {
			return fmt.Errorf("listing cgroup %s: %w", p, err)
		}
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := s.removeDir(ctx, dir); err != nil {
				return fmt.Errorf("removing cgroup %s: %w", p, err)
			}
		}
		if err := s.prune(h, p); err != nil {
			return fmt.Errorf("removing the empty parents of cgroup %s: %w", p, err)
		}
	}
	return nil
}

// prune removes the levels above p that nothing else uses.
func (s system) prune(h hierarchy, p string) error {
	up := levels(p)
	for i := len(up) - 2; i >= 0; i-- {
		err := s.rmdir(filepath.Join(h.dir, up[i]))
		switch {
		case err == nil || isAbsent(err):
		case errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY):
			return nil
		default:
			return err
		}
	}
	return nil
}

func (s system) removeDir(ctx context.Context, dir string) error {
	for {
		err := s.rmdir(dir)
		if err == nil || isAbsent(err) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w); a process may have entered it, see cgroup.procs there", err, ctx.Err())
		case <-time.After(removeRetry):
		}
	}
}

// subtree lists dir and the directories below it, parents first; none when dir does not exist. A directory
// that vanishes meanwhile is left out: the kubelet and the runtime remove pod cgroups at any time.
func subtree(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := []string{dir}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, err := subtree(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}

func (s system) pids(p string) ([]int, error) {
	if err := checkPath(p); err != nil {
		return nil, err
	}
	_, hierarchies, err := s.mounts()
	if err != nil {
		return nil, err
	}
	var out []int
	for _, h := range hierarchies {
		dirs, err := subtree(filepath.Join(h.dir, p))
		if err != nil {
			return nil, fmt.Errorf("listing cgroup %s: %w", p, err)
		}
		for _, dir := range dirs {
			pids, err := procs(dir)
			if err != nil {
				return nil, fmt.Errorf("listing the processes of cgroup %s: %w", p, err)
			}
			out = append(out, pids...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func procs(dir string) ([]int, error) {
	content, err := readTrimmed(filepath.Join(dir, "cgroup.procs"))
	if isAbsent(err) || errors.Is(err, syscall.ENODEV) {
		return nil, nil // the cgroup was removed before or while it was read
	}
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, nil // a threaded cgroup: its processes are listed in the domain cgroup above it
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for line := range strings.FieldsSeq(content) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			return nil, fmt.Errorf("%s/cgroup.procs: %w", dir, err)
		}
		out = append(out, pid)
	}
	return out, nil
}

// describe names processes as "12 (sleep), 13 (sh)"; at most ten, for an error message.
func (s system) describe(pids []int) string {
	const most = 10
	var names []string
	for _, pid := range pids[:min(len(pids), most)] {
		comm, err := readTrimmed(filepath.Join(s.root, "proc", strconv.Itoa(pid), "comm"))
		if err != nil {
			comm = "gone"
		}
		names = append(names, fmt.Sprintf("%d (%s)", pid, comm))
	}
	if len(pids) > most {
		names = append(names, fmt.Sprintf("and %d more", len(pids)-most))
	}
	return strings.Join(names, ", ")
}
