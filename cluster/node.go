package cluster

import (
	"bytes"
	_ "embed"
	"fmt"
	"path/filepath"
	"text/template"
	"time"

	"github.com/orlop-io/orlop/cluster/images"
	"github.com/orlop-io/orlop/cluster/supervisor"
)

//go:embed containerd.toml.tmpl
var containerdTemplate string

func (c *Cluster) containerdConfig() ([]byte, error) {
	t, err := template.New("containerd.toml").Option("missingkey=error").Parse(containerdTemplate)
	if err != nil {
		return nil, err
	}
	pause, err := images.PauseRef(c.bin("pause"))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Root": c.containerdDir(), "State": c.runtimeState(), "Socket": c.ContainerdSocket(),
		"PauseImage": pause, "BinDir": c.BinDir, "CNIBinDir": c.bin("cni"), "CNIConfDir": c.cniConfDir(),
		"RestrictOOM": c.facts.RestrictOOM, "SystemdCgroup": false, "CgroupPath": "",
		"RegistryDir": c.registryDir(),
	})
	return b.Bytes(), err
}

func (c *Cluster) containerd() supervisor.Spec {
	return supervisor.Spec{
		Name: compContainerd, Path: c.bin("containerd"), Netns: c.net.Netns,
		Args:    []string{"--config", c.configFile("containerd.toml")},
		Env:     []string{"PATH=" + c.BinDir + ":" + systemPath},
		Ready:   c.runtimeReady,
		PreStop: c.stopPods,
		// Importing the sandbox image on a busy disk takes more than a look does.
		ProbeTimeout: 30 * time.Second,
	}
}

// systemPath finds the host's programs also where a shell's PATH lacks the administrator's (after a plain su, say).
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cgroupRoot is the parent of all the node's pods' cgroups. A kubelet destroys every pod cgroup under its root that it
// does not know, so no two nodes of a host may share one.
func (c *Cluster) cgroupRoot() string { return c.state.cgroup() + "/" + c.Node }

func (c *Cluster) kubelet() supervisor.Spec {
	s := c.orlop(compKubelet,
		"--config="+c.configFile("kubelet.yaml"), "--kubeconfig="+c.kubeconfigOf("kubelet"),
		"--root-dir="+c.KubeletDir(), "--cert-dir="+filepath.Join(c.KubeletDir(), "pki"),
		"--hostname-override="+c.Node, "--node-ip="+c.net.NodeIP.String(),
		fmt.Sprintf("--orlop-config-volumes=%t", c.liveConfig()),
	)
	if c.liveConfig() {
		// Configuration is as late as a connection that silently died is found out. client-go asks one that brought nothing
		// for 30 s and gives it 15 s for an answer, which is meant for large clusters.
		s.Env = []string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS=5", "HTTP2_PING_TIMEOUT_SECONDS=5"}
	}
	s.After = []string{compContainerd}
	// The API server serves a second before it is ready: what it still has to do, above all upstream's roles, is of no
	// concern to a kubelet, which the Node authorizer permits.
	s.Uses = []string{compAPIServer}
	s.Gate = c.probe.http(c.net.apiURL() + "/livez/ping")
	s.Ready = c.nodeReady
	return s
}

// liveConfig reports whether the kubelet's configuration volumes are ours. A plain cluster has upstream's.
func (c *Cluster) liveConfig() bool { return !c.state.Plain }

func (c *Cluster) kubeletConfig() map[string]any {
	detection := "Watch"
	if c.liveConfig() {
		// Our volumes watch for themselves. To have the kubelet watch the same objects as well would double the load on
		// the API server; what only environment variables and image pulls need is asked for when a container starts.
		detection = "Get"
	}
	return map[string]any{
		"configMapAndSecretChangeDetectionStrategy": detection,
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + c.ContainerdSocket(),
		"address":                  c.net.NodeIP.String(), "port": kubeletPort, "healthzPort": 0, "readOnlyPort": 0,
		"tlsCertFile": c.creds.kubelet, "tlsPrivateKeyFile": c.creds.kubeletKey,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": c.creds.clusterCA},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"clusterDomain": clusterDomain, "clusterDNS": []string{c.net.dnsIP().String()},
		"resolvConf":   c.configFile("resolv.conf"),
		"cgroupDriver": "cgroupfs", "cgroupRoot": c.cgroupRoot(), "failCgroupV1": false, "failSwapOn": false,
		"podLogsDir": c.PodLogsDir(), "staticPodPath": c.staticPodDir(),
		"volumePluginDir": filepath.Join(c.nodeDir(), "volume-plugins"),
		// A single machine's disk is its user's, too: evict when it is nearly full, not at the tenth left.
		"evictionHard": map[string]any{"memory.available": "100Mi", "nodefs.available": "5%", "imagefs.available": "5%", "nodefs.inodesFree": "5%"},
		// Nothing runs until the pressure is said to be over; there is no other node to go to meanwhile.
		"evictionPressureTransitionPeriod": "20s",
		"serializeImagePulls":              false,
		"maxParallelImagePulls":            4,
		"kubeAPIQPS":                       500, "kubeAPIBurst": 1000,
		"enableProfilingHandler": false,
		"shutdownGracePeriod":    "0s",
	}
}

func (c *Cluster) proxy() supervisor.Spec {
	s := c.orlop(compProxy, "--config="+c.configFile("kube-proxy.yaml"))
	s.After = []string{compAPIServer}
	// It reads the node's address from the node's object and waits whole seconds between two looks.
	s.Gate = c.nodeRegistered
	s.Ready = c.probe.http(fmt.Sprintf("http://127.0.0.1:%d/healthz", proxyPort))
	return s
}

func (c *Cluster) proxyConfig() map[string]any {
	return map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"clientConnection":   map[string]any{"kubeconfig": c.kubeconfigOf("proxy")},
		"mode":               c.facts.KubeProxyMode,
		"hostnameOverride":   c.Node,
		"clusterCIDR":        c.net.Pods.String(),
		"healthzBindAddress": fmt.Sprintf("127.0.0.1:%d", proxyPort),
		"metricsBindAddress": fmt.Sprintf("127.0.0.1:%d", proxyMetrics),
		// These sysctls are read-only in a network namespace, where kube-proxy would end over them.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0},
	}
}

func (c *Cluster) dns() supervisor.Spec {
	s := c.orlop(compDNS, "-conf", c.configFile("Corefile"))
	s.After = []string{compAPIServer}
	s.Gate = c.permitted
	s.Ready = c.probe.http(fmt.Sprintf("http://127.0.0.1:%d/ready", dnsReadyPort))
	return s
}

func (c *Cluster) corefile() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `.:%d {
	bind %s
	errors
	ready 127.0.0.1:%d
	kubernetes %s in-addr.arpa ip6.arpa {
		kubeconfig "%s"
		pods insecure
		fallthrough in-addr.arpa ip6.arpa
		ttl 30
	}
`, dnsPort, c.net.NodeIP, dnsReadyPort, clusterDomain, c.kubeconfigOf("dns"))
	if len(c.net.Upstream) > 0 {
		b.WriteString("\tforward .")
		for _, u := range c.net.Upstream {
			b.WriteString(" " + u)
		}
		b.WriteString(" {\n\t\tmax_concurrent 1000\n\t}\n")
	}
	// Names of the cluster are answered from memory anyway. Kept, an answer would outlive a pod by half a minute, and a
	// headless name that was asked for too early would not exist for as long.
	fmt.Fprintf(&b, "\tcache 30 {\n\t\tdisable success %[1]s\n\t\tdisable denial %[1]s\n\t}\n\tloadbalance\n}\n", clusterDomain)
	return b.Bytes()
}

func (c *Cluster) storageControllers() supervisor.Spec {
	socket := c.storageSocket(compStorageControllers)
	return supervisor.Spec{
		Name: compStorageControllers, Path: c.bin("orlop-storage"), Netns: c.net.Netns,
		Args: []string{"controllers", "--kubeconfig=" + c.kubeconfigOf("storage-controllers"),
			"--http-socket=" + socket, "--leader-elect=false"},
		After: []string{compAPIServer}, Gate: c.permitted,
		Ready: unixHTTP(socket, "/readyz"),
	}
}

func (c *Cluster) storageNode() supervisor.Spec {
	socket := c.storageSocket(compStorageNode)
	return supervisor.Spec{
		Name: compStorageNode, Path: c.bin("orlop-storage"), Netns: c.net.Netns,
		Args: []string{"node", "--node-name=" + c.Node, "--kubelet-dir=" + c.KubeletDir(), "--pool=" + c.poolDir(),
			"--cluster-id=" + c.state.ID, "--kubeconfig=" + c.kubeconfigOf("storage-node"), "--http-socket=" + socket,
			"--run-dir=" + c.runtimeState(), "--cri-endpoint=unix://" + c.ContainerdSocket(), "--node-ip=" + c.net.NodeIP.String()},
		Env:   []string{"PATH=" + systemPath},
		After: []string{compAPIServer}, Gate: c.permitted,
		Ready: unixHTTP(socket, "/readyz"),
		// It may be in the middle of mounting for the kubelet, which ends at the same time.
		StopTimeout: 20 * time.Second,
	}
}
