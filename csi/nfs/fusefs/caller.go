package fusefs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/orlop-io/orlop/csi/nfs/client"
	"github.com/orlop-io/orlop/csi/nfs/wire"
)

// killPoll is how often a call that waits looks whether its process was killed, once it had any signal.
const killPoll = 100 * time.Millisecond

// begin returns the context of a call, which ends when the process that made it is being killed. Call end.
func (fs *FS) begin(cancel <-chan struct{}, caller fuse.Caller) (_ context.Context, end func()) {
	ctx, stop := context.WithCancel(fs.ctx)
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case <-cancel:
		}
		tick := time.NewTicker(killPoll)
		defer tick.Stop()
		for !dying(caller.Pid) {
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
		stop()
	}()
	return ctx, func() {
		close(done)
		stop()
	}
}

// dying reports whether a thread has a signal pending that will end it: SIGKILL, or one that it neither handles, ignores nor
// blocks and whose default is to end the process.
func dying(pid uint32) bool {
	s, err := readStatus(pid)
	if err != nil {
		return true // it is gone, or in a place that cannot be seen
	}
	const bit = uint64(1)
	pending := s.pending
	if pending&(bit<<(syscall.SIGKILL-1)) != 0 {
		return true
	}
	for _, harmless := range []syscall.Signal{
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGWINCH, syscall.SIGCONT,
		syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
	} {
		pending &^= bit << (harmless - 1)
	}
	return pending&^(s.blocked|s.ignored|s.caught) != 0
}

// status is what /proc tells of a thread.
type status struct {
	groups                            []uint32
	pending, blocked, ignored, caught uint64
}

func readStatus(pid uint32) (s status, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		var mask *uint64
		switch name {
		case "Groups":
			for _, word := range strings.Fields(value) {
				g, err := strconv.ParseUint(word, 10, 32)
				if err != nil {
					return s, err
				}
				s.groups = append(s.groups, uint32(g))
			}
			continue
		case "SigPnd", "ShdPnd":
			m, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return s, err
			}
			s.pending |= m
			continue
		case "SigBlk":
			mask = &s.blocked
		case "SigIgn":
			mask = &s.ignored
		case "SigCgt":
			mask = &s.caught
		default:
			continue
		}
		if *mask, err = strconv.ParseUint(value, 16, 64); err != nil {
			return s, err
		}
	}
	return s, lines.Err()
}

// auth returns who makes a call. The protocol has room for 16 supplementary groups. Root's are of no use to it.
func auth(caller fuse.Caller) *wire.Auth {
	a := &wire.Auth{UID: caller.Uid, GID: caller.Gid}
	if caller.Uid != 0 && caller.Pid != 0 {
		if s, err := readStatus(caller.Pid); err == nil {
			a.Groups = s.groups
		}
	}
	return a
}

func (fs *FS) as(caller fuse.Caller) *client.Client { return fs.client.As(auth(caller)) }

// code returns the system error for a call's error.
func code(err error) fuse.Status {
	var status wire.Status
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &status):
		return fuse.Status(status.Errno())
	case errors.Is(err, context.Canceled):
		return fuse.EINTR
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return fuse.Status(syscall.ETIMEDOUT)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fuse.Status(errno)
	}
	return fuse.EIO
}
