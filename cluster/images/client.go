package images

import (
	"context"
	"errors"
	"fmt"
	"net"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespace is where containerd's CRI plugin keeps the kubelet's images.
const namespace = "k8s.io"

// runtimeClient is a connection to one containerd, with its own API and the one that the kubelet uses.
type runtimeClient struct {
	*containerd.Client
	cri criapi.ImageServiceClient
}

// connect returns a client of the containerd at socket, a file path, and a context that selects the kubelet's
// namespace in its calls. The caller closes the client.
func connect(ctx context.Context, socket string) (context.Context, *runtimeClient, error) {
	// gRPC connects lazily and retries: a plain connection first tells at once that nobody listens.
	var dialer net.Dialer
	probe, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("%w at %s: %w; start the cluster with \"orlop up\"", ErrNoRuntime, socket, err)
	}
	if err := probe.Close(); err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket of root's own
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
			grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
	if err != nil {
		return nil, nil, fmt.Errorf("%w at %s: %w", ErrNoRuntime, socket, err)
	}
	client, err := containerd.NewWithConn(conn)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return namespaces.WithNamespace(ctx, namespace),
		&runtimeClient{Client: client, cri: criapi.NewImageServiceClient(conn)}, nil
}
