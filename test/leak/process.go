package leak

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// MarkerVar is the environment variable that Check sets, once a test process, to a value of that process's own. What
// the test starts inherits it, so that a daemon which left the process tree is still known as the test's.
const MarkerVar = "ORLOP_LEAK_MARKER"

// mark sets the marker at its first call.
var mark = sync.OnceValue(func() error {
	stat, err := readStat(os.Getpid())
	if err != nil {
		return err
	}
	return os.Setenv(MarkerVar, fmt.Sprintf("%d-%s", os.Getpid(), stat.start))
})

// stat is the part of /proc/PID/stat that matters here.
type stat struct {
	parent int
	state  string
	start  string // clock ticks since boot: with the pid it names one process for good
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The command name is in parentheses and may hold spaces and parentheses of its own.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return stat{}, errors.New("short /proc/PID/stat")
	}
	parent, err := strconv.Atoi(fields[1])
	return stat{parent: parent, state: fields[0], start: fields[19]}, err
}

// processes lists the living processes of the test's, the test process itself and zombies excepted.
func (s *scope) processes() ([]thing, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	stats := map[int]stat{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil {
			stats[pid] = st
		}
	}
	var found []thing
	self := os.Getpid()
	for pid, st := range stats {
		if pid == self || st.state == "Z" || st.state == "X" || isAncestor(stats, pid, self) {
			continue
		}
		args := procStrings(pid, "cmdline")
		if isAncestor(stats, self, pid) || s.marked(pid) || s.works(pid, args) {
			text := fmt.Sprintf("%d (parent %d): %s", pid, st.parent, strings.Join(args, " "))
			found = append(found, thing{"process", strconv.Itoa(pid) + "@" + st.start, text})
		}
	}
	return found, nil
}

// isAncestor reports whether process a is a forebear of process b.
func isAncestor(stats map[int]stat, a, b int) bool {
	for range len(stats) {
		st, ok := stats[b]
		if !ok || st.parent == 0 {
			return false
		}
		if st.parent == a {
			return true
		}
		b = st.parent
	}
	return false
}

func (s *scope) marked(pid int) bool {
	return slices.Contains(procStrings(pid, "environ"), MarkerVar+"="+os.Getenv(MarkerVar))
}

// works reports whether the process works in, or was given, a directory of the test's.
func (s *scope) works(pid int, args []string) bool {
	for _, link := range []string{"cwd", "root"} {
		if target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), link)); err == nil && s.owns(target) {
			return true
		}
	}
	return slices.ContainsFunc(args, func(arg string) bool {
		if _, value, ok := strings.Cut(arg, "="); ok && s.owns(value) {
			return true
		}
		return s.owns(arg)
	})
}

// procStrings reads a file of NUL-terminated strings beneath /proc/PID; a process that is gone has none.
func procStrings(pid int, name string) []string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}
