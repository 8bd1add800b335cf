package cluster

import "net/netip"

// Ports of the cluster's listeners. In a network namespace of its own every cluster uses the same ones.
const (
	apiPort       = 6443
	etcdPort      = 2379
	etcdPeerPort  = 2380
	kubeletPort   = 10250
	managerPort   = 10257
	schedulerPort = 10259
	proxyPort     = 10256
	proxyMetrics  = 10249
	dnsPort       = 10053
	dnsReadyPort  = 10054
)

// Network is where a cluster lives: fixed before anything starts.
type Network struct {
	Netns    string       // path of the node's network namespace, empty for the host's
	NodeIP   netip.Addr   // the node's own address, never loopback
	HostIP   netip.Addr   // the host's end of the link to the node; invalid without a namespace
	Pods     netip.Prefix // of the whole cluster
	NodePods netip.Prefix // of this node
	Services netip.Prefix
	Upstream []string // resolvers for names outside the cluster; none when the host has none
}

// Addresses within a cluster. With a namespace of its own a cluster keeps to the range set apart for tests of
// networks (RFC 2544): nodes' links in its lower half, pods and Services, which never leave the
// namespace, in the upper.
var (
	hostPods     = netip.MustParsePrefix("10.42.0.0/16")
	hostServices = netip.MustParsePrefix("10.43.0.0/16")
	nsPods       = netip.MustParsePrefix("198.19.0.0/17")
	nsServices   = netip.MustParsePrefix("198.19.128.0/17")
)

const clusterDomain = "cluster.local"

// kubernetesIP is the ClusterIP of the API server's own Service: the first of the range.
func (n Network) kubernetesIP() netip.Addr { return n.Services.Addr().Next() }

// dnsIP is the ClusterIP of the kube-dns Service: by custom the tenth of the range.
func (n Network) dnsIP() netip.Addr {
	ip := n.Services.Addr()
	for range 10 {
		ip = ip.Next()
	}
	return ip
}

// apiAddr is what clients on the host and on the node dial: the node's address in a namespace; loopback without,
// so that a machine which changes networks keeps its kubeconfig.
func (n Network) apiAddr() netip.AddrPort {
	if n.Netns == "" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), apiPort)
	}
	return netip.AddrPortFrom(n.NodeIP, apiPort)
}

func (n Network) apiURL() string { return "https://" + n.apiAddr().String() }

// listenersOf are the ports a cluster needs free on the host; none with a namespace of its own.
func listenersOf(netns bool) []int {
	if netns {
		return nil
	}
	return []int{apiPort, etcdPort, etcdPeerPort, kubeletPort, managerPort, schedulerPort, proxyPort, proxyMetrics, dnsPort, dnsReadyPort}
}
