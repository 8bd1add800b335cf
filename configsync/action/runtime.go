package action

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Runtime is the seam to the container runtime of the node. Its methods may be called from several goroutines; each ends
// when its context does. Package cri has the real one.
type Runtime interface {
	// Containers returns the running containers of a pod.
	Containers(ctx context.Context, podUID string) ([]Container, error)
	// Address returns the pod's IP address, and nothing for a pod in the network of its host.
	Address(ctx context.Context, podUID string) (string, error)
	// Exec runs a command in a container, for at most the timeout, and returns its exit code. What the command prints is
	// thrown away.
	Exec(ctx context.Context, container string, command []string, timeout time.Duration) (int, error)
	// Signal sends a signal to the first process of a container. It returns ErrUnhandled without sending it where the
	// kernel would drop it.
	Signal(ctx context.Context, container string, s Signal) error
	// Stop ends a container as the kubelet does: its stop signal, and SIGKILL after the grace period.
	Stop(ctx context.Context, container string, grace time.Duration) error
}

var (
	// ErrUnavailable is a runtime that cannot be reached. The action waits for it.
	ErrUnavailable = errors.New("the container runtime cannot be reached")
	// ErrNotRunning is a container that ended meanwhile. There is nothing left to do: its successor reads the new files.
	ErrNotRunning = errors.New("the container is not running any more")
	// ErrUnhandled is a signal that the container's process has no handler for. The kernel drops such a signal where the
	// process is the first of its PID namespace.
	ErrUnhandled = errors.New("the process has no handler for the signal, which the kernel drops for the first process " +
		"of a container; let the program that handles it be the container's own command, started with exec")
)

// Container is a running container of a pod.
type Container struct {
	// ID is the runtime's.
	ID   string
	Name string
	// Mounts are the paths on the host of what is mounted into it.
	Mounts []string
	Ports  []corev1.ContainerPort
	// Grace is the pod's grace period for its end.
	Grace time.Duration
	// PreStop is what the kubelet would have run before it stops the container, nil for nothing.
	PreStop *corev1.LifecycleHandler
}
