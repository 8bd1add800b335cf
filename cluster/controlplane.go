package cluster

import (
	"fmt"

	"github.com/orlop-io/orlop/cluster/supervisor"
)

// Names of the components: of the processes, of their log files and of `orlop logs`.
const (
	compEtcd               = "etcd"
	compAPIServer          = "kube-apiserver"
	compControllerManager  = "kube-controller-manager"
	compScheduler          = "kube-scheduler"
	compContainerd         = "containerd"
	compKubelet            = "kubelet"
	compProxy              = "kube-proxy"
	compDNS                = "dns"
	compStorageControllers = "storage-controllers"
	compStorageNode        = "storage-node"
)

// orlop describes a process that is a component compiled into this very binary.
func (c *Cluster) orlop(name string, args ...string) supervisor.Spec {
	return supervisor.Spec{
		Name: name, Path: c.bin("orlop"), Args: append([]string{name}, args...), Netns: c.net.Netns,
		Env: []string{"PATH=" + systemPath},
	}
}

func (c *Cluster) etcd() supervisor.Spec {
	url := fmt.Sprintf("https://127.0.0.1:%d", etcdPort)
	peer := fmt.Sprintf("https://127.0.0.1:%d", etcdPeerPort)
	s := c.orlop(compEtcd,
		"--name="+c.Node, "--data-dir="+c.etcdDir(), "--logger=zap", "--log-level=warn",
		"--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster="+c.Node+"="+peer,
		"--client-cert-auth", "--trusted-ca-file="+c.creds.etcdCA,
		"--cert-file="+c.creds.etcdServer, "--key-file="+c.creds.etcdServerKey,
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+c.creds.etcdCA,
		"--peer-cert-file="+c.creds.etcdServer, "--peer-key-file="+c.creds.etcdServerKey,
		// One member elects itself: it need not wait as long as a quorum would.
		"--heartbeat-interval=50", "--election-timeout=500",
		"--snapshot-count=10000", "--auto-compaction-mode=periodic", "--auto-compaction-retention=1h",
	)
	s.Ready = c.probe.http(url + "/readyz")
	return s
}

func (c *Cluster) apiServer() supervisor.Spec {
	s := c.orlop(compAPIServer,
		"--advertise-address="+c.net.NodeIP.String(), fmt.Sprintf("--secure-port=%d", apiPort),
		fmt.Sprintf("--etcd-servers=https://127.0.0.1:%d", etcdPort), "--etcd-cafile="+c.creds.etcdCA,
		"--etcd-certfile="+c.creds.etcdClient, "--etcd-keyfile="+c.creds.etcdClientKey,
		"--tls-cert-file="+c.creds.apiServer, "--tls-private-key-file="+c.creds.apiServerKey,
		"--client-ca-file="+c.creds.clusterCA, "--anonymous-auth=false",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-certificate-authority="+c.creds.clusterCA, "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+c.creds.kubeletClient, "--kubelet-client-key="+c.creds.kubeletClientKey,
		"--service-account-issuer=https://kubernetes.default.svc."+clusterDomain,
		"--service-account-key-file="+c.creds.serviceAccountKey,
		"--service-account-signing-key-file="+c.creds.serviceAccountKey,
		"--service-cluster-ip-range="+c.net.Services.String(),
		"--requestheader-client-ca-file="+c.creds.frontProxyCA, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+c.creds.frontProxy, "--proxy-client-key-file="+c.creds.frontProxyKey,
		"--profiling=false",
	)
	// It retries until etcd answers, and has much to do before it first asks.
	s.Uses = []string{compEtcd}
	s.Ready = c.probe.http(c.net.apiURL() + "/readyz")
	return s
}

// ownVolumeControllers are upstream's controllers that pvcontroller replaces.
const ownVolumeControllers = "-persistentvolume-binder-controller,-persistentvolume-expander-controller"

func (c *Cluster) controllerManager() supervisor.Spec {
	controllers := "*"
	if !c.state.Plain {
		controllers += "," + ownVolumeControllers
	}
	kubeconfig := c.kubeconfigOf("controller-manager")
	s := c.orlop(compControllerManager,
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", managerPort),
		"--tls-cert-file="+c.creds.controllers, "--tls-private-key-file="+c.creds.controllersKey,
		"--client-ca-file="+c.creds.clusterCA, "--requestheader-client-ca-file="+c.creds.frontProxyCA,
		"--root-ca-file="+c.creds.clusterCA, "--service-account-private-key-file="+c.creds.serviceAccountKey,
		"--cluster-signing-cert-file="+c.creds.clusterCA, "--cluster-signing-key-file="+c.creds.clusterCAKey,
		"--use-service-account-credentials", "--controllers="+controllers,
		"--service-cluster-ip-range="+c.net.Services.String(), "--cluster-cidr="+c.net.Pods.String(),
		"--allocate-node-cidrs=false", "--leader-elect=false", "--profiling=false",
		// The API server's priority and fairness throttle better than a client that knows only itself.
		"--kube-api-qps=1000", "--kube-api-burst=2000",
	)
	s.After = []string{compAPIServer}
	s.Ready = c.probe.http(fmt.Sprintf("https://127.0.0.1:%d/healthz", managerPort))
	return s
}

func (c *Cluster) scheduler() supervisor.Spec {
	kubeconfig := c.kubeconfigOf("scheduler")
	s := c.orlop(compScheduler,
		"--config="+c.configFile("scheduler.yaml"),
		"--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", schedulerPort),
		"--tls-cert-file="+c.creds.controllers, "--tls-private-key-file="+c.creds.controllersKey,
		"--client-ca-file="+c.creds.clusterCA, "--requestheader-client-ca-file="+c.creds.frontProxyCA,
	)
	s.After = []string{compAPIServer}
	s.Ready = c.probe.http(fmt.Sprintf("https://127.0.0.1:%d/healthz", schedulerPort))
	return s
}

func (c *Cluster) schedulerConfig() map[string]any {
	return map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
		"clientConnection": map[string]any{
			"kubeconfig": c.kubeconfigOf("scheduler"), "qps": 1000, "burst": 2000,
		},
		"leaderElection":  map[string]any{"leaderElect": false},
		"enableProfiling": false,
	}
}
