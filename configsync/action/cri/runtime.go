// Package cri acts on containers through the Container Runtime Interface, as containerd and CRI-O serve it: the real
// action.Runtime.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/configsync/action"
)

// The labels and annotations by which the kubelet describes its pods and containers to the runtime.
const (
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainer     = "io.kubernetes.container.name"
	annotationGrace    = "io.kubernetes.pod.terminationGracePeriod"
	annotationPorts    = "io.kubernetes.container.ports"
	annotationPreStop  = "io.kubernetes.container.preStopHandler"
	defaultGrace       = corev1.DefaultTerminationGracePeriodSeconds * time.Second
	callTimeout        = 10 * time.Second
	stopTimeout        = 30 * time.Second // what a runtime may take besides the grace period
	maxExecOutputBytes = 33 << 20         // twice the 16 MiB that a runtime returns at most of each stream
)

// Runtime speaks to one container runtime. Its methods may be called from several goroutines.
type Runtime struct {
	conn   *grpc.ClientConn
	client cri.RuntimeServiceClient
}

var _ action.Runtime = (*Runtime)(nil)

// New returns the runtime at a gRPC endpoint such as unix:///run/containerd/containerd.sock. It connects with the first
// call, and again whenever that is needed.
func New(endpoint string) (*Runtime, error) {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("container runtime %s: %w", endpoint, err)
	}
	return &Runtime{conn: conn, client: cri.NewRuntimeServiceClient(conn)}, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// failure turns an answer of the runtime into an error of package action.
func failure(what string, err error) error {
	switch status.Code(err) {
	case codes.Unavailable:
		err = fmt.Errorf("%w: %s", action.ErrUnavailable, status.Convert(err).Message())
	case codes.NotFound:
		err = action.ErrNotRunning
	case codes.DeadlineExceeded:
		err = errors.New("timed out")
	default:
		if s, ok := status.FromError(err); ok {
			err = errors.New(s.Message())
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Containers returns the running containers of a pod.
func (r *Runtime) Containers(ctx context.Context, podUID string) ([]action.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.client.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{labelPodUID: podUID},
	}})
	if err != nil {
		return nil, failure("list the pod's containers", err)
	}
	var containers []action.Container
	for _, c := range answer.Containers {
		s, err := r.client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
		if err != nil {
			if err = failure("look at container "+c.Labels[labelContainer], err); errors.Is(err, action.ErrNotRunning) {
				continue
			}
			return nil, err
		}
		found, err := container(c)
		if err != nil {
			return nil, err
		}
		for _, m := range s.Status.GetMounts() {
			found.Mounts = append(found.Mounts, m.HostPath)
		}
		containers = append(containers, found)
	}
	return containers, nil
}

// container reads what the kubelet wrote on a container.
func container(c *cri.Container) (action.Container, error) {
	found := action.Container{ID: c.Id, Name: c.Labels[labelContainer], Grace: defaultGrace}
	wrong := func(annotation string, err error) (action.Container, error) {
		return found, fmt.Errorf("container %s: annotation %s of the kubelet: %w", found.Name, annotation, err)
	}
	if text, ok := c.Annotations[annotationGrace]; ok {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return wrong(annotationGrace, err)
		}
		found.Grace = time.Duration(seconds) * time.Second
	}
	if text, ok := c.Annotations[annotationPorts]; ok {
		if err := json.Unmarshal([]byte(text), &found.Ports); err != nil {
			return wrong(annotationPorts, err)
		}
	}
	if text, ok := c.Annotations[annotationPreStop]; ok {
		found.PreStop = &corev1.LifecycleHandler{}
		if err := json.Unmarshal([]byte(text), found.PreStop); err != nil {
			return wrong(annotationPreStop, err)
		}
	}
	return found, nil
}

// Address returns the pod's IP address, and nothing for a pod in the network of its host.
func (r *Runtime) Address(ctx context.Context, podUID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State:         &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{labelPodUID: podUID},
	}})
	if err != nil {
		return "", failure("find the pod's sandbox", err)
	}
	for _, sandbox := range answer.Items {
		s, err := r.client.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox.Id})
		if err != nil {
			return "", failure("look at the pod's sandbox", err)
		}
		if s.Status.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE {
			return "", nil
		}
		if ip := s.Status.GetNetwork().GetIp(); ip != "" {
			return ip, nil
		}
	}
	return "", errors.New("the pod has no address yet")
}

// Exec runs a command in a container and returns its exit code.
func (r *Runtime) Exec(ctx context.Context, id string, command []string, timeout time.Duration) (int, error) {
	// The runtime kills the command after its timeout and says so; the deadline is for a runtime that does not.
	ctx, cancel := context.WithTimeout(ctx, timeout+callTimeout)
	defer cancel()
	seconds := int64((timeout + time.Second - 1) / time.Second)
	answer, err := r.client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: seconds},
		grpc.MaxCallRecvMsgSize(maxExecOutputBytes))
	if err != nil {
		err = failure("run the command", err)
		if _, gone := r.pid(ctx, id); errors.Is(gone, action.ErrNotRunning) {
			return 0, errors.Join(gone, err)
		}
		return 0, err
	}
	return int(answer.ExitCode), nil
}

// Stop ends a container: its stop signal, and SIGKILL after the grace period.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+stopTimeout)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	if _, err := r.client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds}); err != nil {
		return failure("stop the container", err)
	}
	return nil
}
