package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/config"
	"github.com/orlop-io/orlop/csi/driver"
	"github.com/orlop-io/orlop/csi/host"
)

// Node is the part of Orlop's storage that runs on every node: the CSI drivers of node-local and of configuration
// volumes, their registration with the kubelet, and the provisioner of this node's volumes.
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
	// HTTPAddress is an address (host:port, the host may be empty) that serves the same over TCP; empty for none.
	HTTPAddress string
	// Kubeconfig of the node's storage. InCluster takes its place in a pod: the API server, and the identity, are those of
	// the pod's service account. With neither only the CSI driver of local volumes runs.
	Kubeconfig string
	InCluster  bool
	// LocalVolumes serves node-local volumes; Pool, ClusterID and Socket are for these.
	LocalVolumes bool
	// ConfigVolumes serves configuration volumes, where the API server is known.
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

With --kubeconfig, or in a pod with --in-cluster, it also serves ` + config.DriverName + `: inline volumes
that show ConfigMaps and Secrets and follow them. It reads these with the tokens of the pods' own
ServiceAccounts. With --local-volumes=false it serves these alone.

It needs root, and mkfs.ext4 (package e2fsprogs) for loop. Stopping it, even with kill -9, leaves
the pods and their mounts alone; started again it takes up where it was.`,
		Example: `  orlop-storage node --node-name node1 --pool /var/lib/orlop/pools/local --cluster-id my-cluster
  orlop-storage node --node-name node1 --in-cluster --local-volumes=false`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("registration-dir") {
				n.RegistrationDir = filepath.Join(n.KubeletDir, "plugins_registry")
			}
			if !n.hasAPI() && cmd.Flags().Changed("config-volumes") && n.ConfigVolumes {
				return errors.New("--config-volumes needs --kubeconfig or, in a pod, --in-cluster, to know where the API server is")
			}
			return n.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.Name, "node-name", "", "name of this node in the cluster (required)")
	f.StringVar(&n.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's root directory")
	f.StringVar(&n.Pool, "pool", "", "directory that holds the local volumes; made when missing (required for them)")
	f.StringVar(&n.ClusterID, "cluster-id", "", "ID of the cluster the local volumes belong to; a pool refuses another "+
		"cluster (required for them)")
	f.StringVar(&n.Socket, "socket", "", "path of the CSI socket of local volumes (default <kubelet-dir>/plugins/"+localDriver+"/csi.sock)")
	f.StringVar(&n.RegistrationDir, "registration-dir", "", "directory where the kubelet looks for drivers; give an "+
		"empty one to not register (default <kubelet-dir>/plugins_registry)")
	f.StringVar(&n.HTTPSocket, "http-socket", "", "path of a Unix socket to serve /readyz and /metrics on; none when empty")
	f.StringVar(&n.HTTPAddress, "http-address", "", "address (as :9808) to serve the same on, without TLS; none when empty")
	f.StringVar(&n.Kubeconfig, "kubeconfig", "", "kubeconfig file for provisioning this node's volumes and for finding the "+
		"API server; when empty, only the CSI driver of local volumes runs")
	f.BoolVar(&n.InCluster, "in-cluster", false, "the API server is that of the pod's service account; instead of --kubeconfig")
	f.BoolVar(&n.LocalVolumes, "local-volumes", true, "serve local volumes ("+localDriver+")")
	f.BoolVar(&n.ConfigVolumes, "config-volumes", true,
		"serve configuration volumes ("+config.DriverName+") when there is --kubeconfig or --in-cluster")
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

// setting is the value of a flag.
type setting struct{ flag, value string }

// validate reports everything that is wrong with the settings at once, before anything is started.
func (n *Node) validate() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("it must run as root, since it mounts volumes and attaches loop devices"))
	}
	required := []setting{{"node-name", n.Name}, {"kubelet-dir", n.KubeletDir}}
	var sockets []setting
	if n.LocalVolumes {
		required = append(required, setting{"pool", n.Pool}, setting{"cluster-id", n.ClusterID})
		sockets = append(sockets, setting{"socket", n.socket()})
		if n.RegistrationDir != "" {
			sockets = append(sockets, setting{"registration-dir", n.registrar(nil).Socket()})
		}
	} else {
		errs = append(errs, n.validateWithoutLocal())
	}
	for _, s := range required {
		if s.value == "" {
			errs = append(errs, fmt.Errorf("--%s is required", s.flag))
		}
	}
	if n.InCluster && n.Kubeconfig != "" {
		errs = append(errs, errors.New("--in-cluster and --kubeconfig both say where the API server is: give one of them"))
	}
	if n.hasAPI() {
		if _, err := n.api(nodeAgentName); err != nil {
			errs = append(errs, err)
		}
	}
	if n.HTTPAddress != "" {
		if _, _, err := net.SplitHostPort(n.HTTPAddress); err != nil {
			errs = append(errs, fmt.Errorf("--http-address: %w", err))
		}
	}
	if n.HTTPSocket != "" {
		sockets = append(sockets, setting{"http-socket", n.HTTPSocket})
	}
	if n.configServed() {
		sockets = append(sockets, setting{"kubelet-dir", n.configSocket()})
		if n.RegistrationDir != "" {
			sockets = append(sockets, setting{"registration-dir", n.configRegistrar(nil).Socket()})
		}
	}
	for _, s := range sockets {
		if err := host.CheckSocketPath(s.value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", s.flag, err))
		}
	}
	return errors.Join(errs...)
}

// validateWithoutLocal reports what makes no sense where no local volumes are served.
func (n *Node) validateWithoutLocal() error {
	var errs []error
	if !n.configServed() {
		errs = append(errs, errors.New("--local-volumes=false leaves configuration volumes alone to serve, which need "+
			"--config-volumes and --kubeconfig or, in a pod, --in-cluster"))
	}
	for _, s := range []setting{{"pool", n.Pool}, {"cluster-id", n.ClusterID}, {"socket", n.Socket}} {
		if s.value != "" {
			errs = append(errs, fmt.Errorf("--%s is for local volumes, which --local-volumes=false turns off: leave it out", s.flag))
		}
	}
	return errors.Join(errs...)
}

// hasAPI reports whether the API server is known.
func (n *Node) hasAPI() bool { return n.Kubeconfig != "" || n.InCluster }

// api is how to reach the API server: by the kubeconfig or, without one, as the pod that this is.
func (n *Node) api(agent string) (*rest.Config, error) { return clientConfig(n.Kubeconfig, agent) }

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
	metrics := driver.NewMetrics(localDriver)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	group, ctx := errgroup.WithContext(ctx)
	var parts []func() error
	if n.LocalVolumes {
		volumes, openErr := n.openLocalVolumes(ctx, h)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, volumes.close()) }()
		group.Go(func() error { return volumes.run(ctx, metrics, registry) })
		parts = append(parts, volumes.ready)
	}
	if n.configServed() {
		volumes := &configVolumes{node: n, host: h, registrar: n.configRegistrar(h.ListenUnix)}
		group.Go(func() error { return volumes.run(ctx, metrics) })
		parts = append(parts, volumes.ready)
	}
	group.Go(func() error {
		return serveHTTP(ctx, h, n.HTTPSocket, n.HTTPAddress, registry, func() error {
			var errs []error
			for _, ready := range parts {
				errs = append(errs, ready())
			}
			return errors.Join(errs...)
		})
	})
	return group.Wait()
}
