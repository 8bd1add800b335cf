package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cluster/images"
)

// podStopSeconds is what containers have to end when the whole cluster stops. Pods' own grace periods can be
// minutes; `orlop kubectl delete` or drain honour those.
const podStopSeconds = 10

func (c *Cluster) withRuntime(fn func(cri.RuntimeServiceClient) error) (err error) {
	// The socket is root's alone.
	conn, err := grpc.NewClient("unix://"+c.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return fn(cri.NewRuntimeServiceClient(conn))
}

// runtimeReady says whether containerd serves, and puts the sandbox image there before the kubelet asks for it.
func (c *Cluster) runtimeReady(ctx context.Context) error {
	// Dialing before it is there has gRPC write a warning to the terminal each time.
	if _, err := os.Stat(c.ContainerdSocket()); err != nil {
		return fmt.Errorf("it does not listen yet: %w", err)
	}
	err := c.withRuntime(func(r cri.RuntimeServiceClient) error {
		_, err := r.Version(ctx, &cri.VersionRequest{})
		return err
	})
	if err != nil {
		return err
	}
	_, err = images.EnsurePause(ctx, c.ContainerdSocket(), c.bin("pause"))
	return err
}

// stopPods stops every container and sandbox of the node, side by side. The kubelet has ended by now and restarts
// none of them.
func (c *Cluster) stopPods(ctx context.Context) error {
	return c.withRuntime(func(r cri.RuntimeServiceClient) error {
		containers, err := r.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
			State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
		if err != nil {
			return fmt.Errorf("listing containers: %w", err)
		}
		sandboxes, err := r.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return fmt.Errorf("listing pods: %w", err)
		}
		var group errgroup.Group
		for _, x := range containers.Containers {
			group.Go(func() error {
				_, err := r.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: x.Id, Timeout: podStopSeconds})
				if err != nil {
					return fmt.Errorf("stopping container %s: %w", x.GetMetadata().GetName(), err)
				}
				return nil
			})
		}
		err = group.Wait()
		group = errgroup.Group{}
		for _, x := range sandboxes.Items {
			if x.State != cri.PodSandboxState_SANDBOX_READY {
				continue
			}
			group.Go(func() error {
				_, err := r.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: x.Id})
				if err != nil {
					return fmt.Errorf("stopping pod %s/%s: %w", x.GetMetadata().GetNamespace(), x.GetMetadata().GetName(), err)
				}
				return nil
			})
		}
		return errors.Join(err, group.Wait())
	})
}
