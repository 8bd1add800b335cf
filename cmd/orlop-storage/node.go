package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/config"
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

// Node is the part of Orlop's storage that runs on every node: the CSI driver of node-local volumes, its registration
// with the kubelet, and the provisioner of this node's volumes.
type Node struct {
	// Name of the node, as in the cluster.
	Name string
	// KubeletDir is the kubelet's root directory.
	KubeletDir string
	// Pool is the directory that holds the volumes, ClusterID the cluster they belong to.
	Pool, ClusterID string
	// Socket is the path of the CSI socket; empty for the usual one in KubeletDir.
	Socket string
	// RegistrationDir is where the kubelet looks for drivers; empty for none.
	RegistrationDir string
	// HTTPSocket is the path of a Unix socket that serves /readyz and /metrics; empty for none.
	HTTPSocket string
	// Kubeconfig of the node's storage; empty runs the CSI driver alone.
	Kubeconfig string
	// ConfigVolumes serves configuration volumes too, where there is a Kubeconfig.
	ConfigVolumes bool
	// RunDir keeps what is worth nothing after a restart of the machine; empty for one in /run.
	RunDir string
	// CRIEndpoint is the container runtime's; where it is empty, changes of configuration volumes are not acted on. IP is the
	// node's address, for requests to pods in the node's own network.
	CRIEndpoint, IP string
	// Host makes the system calls; nil for an ordinary one.
	Host *host.Host
}

func newNodeCommand() *cobra.Command {
	n := &Node{}
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Serve the volumes of this node",
		Long: `Serve volumes from a directory of this node (the pool) to its pods.

The CSI driver ` + localDriver + ` listens on a Unix socket and announces itself to the kubelet. A
StorageClass chooses how its volumes are kept with the parameter "backend":

  loop  an ext4 file system in an image file; the size of the claim is enforced (the default)
  dir   a plain directory; the size of the claim is not enforced

With --kubeconfig it also serves ` + config.DriverName + `: inline volumes that show ConfigMaps and Secrets
and follow them. It reads these with the tokens of the pods' own ServiceAccounts.

It needs root, and mkfs.ext4 (package e2fsprogs) for loop. Stopping it, even with kill -9, leaves
the pods and their mounts alone; started again it takes up where it was.`,
		Example: `  orlop-storage node --node-name node1 --pool /var/lib/orlop/pools/local --cluster-id my-cluster`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("registration-dir") {
				n.RegistrationDir = filepath.Join(n.KubeletDir, "plugins_registry")
			}
			if n.Kubeconfig == "" && cmd.Flags().Changed("config-volumes") && n.ConfigVolumes {
				return errors.New("--config-volumes needs --kubeconfig, which says where the API server is")
			}
			return n.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.Name, "node-name", "", "name of this node in the cluster (required)")
	f.StringVar(&n.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's root directory")
	f.StringVar(&n.Pool, "pool", "", "directory that holds the volumes; made when missing (required)")
	f.StringVar(&n.ClusterID, "cluster-id", "", "ID of the cluster the volumes belong to; a pool refuses another "+
		"cluster (required)")
	f.StringVar(&n.Socket, "socket", "", "path of the CSI socket (default <kubelet-dir>/plugins/"+localDriver+"/csi.sock)")
	f.StringVar(&n.RegistrationDir, "registration-dir", "", "directory where the kubelet looks for drivers; give an "+
		"empty one to not register (default <kubelet-dir>/plugins_registry)")
	f.StringVar(&n.HTTPSocket, "http-socket", "", "path of a Unix socket to serve /readyz and /metrics on; none when empty")
	f.StringVar(&n.Kubeconfig, "kubeconfig", "", "kubeconfig file for provisioning this node's volumes and for finding the "+
		"API server; when empty, only the CSI driver of local volumes runs")
	f.BoolVar(&n.ConfigVolumes, "config-volumes", true, "serve configuration volumes ("+config.DriverName+") when there is a kubeconfig")
	f.StringVar(&n.RunDir, "run-dir", "", "directory for what is worth nothing after a reboot; a tmpfs is mounted in it "+
		"(default /run/orlop-storage/<cluster-id>)")
	f.StringVar(&n.CRIEndpoint, "cri-endpoint", "", "the container runtime's endpoint, such as "+
		"unix:///run/containerd/containerd.sock, to act on changes of configuration volumes; no action is taken when empty")
	f.StringVar(&n.IP, "node-ip", "", "address of this node, for actions that make a request to a pod in the node's network")
	addLogFlags(cmd)
	return cmd
}

// defaultVerbosity logs one line a change.
const defaultVerbosity = "2"

// addLogFlags adds klog's verbosity.
func addLogFlags(cmd *cobra.Command) {
	set := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(set)
	v := set.Lookup("v")
	v.Usage = "how much to log: " + defaultVerbosity + " one line a change, 5 every call"
	v.DefValue = defaultVerbosity
	if err := v.Value.Set(defaultVerbosity); err != nil {
		panic(err) // the constant above is no level
	}
	cmd.Flags().AddGoFlag(v)
}

// validate reports everything that is wrong with the settings at once, before anything is started.
func (n *Node) validate() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("it must run as root, since it mounts volumes and attaches loop devices"))
	}
	for _, f := range []struct{ flag, value string }{
		{"node-name", n.Name}, {"pool", n.Pool}, {"cluster-id", n.ClusterID}, {"kubelet-dir", n.KubeletDir},
	} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("--%s is required", f.flag))
		}
	}
	sockets := []struct{ flag, path string }{{"socket", n.socket()}}
	if n.HTTPSocket != "" {
		sockets = append(sockets, struct{ flag, path string }{"http-socket", n.HTTPSocket})
	}
	if n.RegistrationDir != "" {
		sockets = append(sockets, struct{ flag, path string }{"registration-dir", n.registrar(nil).Socket()})
	}
	if n.configServed() {
		sockets = append(sockets, struct{ flag, path string }{"kubelet-dir", n.configSocket()})
		if n.RegistrationDir != "" {
			sockets = append(sockets, struct{ flag, path string }{"registration-dir", n.configRegistrar(nil).Socket()})
		}
	}
	for _, s := range sockets {
		if err := host.CheckSocketPath(s.path); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", s.flag, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) socket() string {
	if n.Socket != "" {
		return n.Socket
	}
	return filepath.Join(n.KubeletDir, "plugins", localDriver, "csi.sock")
}

func (n *Node) registrar(listen func(string) (net.Listener, error)) *registration.Registrar {
	return registration.New(localDriver, n.socket(), n.RegistrationDir, listen)
}

// Run serves until ctx ends, or until a part of it fails for good.
func (n *Node) Run(ctx context.Context) (err error) {
	if err := n.validate(); err != nil {
		return err
	}
	if n.RunDir == "" {
		n.RunDir = filepath.Join("/run/orlop-storage", n.ClusterID)
	}
	h := n.Host
	if h == nil {
		h = host.New(nil)
	}
	pool, err := local.Open(ctx, local.Config{
		Path: n.Pool, ClusterID: n.ClusterID, Host: h, Media: []local.Medium{loop.New(h), dir.New(h)},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	listener, err := h.ListenUnix(n.socket())
	if err != nil {
		return err
	}
	if err := h.CanMakeExt4(); err != nil {
		klog.FromContext(ctx).Error(err, "No volumes of backend loop can be made; those that exist, and backend dir, work")
	}
	klog.FromContext(ctx).Info("Serving", "driver", localDriver, "version", version, "node", n.Name, "pool", n.Pool,
		"socket", n.socket())

	metrics := driver.NewMetrics(localDriver)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := driver.Info{Name: localDriver, Version: version, NodeID: n.Name, TopologyKey: localTopology}
	serving := &atomic.Bool{}
	server := driver.NewServer(driver.New(info, volume.Serialize(pool), pool.Ready), metrics)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return pool.Run(ctx) })
	group.Go(func() error {
		serving.Store(true)
		defer serving.Store(false)
		return server.Serve(ctx, listener)
	})
	ready := func() error {
		if !serving.Load() {
			return errors.New("the CSI socket is not served")
		}
		return pool.Ready()
	}
	if n.RegistrationDir != "" {
		registrar := n.registrar(h.ListenUnix)
		group.Go(func() error { return registrar.Run(ctx) })
		csiReady := ready
		ready = func() error { return errors.Join(csiReady(), registrar.Ready()) }
	}
	if n.configServed() {
		volumes := &configVolumes{node: n, host: h, registrar: n.configRegistrar(h.ListenUnix)}
		group.Go(func() error { return volumes.run(ctx, metrics) })
		localReady := ready
		ready = func() error { return errors.Join(localReady(), volumes.ready()) }
	}
	if n.HTTPSocket != "" {
		group.Go(func() error { return serveHTTP(ctx, h, n.HTTPSocket, registry, ready) })
	}
	group.Go(func() error { return n.provision(ctx, registry) })
	return group.Wait()
}
