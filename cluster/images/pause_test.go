package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestPauseRef(t *testing.T) {
	dir := t.TempDir()
	ref := func(program string) string {
		path := filepath.Join(dir, "pause")
		if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
			t.Fatal(err)
		}
		ref, err := PauseRef(path)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	one, two := ref("one"), ref("two")
	if one == two || one != ref("one") {
		t.Errorf("one is %s, two is %s: want a name for each program", one, two)
	}
	if full, err := Normalize(one); err != nil || full != one {
		t.Errorf("%s normalizes to %q, %v", one, full, err)
	}
	if _, err := PauseRef(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("a missing program: %v", err)
	}
}

func TestEnsurePause(t *testing.T) {
	n := startNode(t)
	ctx, client := n.client(t)
	want, err := PauseRef(n.pause)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // made, then found
		if ref, err := EnsurePause(ctx, n.socket, n.pause); err != nil || ref != want {
			t.Fatalf("got %q, %v; want %q", ref, err, want)
		}
	}
	all, err := List(ctx, n.socket)
	if err != nil || len(all) != 1 || all[0].Name != want || !all[0].Pinned {
		t.Errorf("want one pinned image %s, got %+v, %v", want, all, err)
	}

	// An image that lost its name is made again.
	if err := client.ImageService().Delete(ctx, want); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsurePause(ctx, n.socket, n.pause); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetImage(ctx, want); err != nil {
		t.Error(err)
	}
}

// The whole way of a pod with the configuration of the bundled cluster: containerd, shim, runc with seccomp, and the
// sandbox image; containers survive a restart of containerd.
func TestSandboxRuns(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	ref, err := EnsurePause(ctx, n.socket, n.pause)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+n.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	cri := criapi.NewRuntimeServiceClient(conn)
	profile := &criapi.SecurityProfile{ProfileType: criapi.SecurityProfile_RuntimeDefault}
	hostNetwork := &criapi.NamespaceOption{Network: criapi.NamespaceMode_NODE}
	sandbox := &criapi.PodSandboxConfig{
		Metadata:     &criapi.PodSandboxMetadata{Name: "p", Namespace: "default", Uid: "u"},
		LogDirectory: filepath.Join(n.dir, "logs"),
		Linux: &criapi.LinuxPodSandboxConfig{
			CgroupParent:    testCgroup(t),
			SecurityContext: &criapi.LinuxSandboxSecurityContext{NamespaceOptions: hostNetwork, Seccomp: profile},
		},
	}
	pod, err := cri.RunPodSandbox(ctx, &criapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	id := pod.GetPodSandboxId()
	remove := func() {
		if _, err := cri.StopPodSandbox(ctx, &criapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := cri.RemovePodSandbox(ctx, &criapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
	defer remove()

	container, err := cri.CreateContainer(ctx, &criapi.CreateContainerRequest{PodSandboxId: id, SandboxConfig: sandbox,
		Config: &criapi.ContainerConfig{
			Metadata: &criapi.ContainerMetadata{Name: "c"},
			Image:    &criapi.ImageSpec{Image: ref},
			LogPath:  "c.log",
			Linux: &criapi.LinuxContainerConfig{
				SecurityContext: &criapi.LinuxContainerSecurityContext{NamespaceOptions: hostNetwork, Seccomp: profile}},
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri.StartContainer(ctx, &criapi.StartContainerRequest{ContainerId: container.GetContainerId()}); err != nil {
		t.Fatal(err)
	}

	n.stop(t)
	n.start(t)
	status, err := cri.ContainerStatus(ctx, &criapi.ContainerStatusRequest{ContainerId: container.GetContainerId()},
		grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if state := status.GetStatus().GetState(); state != criapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after a restart of containerd the container is %v, want running", state)
	}
}
