package cluster

import (
	"net"
	"os"

	"github.com/orlop-io/orlop/cluster/pki"
)

// Users as which the cluster's own parts authenticate. RBAC for the last three is applied at bootstrap.
const (
	userAdmin              = "orlop:admin"
	userDNS                = "orlop:dns"
	userStorageControllers = "orlop:storage-controllers"
	userStorageNodePrefix  = "orlop:storage-node:"
	groupStorageNodes      = "orlop:storage-nodes"
)

// credentials are the paths of the certificates and keys the components are started with.
type credentials struct {
	clusterCA, clusterCAKey string
	etcdCA                  string
	frontProxyCA            string
	serviceAccountKey       string

	apiServer, apiServerKey         string
	kubeletClient, kubeletClientKey string // the API server's towards kubelets
	etcdClient, etcdClientKey       string // the API server's towards etcd
	etcdServer, etcdServerKey       string
	frontProxy, frontProxyKey       string
	controllers, controllersKey     string // served by the controller-manager and the scheduler
	kubelet, kubeletKey             string // served by the kubelet
	admin, adminKey                 string
}

// ensureCredentials makes what is missing of the cluster's keys, certificates and kubeconfigs.
func ensureCredentials(l Layout, n Network) (*credentials, error) {
	dir := l.pkiDir()
	ca, err := pki.EnsureAuthority(dir, "ca")
	if err != nil {
		return nil, err
	}
	etcdCA, err := pki.EnsureAuthority(dir, "etcd-ca")
	if err != nil {
		return nil, err
	}
	frontCA, err := pki.EnsureAuthority(dir, "front-proxy-ca")
	if err != nil {
		return nil, err
	}
	c := &credentials{
		clusterCA: ca.CertFile(), clusterCAKey: ca.KeyFile(),
		etcdCA: etcdCA.CertFile(), frontProxyCA: frontCA.CertFile(),
	}
	if c.serviceAccountKey, err = pki.EnsureKey(dir, "service-account"); err != nil {
		return nil, err
	}
	loopback := net.IPv4(127, 0, 0, 1)
	node := net.IP(n.NodeIP.AsSlice())
	for _, x := range []struct {
		by        *pki.Authority
		leaf      pki.Leaf
		cert, key *string
	}{
		{ca, pki.Leaf{Name: "apiserver", CommonName: "kube-apiserver", Server: true,
			DNSNames: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc." + clusterDomain, "localhost", l.Node},
			IPs: []net.IP{n.kubernetesIP().AsSlice(), loopback, node}}, &c.apiServer, &c.apiServerKey},
		{ca, pki.Leaf{Name: "apiserver-kubelet-client", CommonName: "kube-apiserver-kubelet-client",
			Organizations: []string{"system:masters"}, Client: true}, &c.kubeletClient, &c.kubeletClientKey},
		{etcdCA, pki.Leaf{Name: "apiserver-etcd-client", CommonName: "kube-apiserver", Client: true},
			&c.etcdClient, &c.etcdClientKey},
		{etcdCA, pki.Leaf{Name: "etcd", CommonName: "etcd", Server: true, Client: true,
			DNSNames: []string{"localhost"}, IPs: []net.IP{loopback}}, &c.etcdServer, &c.etcdServerKey},
		{frontCA, pki.Leaf{Name: "front-proxy-client", CommonName: "front-proxy-client", Client: true},
			&c.frontProxy, &c.frontProxyKey},
		{ca, pki.Leaf{Name: "controllers", CommonName: "kube-controllers", Server: true,
			DNSNames: []string{"localhost"}, IPs: []net.IP{loopback}}, &c.controllers, &c.controllersKey},
		{ca, pki.Leaf{Name: "kubelet", CommonName: "kubelet", Server: true,
			DNSNames: []string{l.Node}, IPs: []net.IP{node}}, &c.kubelet, &c.kubeletKey},
		{ca, pki.Leaf{Name: "admin", CommonName: userAdmin,
			Organizations: []string{"system:masters"}, Client: true}, &c.admin, &c.adminKey},
	} {
		if *x.cert, *x.key, err = x.by.Ensure(x.leaf); err != nil {
			return nil, err
		}
	}
	for _, x := range []struct {
		path, name, user string
		groups           []string
	}{
		{l.Kubeconfig(), "admin", userAdmin, []string{"system:masters"}},
		{l.kubeconfigOf("controller-manager"), "controller-manager", "system:kube-controller-manager", nil},
		{l.kubeconfigOf("scheduler"), "scheduler", "system:kube-scheduler", nil},
		{l.kubeconfigOf("proxy"), "proxy", "system:kube-proxy", nil},
		{l.kubeconfigOf("kubelet"), "kubelet-client", "system:node:" + l.Node, []string{"system:nodes"}},
		{l.kubeconfigOf("dns"), "dns", userDNS, nil},
		{l.kubeconfigOf("storage-controllers"), "storage-controllers", userStorageControllers, nil},
		{l.kubeconfigOf("storage-node"), "storage-node", userStorageNodePrefix + l.Node, []string{groupStorageNodes}},
	} {
		leaf := pki.Leaf{Name: x.name, CommonName: x.user, Organizations: x.groups, Client: true}
		if err := ca.WriteKubeconfig(x.path, n.apiURL(), leaf); err != nil {
			return nil, err
		}
	}
	return c, os.Chmod(dir, 0o700)
}
