package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/csi/host"
)

const (
	controllersName = "orlop-storage-controllers" // of the lease, the user agent and the events' source
	systemNamespace = "orlop-system"
	protobuf        = "application/vnd.kubernetes.protobuf"
)

// Controllers is the part of Orlop's storage that one process does for a whole cluster.
type Controllers struct {
	// Kubeconfig is the file that says how to reach the API server, and as whom; empty within a pod.
	Kubeconfig string
	// HTTPSocket is the path of a Unix socket that serves /readyz and /metrics; empty for none.
	HTTPSocket string
	// HTTPAddress is an address (host:port, the host may be empty) that serves the same over TCP; empty for none.
	HTTPAddress string
	// Volumes binds claims to volumes. Without it, the cluster's kube-controller-manager does.
	Volumes bool
	// LeaderElect makes the process wait until no other one works. Without it, it must be the only one.
	LeaderElect bool
	// LeaderElectNamespace holds the lease by which processes take turns.
	LeaderElectNamespace string
	// Workers is how many claims, and how many volumes, are worked on at a time.
	Workers int
	// Rollouts is how workloads are rolled when their configuration changes.
	Rollouts Rollouts
	// Versions is how unused versions of configuration are collected.
	Versions Versions
	// Host makes the system calls; nil for an ordinary one.
	Host *host.Host
}

func newControllersCommand() *cobra.Command {
	c := &Controllers{}
	cmd := &cobra.Command{
		Use:   "controllers",
		Short: "Bind claims to volumes and roll workloads, for the whole cluster",
		Long: `Bind PersistentVolumeClaims to PersistentVolumes, carry out the reclaim policy of volumes whose
claim is gone, and choose a node for claims that do not wait for a pod. Roll workloads
that ask for it when a ConfigMap or Secret that they use changes. Delete immutable ConfigMaps
and Secrets that ask for it once nothing refers to them.

For volumes this takes the place of two controllers of kube-controller-manager, which must be off:
  --controllers=*,-persistentvolume-binder-controller,-persistentvolume-expander-controller
Where they are on, give --volumes=false.

Several replicas may run: one works, the others wait until it stops.`,
		Example: `  orlop-storage controllers --kubeconfig /var/lib/orlop/pki/storage-controllers.kubeconfig`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: the pod's service account)")
	f.StringVar(&c.HTTPSocket, "http-socket", "", "Unix socket that serves /readyz and /metrics (default: none)")
	f.StringVar(&c.HTTPAddress, "http-address", "", "address (as :9808) that serves the same, without TLS (default: none)")
	f.BoolVar(&c.Volumes, "volumes", true, "bind claims to volumes; false where kube-controller-manager does")
	f.BoolVar(&c.LeaderElect, "leader-elect", true, "wait for a lease, so that one of several replicas works")
	f.StringVar(&c.LeaderElectNamespace, "leader-elect-namespace", systemNamespace, "namespace of the lease")
	f.IntVar(&c.Workers, "workers", 16, "how many claims, and volumes, are worked on at a time")
	c.Rollouts.addFlags(f)
	c.Versions.addFlags(f)
	addLogFlags(cmd)
	return cmd
}

// Run works until the context ends; it returns nil then. An error means that the process should start anew.
func (c *Controllers) Run(ctx context.Context) error {
	if c.Workers < 1 {
		return fmt.Errorf("--workers is %d: give at least 1", c.Workers)
	}
	if !c.Volumes && !c.Rollouts.Enabled && !c.Versions.Collect {
		return errors.New("--volumes=false, --rollouts=false and --collect=false leave nothing to do: leave one of them out")
	}
	config, err := clientConfig(c.Kubeconfig, controllersName)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	registry := prometheus.NewRegistry()
	if err := registerProcessMetrics(registry); err != nil {
		return err
	}
	recorder, stopRecording := newRecorder(ctx, client, controllersName)
	defer stopRecording()
	var volumes *volumeControllers
	if c.Volumes {
		if volumes, err = newVolumeControllers(ctx, client, recorder, registry, c.Workers); err != nil {
			return err
		}
		defer volumes.stop()
	}
	rollouts, err := c.Rollouts.controller(client, recorder, registry)
	if err != nil {
		return err
	}
	versions, err := c.Versions.controller(config, client, recorder, registry)
	if err != nil {
		return err
	}
	work := func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return rollouts(ctx) })
		group.Go(func() error { return versions(ctx) })
		if c.Volumes {
			group.Go(func() error { return volumes.run(ctx) })
		}
		return group.Wait()
	}

	var ready atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	if c.Volumes {
		group.Go(func() error {
			if volumes.read(ctx) {
				ready.Store(true)
			}
			return nil
		})
	}
	h := c.Host
	if h == nil {
		h = host.New(nil)
	}
	group.Go(func() error {
		return serveHTTP(ctx, h, c.HTTPSocket, c.HTTPAddress, registry, func() error {
			switch {
			case ready.Load():
				return nil
			case c.Volumes:
				return errors.New("claims and volumes have not been read yet")
			}
			return fmt.Errorf("nobody is known to hold the lease %s/%s yet", c.LeaderElectNamespace, controllersName)
		})
	})
	group.Go(func() error {
		// Without volumes nothing need be read in advance: the process is of use once it works, or knows who does.
		known := func() {
			if !c.Volumes {
				ready.Store(true)
			}
		}
		if !c.LeaderElect {
			known()
			return work(ctx)
		}
		return lead(ctx, client, c.LeaderElectNamespace, known, work)
	})
	return group.Wait()
}

// clientConfig reads how to reach the API server. Nothing is throttled on this side: the API server shares out its
// capacity by priority and fairness.
func clientConfig(kubeconfig, agent string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("not in a pod, so --kubeconfig is needed: %w", err)
		}
	} else if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = protobuf, protobuf+",application/json"
	// Deprecations in other people's volumes are not news for this log.
	config.WarningHandler = rest.NoWarnings{}
	return rest.AddUserAgent(config, agent), nil
}

// registerProcessMetrics registers what every program tells of itself.
func registerProcessMetrics(registry prometheus.Registerer) error {
	return errors.Join(registry.Register(collectors.NewGoCollector()),
		registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
}
