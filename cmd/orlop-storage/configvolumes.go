package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/configsync/action/cri"
	"github.com/orlop-io/orlop/csi/config"
	"github.com/orlop-io/orlop/csi/driver"
	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/csi/registration"
)

// configServed reports whether configuration volumes are served: they come from the API server.
func (n *Node) configServed() bool { return n.ConfigVolumes && n.hasAPI() }

func (n *Node) configSocket() string {
	return filepath.Join(n.KubeletDir, "plugins", config.DriverName, "csi.sock")
}

func (n *Node) configRegistrar(listen func(string) (net.Listener, error)) *registration.Registrar {
	return registration.New(config.DriverName, n.configSocket(), n.RegistrationDir, listen)
}

// configVolumes is the driver of configuration volumes while it is served.
type configVolumes struct {
	node      *Node
	host      *host.Host
	registrar *registration.Registrar
	serving   atomic.Bool
}

// ready says why pods cannot use configuration volumes, nil when they can.
func (c *configVolumes) ready() error {
	if !c.serving.Load() {
		return fmt.Errorf("the CSI socket of %s is not served", config.DriverName)
	}
	if c.node.RegistrationDir == "" {
		return nil
	}
	return c.registrar.Ready()
}

// run serves configuration volumes until ctx ends. Of the kubeconfig, or the service account, it uses where the API
// server is and how to know it; the node's own credentials are for the events alone.
func (c *configVolumes) run(ctx context.Context, metrics *driver.Metrics) (err error) {
	n := c.node
	api, err := n.api("orlop-storage-config")
	if err != nil {
		return err
	}
	events, err := kubernetes.NewForConfig(api)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	recorder, stop := newRecorder(ctx, events, nodeAgentName)
	defer stop()
	actions, closeActions, err := n.actions(recorder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeActions()) }()
	d, err := config.Open(ctx, config.Config{
		Version: version, NodeID: n.Name, API: api, StateDir: filepath.Join(n.RunDir, config.DriverName), Host: c.host,
		Recorder: recorder, Actions: actions,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	listener, err := c.host.ListenUnix(n.configSocket())
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Serving", "driver", config.DriverName, "version", version, "node", n.Name,
		"socket", n.configSocket())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		c.serving.Store(true)
		defer c.serving.Store(false)
		return driver.NewServer(d, metrics.Of(config.DriverName)).Serve(ctx, listener)
	})
	if n.RegistrationDir != "" {
		group.Go(func() error { return c.registrar.Run(ctx) })
	}
	return group.Wait()
}

// actions returns what acts on changes of configuration volumes, nil for nothing, and its end.
func (n *Node) actions(recorder record.EventRecorder) (*action.Runner, func() error, error) {
	if n.CRIEndpoint == "" {
		return nil, func() error { return nil }, nil
	}
	runtime, err := cri.New(n.CRIEndpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("--cri-endpoint: %w", err)
	}
	runner := action.NewRunner(action.Options{Runtime: runtime, Recorder: recorder, HostIP: n.IP, Log: func(err error) {
		klog.ErrorS(err, "A change of a configuration volume may be acted on once more")
	}})
	return runner, func() error {
		runner.Close()
		return runtime.Close()
	}, nil
}
