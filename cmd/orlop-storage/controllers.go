package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/host"
	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/pvcontroller"
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

This takes the place of two controllers of kube-controller-manager, which must be off:
  --controllers=*,-persistentvolume-binder-controller,-persistentvolume-expander-controller

Several replicas may run: one works, the others wait until it stops.`,
		Example: `  orlop-storage controllers --kubeconfig /var/lib/orlop/pki/storage-controllers.kubeconfig`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.Run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: the pod's service account)")
	f.StringVar(&c.HTTPSocket, "http-socket", "", "Unix socket that serves /readyz and /metrics (default: none)")
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
	config, err := clientConfig(c.Kubeconfig, controllersName)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	registry := prometheus.NewRegistry()
	observe, err := registerControllerMetrics(registry)
	if err != nil {
		return err
	}
	// What serves the work must outlive it: the informers, and the events about the work's last steps.
	serve, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(pvcontroller.Transform))
	defer factory.Shutdown()
	defer stopServing()
	recorder, stopRecording := newRecorder(ctx, client, controllersName)
	defer stopRecording()

	pv, err := pvcontroller.New(pvcontroller.Config{
		Client: client, Informers: factory, Observe: observe, Logger: klog.Background().WithName("pvcontroller"),
		Recorder: recorder,
	})
	if err != nil {
		return err
	}
	leader, err := provisioner.NewLeader(provisioner.LeaderConfig{
		Client: client, Informers: factory, Recorder: recorder, Driver: localDriver, TopologyKey: localTopology,
		Log: klog.Background().WithName("provisioner"),
	})
	if err != nil {
		return err
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
		group.Go(func() error { return pv.Run(ctx, c.Workers) })
		group.Go(func() error { return leader.Run(ctx) })
		return group.Wait()
	}

	factory.StartWithContext(serve)
	var synced atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, ok := range factory.WaitForCacheSync(ctx.Done()) {
			if !ok {
				return nil // The context ended first.
			}
		}
		synced.Store(true)
		return nil
	})
	if c.HTTPSocket != "" {
		h := c.Host
		if h == nil {
			h = host.New(nil)
		}
		group.Go(func() error {
			return serveHTTP(ctx, h, c.HTTPSocket, registry, func() error {
				if !synced.Load() {
					return errors.New("claims and volumes have not been read yet")
				}
				return nil
			})
		})
	}
	group.Go(func() error {
		if !c.LeaderElect {
			return work(ctx)
		}
		return lead(ctx, client, c.LeaderElectNamespace, work)
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

// registerControllerMetrics returns what reports each reconciliation to the registry.
func registerControllerMetrics(registry *prometheus.Registry) (func(string, time.Duration, error), error) {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "orlop_pvcontroller_sync_duration_seconds",
		Help:    "Time that reconciliations of claims and volumes took, in seconds, by queue and result (ok or error).",
		Buckets: []float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"queue", "result"})
	for _, collector := range []prometheus.Collector{
		took, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return func(queue string, d time.Duration, err error) {
		result := "ok"
		if err != nil {
			result = "error"
		}
		took.WithLabelValues(queue, result).Observe(d.Seconds())
	}, nil
}
