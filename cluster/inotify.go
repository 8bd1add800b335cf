package cluster

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// inotifyInstances is what a cluster needs (28, measured: most of them watch certificates), with some to spare for its pods.
const inotifyInstances = 32

// checkInotify refuses to start where not that many are left: the kubelet would merely log that it cannot watch for
// plugins, and the storage wait for ever to be registered. The limit (128 on many systems) is a user's, and shared by all
// that root runs, other clusters among them.
func checkInotify() (err error) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	for range inotifyInstances {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			return fmt.Errorf("root has only %d of the %d inotify instances left that a cluster may need; "+
				"run 'sysctl fs.inotify.max_user_instances=1024', or stop what holds them (another cluster?)",
				len(fds), inotifyInstances)
		} else if err != nil {
			return fmt.Errorf("inotify: %w", err)
		}
		fds = append(fds, fd)
	}
	return nil
}
