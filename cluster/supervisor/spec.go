// Package supervisor runs a set of processes: in the order their readiness allows, each with a log file of its
// own, restarted with backoff when it ends, stopped in the reverse order.
//
// It knows nothing of Kubernetes. A Spec says what a process is; Supervisor.Run holds all of them up until its
// context ends, and returns when the last is gone. Children carry a parent-death signal: when the
// supervising process is killed, so are they.
package supervisor

import (
	"context"
	"syscall"
	"time"
)

// Spec describes a supervised process. It is not changed after New.
type Spec struct {
	Name string   // unique; also the log file's name
	Path string   // the executable
	Args []string // without the program's name
	Env  []string // added to the supervisor's own environment

	// Netns is the path of the network namespace to start the process in; empty for the supervisor's own.
	Netns string

	// After names the processes that must be ready before this one is started. At the stop the order is
	// reversed: this one ends before they are asked to.
	After []string

	// Uses names processes that this one needs as well, but waits for by itself: the start is not held up, the
	// order of the stop is as with After.
	Uses []string

	// Gate, when not nil, is polled after that until it returns nil, and the process started only then.
	Gate func(context.Context) error

	// Ready says whether the process serves: nil when it does, otherwise why not. It is polled every
	// PollInterval until it first returns nil, each time with a context of ProbeTimeout. A nil Ready
	// means ready as soon as started.
	Ready func(context.Context) error

	ProbeTimeout time.Duration // how long one call of Gate or Ready may take; 0 means DefaultProbeTimeout

	// PreStop runs before the process is asked to end, when all that depend on it have ended. It is given
	// the stop's context.
	PreStop func(context.Context) error

	StopTimeout time.Duration // how long after SIGTERM SIGKILL follows; 0 means DefaultStopTimeout
}

// PollInterval is how often readiness is asked for.
const PollInterval = 100 * time.Millisecond

// DefaultProbeTimeout is how long one look at a process may take.
const DefaultProbeTimeout = time.Second

// DefaultStopTimeout is how long a process has to end by itself.
const DefaultStopTimeout = 10 * time.Second

// Restarts wait minBackoff, doubling to maxBackoff; a process that was ready for steadyAfter starts over.
const (
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 10 * time.Second
	steadyAfter = 30 * time.Second
)

// State is where a process is in its life.
type State string

// The states of a process.
const (
	Waiting  State = "waiting"  // for the processes it comes after
	Starting State = "starting" // started, not yet ready
	Ready    State = "ready"
	Failed   State = "failed" // ended unasked; will be started again after the backoff
	Stopping State = "stopping"
	Stopped  State = "stopped"
)

// Status is a snapshot of one process.
type Status struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`                  // when the state was entered
	Reason   string    `json:"reason,omitempty"`       // why it is not ready, or why it last ended
	Log      string    `json:"log"`                    // its log file
	LastLog  []string  `json:"lastLog,omitempty"`      // of a process that is not ready
	Took     float64   `json:"readySeconds,omitempty"` // from start to ready, in seconds
}

const stopSignal = syscall.SIGTERM
