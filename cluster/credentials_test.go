package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A machine that comes back with another address has its servers' certificates made anew, and the rest kept.
func TestChangedNodeAddress(t *testing.T) {
	l := Layout{DataDir: t.TempDir(), Node: "worker-1"}
	at := func(ip string) Network {
		return Network{NodeIP: netip.MustParseAddr(ip), Pods: hostPods, Services: hostServices}
	}
	first, err := ensureCredentials(l, at("192.0.2.7"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(l.pkiDir(), "*"))
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, f := range append(files, l.Kubeconfig()) {
		before[f] = content(t, f)
	}
	second, err := ensureCredentials(l, at("203.0.113.9"))
	if err != nil {
		t.Fatal(err)
	}
	if *first != *second {
		t.Errorf("paths changed: %+v, %+v", first, second)
	}
	want := map[string]bool{second.apiServer: true, second.apiServerKey: true, second.kubelet: true, second.kubeletKey: true}
	for f, old := range before {
		if anew := content(t, f) != old; anew != want[f] {
			t.Errorf("%s made anew: %t, want %t", filepath.Base(f), anew, want[f])
		}
	}
	for _, f := range []string{second.apiServer, second.kubelet} {
		if err := certificate(t, f).VerifyHostname("203.0.113.9"); err != nil {
			t.Error(err)
		}
	}
}

func TestIdentities(t *testing.T) {
	c := newCluster(t)
	for _, x := range []struct{ path, user, group string }{
		{c.Kubeconfig(), "orlop:admin", "system:masters"},
		{c.kubeconfigOf("controller-manager"), "system:kube-controller-manager", ""},
		{c.kubeconfigOf("scheduler"), "system:kube-scheduler", ""},
		{c.kubeconfigOf("proxy"), "system:kube-proxy", ""},
		{c.kubeconfigOf("kubelet"), "system:node:worker-1", "system:nodes"},
		{c.kubeconfigOf("dns"), "orlop:dns", ""},
		{c.kubeconfigOf("storage-controllers"), "orlop:storage-controllers", ""},
		{c.kubeconfigOf("storage-node"), "orlop:storage-node:worker-1", "orlop:storage-nodes"},
	} {
		config, err := clientcmd.BuildConfigFromFlags("", x.path)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(config.CertData)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		group := ""
		if len(cert.Subject.Organization) > 0 {
			group = cert.Subject.Organization[0]
		}
		if cert.Subject.CommonName != x.user || group != x.group || len(cert.Subject.Organization) > 1 {
			t.Errorf("%s is of %v", x.path, cert.Subject)
		}
		if info, err := os.Stat(x.path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", x.path, info.Mode(), err)
		}
	}
	server := certificate(t, c.creds.apiServer)
	for _, name := range []string{"kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1",
		c.net.kubernetesIP().String(), c.net.NodeIP.String()} {
		if err := server.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	// etcd trusts an authority of its own: a certificate of the cluster's opens nothing there.
	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, c.creds.etcdCA))
	if _, err := certificate(t, c.creds.admin).Verify(x509.VerifyOptions{Roots: roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("etcd would take the administrator's certificate")
	}
	if etcd := certificate(t, c.creds.etcdServer); !etcd.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1)) {
		t.Errorf("etcd serves %v", etcd.IPAddresses)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
