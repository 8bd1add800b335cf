// Package cluster is the bundled Kubernetes cluster: upstream's components, each a supervised child process, and
// Orlop's storage beside them.
//
// A data directory holds one cluster. Run holds it up; the command line talks to a running one over its control
// socket (package control). Everything is prepared before the first process starts: addresses, certificates,
// configuration files; what needs the API server (manifests, waiting for the node) follows once it is ready.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cluster/cgroup"
	"github.com/orlop-io/orlop/cluster/file"
	"github.com/orlop-io/orlop/cluster/nodenet"
	"github.com/orlop-io/orlop/cluster/preflight"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

// Options choose a cluster and how it is started.
type Options struct {
	DataDir string // absolute
	BinDir  string // absolute
	// Netns and Plain fix at the first start what the cluster is; nil takes what it was, or false.
	Netns, Plain *bool
	Logger       *slog.Logger
}

// Cluster is a cluster being run by this process.
type Cluster struct {
	Layout
	state  *State
	facts  preflight.Facts
	net    Network
	link   *nodenet.Network // nil without a namespace of its own
	creds  *credentials
	probe  *prober
	client kubernetes.Interface
	config *rest.Config
	log    *slog.Logger

	supervisor *supervisor.Supervisor
	started    time.Time // of this run
	lock       io.Closer
	phase      phaseState
	applied    atomic.Bool // the manifests are
}

// Prepare takes the data directory's lock and makes all that the processes need: state, network, cgroups,
// credentials, configuration. Close gives the lock back. A directory that another process runs gives ErrRunning.
func Prepare(ctx context.Context, o Options) (_ *Cluster, err error) {
	if err := os.MkdirAll(filepath.Join(o.DataDir, "run"), 0o755); err != nil {
		return nil, fmt.Errorf("data directory %s cannot be made: %w; choose another with --data-dir", o.DataDir, err)
	}
	lock, err := acquire(Layout{DataDir: o.DataDir}.lockFile())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	state, err := ensureState(o.DataDir, o.Netns, o.Plain)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Layout: Layout{DataDir: o.DataDir, BinDir: o.BinDir, ID: state.ID, Node: state.Node},
		state:  state, log: o.Logger, lock: lock, started: time.Now(), phase: phaseState{phase: PhaseStarting},
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	if err := c.makeDirs(); err != nil {
		return nil, err
	}
	if err := c.ensureNetwork(ctx); err != nil {
		return nil, fmt.Errorf("network of node %s: %w", c.Node, err)
	}
	if err := cgroup.EnsureRoot(c.cgroupRoot()); err != nil {
		return nil, fmt.Errorf("cgroups of node %s: %w", c.Node, err)
	}
	if c.creds, err = ensureCredentials(c.Layout, c.net); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if c.probe, err = newProber(c.inNetns, c.creds); err != nil {
		return nil, err
	}
	if err := c.writeConfigs(); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	c.supervisor, err = supervisor.New(c.specs(), c.logDir())
	return c, err
}

// Close releases the data directory.
func (c *Cluster) Close() error { return c.lock.Close() }

// check runs the checks of the host, and logs what is unusual but can be lived with.
func (c *Cluster) check(ctx context.Context) error {
	var problems []preflight.Problem
	c.facts, problems = preflight.Run(ctx, preflight.Options{
		DataDir: c.DataDir, Ports: listenersOf(c.state.Netns), Netns: c.state.Netns, Plain: c.state.Plain,
	})
	errs := []error{checkInotify()}
	for _, p := range problems {
		if p.Fatal {
			errs = append(errs, p)
		} else {
			c.log.Warn(p.Error())
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) makeDirs() error {
	for _, d := range []string{c.logDir(), c.configDir(), c.pkiDir(), c.etcdDir(), c.nodeDir(), c.KubeletDir(),
		c.PodLogsDir(), c.staticPodDir(), c.cniConfDir(), c.ipamDir(), c.containerdDir(), c.runtimeState(), c.poolDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// Keys, and etcd with every Secret in it.
	for _, d := range []string{c.pkiDir(), c.etcdDir(), c.poolDir(), c.logDir()} {
		if err := os.Chmod(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) ensureNetwork(ctx context.Context) error {
	var mtu int
	if !c.state.Netns {
		host, err := nodenet.HostNode(ctx)
		if err != nil {
			return err
		}
		mtu = host.MTU
		c.net = Network{NodeIP: host.Addr, Pods: hostPods, Services: hostServices, Upstream: c.facts.Resolvers}
		if err := nodenet.EnsureServiceRoute(c.net.Services, host); err != nil {
			return err
		}
	} else {
		link, err := nodenet.Ensure(ctx, nodenet.Options{
			Name: networkName(c.state), StateFile: c.netFile(),
		})
		if err != nil {
			return err
		}
		c.link, mtu = link, link.MTU
		c.net = Network{Netns: link.NetnsPath, NodeIP: link.NodeAddr, HostIP: link.HostAddr, Pods: nsPods, Services: nsServices}
		if len(c.facts.Resolvers) > 0 {
			c.net.Upstream = []string{link.HostAddr.String()}
		}
	}
	c.net.NodePods = netip.PrefixFrom(c.net.Pods.Addr(), 24)
	if err := c.inNetns(func() error { return nodenet.EnsurePodMasquerade(networkName(c.state), c.net.NodePods) }); err != nil {
		return err
	}
	return nodenet.WriteCNI(c.cniConfDir(), nodenet.CNIOptions{
		PodCIDR: c.net.NodePods, DataDir: c.ipamDir(), MTU: mtu, Backend: c.facts.KubeProxyMode,
	})
}

// networkName names what a cluster has in the host's network: namespace, link and rules.
func networkName(s *State) string { return "orlop-" + s.ID }

// inNetns runs fn in the node's network namespace, which may be the host's.
func (c *Cluster) inNetns(fn func() error) error {
	if c.link == nil {
		return fn()
	}
	return c.link.Enter(fn)
}

// writeConfigs writes every component's configuration file afresh.
func (c *Cluster) writeConfigs() error {
	containerd, err := c.containerdConfig()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"containerd.toml": containerd,
		"Corefile":        c.corefile(),
		// What pods with dnsPolicy Default see. Empty rather than the host's: a resolver on the host's
		// loopback is another machine's from a pod.
		"resolv.conf": c.resolvConf(),
	}
	for name, config := range map[string]map[string]any{
		"kubelet.yaml": c.kubeletConfig(), "kube-proxy.yaml": c.proxyConfig(), "scheduler.yaml": c.schedulerConfig(),
	} {
		if files[name], err = yaml.Marshal(config); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, data := range files {
		if err := file.Write(c.configFile(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) resolvConf() []byte {
	var out []byte
	for _, u := range c.net.Upstream {
		// A pod's loopback is its own: CoreDNS can ask a resolver there, a pod cannot.
		if a, err := netip.ParseAddr(u); err == nil && a.IsLoopback() {
			continue
		}
		out = fmt.Appendf(out, "nameserver %s\n", u)
	}
	return out
}

func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return err
	}
	config.QPS = -1
	config.Timeout = 30 * time.Second
	c.config = config
	c.client, err = kubernetes.NewForConfig(config)
	return err
}

// specs describes every process, each after those it depends on.
func (c *Cluster) specs() []supervisor.Spec {
	specs := []supervisor.Spec{c.etcd(), c.containerd(), c.apiServer(), c.controllerManager(), c.scheduler(),
		c.kubelet(), c.proxy(), c.dns()}
	if !c.state.Plain {
		specs = append(specs, c.storageControllers(), c.storageNode())
	}
	return specs
}
