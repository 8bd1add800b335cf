package supervisor

import (
	"os/exec"

	"github.com/orlop-io/orlop/cluster/osthread"
)

// spawner starts processes from one operating-system thread of its own. Two things of a child belong to the
// thread that forked it: the parent-death signal, sent when that thread ends, and the network namespace. Go
// moves goroutines between threads, so neither is certain without a thread that lives as long as the children.
type spawner struct {
	requests chan spawnRequest
}

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

// newSpawner starts the thread, in the network namespace at netns unless that is empty.
func newSpawner(netns string) (*spawner, error) {
	s := &spawner{requests: make(chan spawnRequest)}
	entered := make(chan error)
	osthread.Start(func() {
		if netns != "" {
			if err := osthread.JoinNetns(netns); err != nil {
				entered <- err
				return
			}
		}
		entered <- nil
		for r := range s.requests {
			r.reply <- r.cmd.Start()
		}
	})
	return s, <-entered
}

func (s *spawner) start(cmd *exec.Cmd) error {
	r := spawnRequest{cmd: cmd, reply: make(chan error, 1)}
	s.requests <- r
	return <-r.reply
}

// close ends the thread, and with it every child still alive.
func (s *spawner) close() { close(s.requests) }
