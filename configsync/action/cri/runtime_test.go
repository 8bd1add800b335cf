package cri

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/configsync/action"
)

// server is a container runtime on a socket that has one pod, "uid", with one running container, "c1".
type server struct {
	cri.UnimplementedRuntimeServiceServer

	pid     int
	state   cri.ContainerState
	hostNet bool
	exec    func(*cri.ExecSyncRequest) (*cri.ExecSyncResponse, error)
	stopped *cri.StopContainerRequest
}

func serve(t *testing.T, s *server) *Runtime {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(g, s)
	served := make(chan error)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return dial(t, socket)
}

func dial(t *testing.T, socket string) *Runtime {
	t.Helper()
	r, err := New("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (s *server) ListContainers(_ context.Context, r *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	answer := &cri.ListContainersResponse{}
	if r.Filter.LabelSelector[labelPodUID] == "uid" && r.Filter.State.State == cri.ContainerState_CONTAINER_RUNNING {
		for _, id := range []string{"c1", "ended"} {
			answer.Containers = append(answer.Containers, &cri.Container{Id: id,
				Labels: map[string]string{labelContainer: "app"},
				Annotations: map[string]string{annotationGrace: "7", annotationPorts: `[{"name":"admin","containerPort":80,"protocol":"TCP"}]`,
					annotationPreStop: `{"sleep":{"seconds":3}}`}})
		}
	}
	return answer, nil
}

func (s *server) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	if r.ContainerId != "c1" {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	answer := &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{State: s.state, Mounts: []*cri.Mount{{HostPath: "/v"}}}}
	if r.Verbose {
		info, err := json.Marshal(map[string]any{"pid": s.pid, "sandboxID": "x"})
		if err != nil {
			return nil, err
		}
		answer.Info = map[string]string{"info": string(info)}
	}
	return answer, nil
}

func (s *server) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	if r.Filter.LabelSelector[labelPodUID] != "uid" {
		return &cri.ListPodSandboxResponse{}, nil
	}
	return &cri.ListPodSandboxResponse{Items: []*cri.PodSandbox{{Id: "s1"}}}, nil
}

func (s *server) PodSandboxStatus(context.Context, *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	mode := cri.NamespaceMode_POD
	if s.hostNet {
		mode = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{Network: &cri.PodSandboxNetworkStatus{Ip: "198.18.0.9"},
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: mode}}}}}, nil
}

func (s *server) ExecSync(_ context.Context, r *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	return s.exec(r)
}

func (s *server) StopContainer(_ context.Context, r *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	s.stopped = r
	return &cri.StopContainerResponse{}, nil
}

func TestContainers(t *testing.T) {
	r := serve(t, &server{})
	got, err := r.Containers(t.Context(), "uid")
	want := []action.Container{{ID: "c1", Name: "app", Mounts: []string{"/v"}, Grace: 7 * time.Second,
		Ports:   []corev1.ContainerPort{{Name: "admin", ContainerPort: 80, Protocol: "TCP"}},
		PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}}
	// One that ended between the two calls is left out.
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got, err := r.Containers(t.Context(), "another"); len(got) != 0 || err != nil {
		t.Errorf("another pod: %v, %v", got, err)
	}
	for _, annotation := range []string{annotationGrace, annotationPorts, annotationPreStop} {
		_, err := container(&cri.Container{Annotations: map[string]string{annotation: "?"}})
		if err == nil || !strings.Contains(err.Error(), annotation) {
			t.Errorf("%s: %v", annotation, err)
		}
	}
	if c, err := container(&cri.Container{}); err != nil || c.Grace != defaultGrace {
		t.Errorf("without annotations: %+v, %v", c, err)
	}
}

func TestAddress(t *testing.T) {
	s := &server{}
	r := serve(t, s)
	if got, err := r.Address(t.Context(), "uid"); got != "198.18.0.9" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := r.Address(t.Context(), "another"); err == nil {
		t.Errorf("a pod without a sandbox has the address %q", got)
	}
	s.hostNet = true
	if got, err := r.Address(t.Context(), "uid"); got != "" || err != nil {
		t.Errorf("in the host's network: %q, %v", got, err)
	}
}

func TestExec(t *testing.T) {
	s := &server{state: cri.ContainerState_CONTAINER_RUNNING, pid: 5}
	r := serve(t, s)
	s.exec = func(q *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
		if q.ContainerId != "c1" || !reflect.DeepEqual(q.Cmd, []string{"a", "b"}) || q.Timeout != 2 {
			t.Errorf("asked for %v", q)
		}
		// More than gRPC takes by default.
		return &cri.ExecSyncResponse{ExitCode: 3, Stdout: make([]byte, 16<<20), Stderr: make([]byte, 16<<20)}, nil
	}
	if code, err := r.Exec(t.Context(), "c1", []string{"a", "b"}, 1500*time.Millisecond); code != 3 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	for _, tt := range []struct {
		code  codes.Code
		state cri.ContainerState
		is    error
		says  string
	}{
		{codes.Unavailable, cri.ContainerState_CONTAINER_RUNNING, action.ErrUnavailable, "gone away"},
		{codes.DeadlineExceeded, cri.ContainerState_CONTAINER_RUNNING, nil, "timed out"},
		{codes.Unknown, cri.ContainerState_CONTAINER_RUNNING, nil, "run the command: gone away"},
		{codes.Unknown, cri.ContainerState_CONTAINER_EXITED, action.ErrNotRunning, ""},
		{codes.NotFound, cri.ContainerState_CONTAINER_RUNNING, action.ErrNotRunning, ""},
	} {
		s.state = tt.state
		s.exec = func(*cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
			return nil, status.Error(tt.code, "gone away")
		}
		_, err := r.Exec(t.Context(), "c1", []string{"a"}, time.Second)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || tt.is == nil && errors.Is(err, action.ErrNotRunning) ||
			!strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v, container %v: %v", tt.code, tt.state, err)
		}
	}
}

func TestStop(t *testing.T) {
	s := &server{}
	r := serve(t, s)
	if err := r.Stop(t.Context(), "c1", 1001*time.Millisecond); err != nil || s.stopped.ContainerId != "c1" || s.stopped.Timeout != 2 {
		t.Errorf("%v, %v", s.stopped, err)
	}
}

// Every call says that the runtime is not there, so that the action waits for it.
func TestUnavailable(t *testing.T) {
	r := dial(t, filepath.Join(t.TempDir(), "nobody"))
	_, containers := r.Containers(t.Context(), "uid")
	_, address := r.Address(t.Context(), "uid")
	_, exec := r.Exec(t.Context(), "c1", []string{"a"}, time.Second)
	for what, err := range map[string]error{"containers": containers, "address": address, "exec": exec,
		"signal": r.Signal(t.Context(), "c1", 1), "stop": r.Stop(t.Context(), "c1", time.Second)} {
		if !errors.Is(err, action.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSignalRefused(t *testing.T) {
	s := &server{state: cri.ContainerState_CONTAINER_EXITED, pid: 5}
	r := serve(t, s)
	if err := r.Signal(t.Context(), "c1", 1); !errors.Is(err, action.ErrNotRunning) {
		t.Errorf("a container that ended: %v", err)
	}
	if err := r.Signal(t.Context(), "c2", 1); !errors.Is(err, action.ErrNotRunning) {
		t.Errorf("a container that is gone: %v", err)
	}
	s.state = cri.ContainerState_CONTAINER_RUNNING
	for _, pid := range []int{-1, 0, 1} {
		s.pid = pid
		if err := r.Signal(t.Context(), "c1", 1); err == nil || !strings.Contains(err.Error(), "does not tell the number") {
			t.Errorf("process %s: %v", strconv.Itoa(pid), err)
		}
	}
}
