package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/provisioner"
)

const nodeAgentName = "orlop-storage-node" // of the user agent and the events' source

// stateDir keeps what the provisioner is about to do: beside the pool, which is the driver's alone.
func (n *Node) stateDir() string { return n.Pool + ".provisioner" }

// provision runs the provisioner of this node's volumes against the CSI socket. Without an API server there is none.
func (n *Node) provision(ctx context.Context, metrics prometheus.Registerer) (err error) {
	if !n.hasAPI() {
		klog.FromContext(ctx).Info("Neither --kubeconfig nor --in-cluster is given: serving CSI alone")
		return nil
	}
	config, err := n.api(nodeAgentName)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	// The socket is root's alone; CSI knows no TLS on it.
	conn, err := grpc.NewClient("unix://"+n.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	journal, err := provisioner.OpenFileJournal(n.stateDir(), klog.Background().WithName("journal"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	recorder, stop := newRecorder(ctx, client, nodeAgentName)
	defer stop()
	p, err := provisioner.NewNode(provisioner.NodeConfig{
		Client: client, Conn: conn, Journal: journal, Recorder: recorder, Metrics: metrics,
		Driver: localDriver, NodeName: n.Name, Log: klog.Background().WithName("provisioner"),
		// By which claims that bind at once are given a node with room.
		Capacity: &provisioner.CapacityConfig{Namespace: systemNamespace},
	})
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// newRecorder writes events, those about the work's last steps included: it outlives ctx until stop is called.
func newRecorder(ctx context.Context, client kubernetes.Interface, component string) (_ record.EventRecorder, stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(corev1.NamespaceAll)})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
	return recorder, func() {
		broadcaster.Shutdown()
		cancel()
	}
}
