package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/driver"
	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/local"
	"github.com/orlop-io/orlop/csi/local/dir"
	"github.com/orlop-io/orlop/csi/local/loop"
	"github.com/orlop-io/orlop/csi/registration"
	"github.com/orlop-io/orlop/csi/volume"
)

// Names of the driver of node-local volumes.
const (
	localDriver   = "local.csi.orlop.io"
	localTopology = "topology.local.csi.orlop.io/node"
)

func (n *Node) socket() string {
	if n.Socket != "" {
		return n.Socket
	}
	return filepath.Join(n.KubeletDir, "plugins", localDriver, "csi.sock")
}

func (n *Node) registrar(listen func(string) (net.Listener, error)) *registration.Registrar {
	return registration.New(localDriver, n.socket(), n.RegistrationDir, listen)
}

// localVolumes is the driver of node-local volumes, with the provisioner of this node's, while they are served.
type localVolumes struct {
	node      *Node
	pool      *local.Pool
	listener  net.Listener
	registrar *registration.Registrar
	serving   atomic.Bool
}

// openLocalVolumes opens the pool and the CSI socket. Run it, then close it.
func (n *Node) openLocalVolumes(ctx context.Context, h *host.Host) (*localVolumes, error) {
	pool, err := local.Open(ctx, local.Config{
		Path: n.Pool, ClusterID: n.ClusterID, Host: h, Media: []local.Medium{loop.New(h), dir.New(h)},
	})
	if err != nil {
		return nil, err
	}
	listener, err := h.ListenUnix(n.socket())
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	if err := h.CanMakeExt4(); err != nil {
		klog.FromContext(ctx).Error(err, "No volumes of backend loop can be made; those that exist, and backend dir, work")
	}
	klog.FromContext(ctx).Info("Serving", "driver", localDriver, "version", version, "node", n.Name, "pool", n.Pool,
		"socket", n.socket())
	return &localVolumes{node: n, pool: pool, listener: listener, registrar: n.registrar(h.ListenUnix)}, nil
}

func (l *localVolumes) close() error { return l.pool.Close() }

// ready says why pods cannot use node-local volumes, nil when they can.
func (l *localVolumes) ready() error {
	if !l.serving.Load() {
		return fmt.Errorf("the CSI socket of %s is not served", localDriver)
	}
	err := l.pool.Ready()
	if l.node.RegistrationDir != "" {
		err = errors.Join(err, l.registrar.Ready())
	}
	return err
}

// run serves node-local volumes, and provisions them where there is an API server, until ctx ends.
func (l *localVolumes) run(ctx context.Context, metrics *driver.Metrics, registry prometheus.Registerer) error {
	info := driver.Info{Name: localDriver, Version: version, NodeID: l.node.Name, TopologyKey: localTopology}
	server := driver.NewServer(driver.New(info, volume.Serialize(l.pool), l.pool.Ready), metrics.Of(localDriver))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.pool.Run(ctx) })
	group.Go(func() error {
		l.serving.Store(true)
		defer l.serving.Store(false)
		return server.Serve(ctx, l.listener)
	})
	if l.node.RegistrationDir != "" {
		group.Go(func() error { return l.registrar.Run(ctx) })
	}
	group.Go(func() error { return l.node.provision(ctx, registry) })
	return group.Wait()
}
