package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// nowhere is a kubeconfig whose API server does not answer.
const nowhere = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`

// With a kubeconfig configuration volumes are served, without an API server too; without one they are not.
func TestNodeServesConfigVolumes(t *testing.T) {
	dir := newDir(t)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	must(t, os.WriteFile(kubeconfig, []byte(nowhere), 0o600))
	const name = "config.csi.orlop.io"
	socket := filepath.Join(dir, "plugins", name, "csi.sock")
	p := start(t, dir, "--kubeconfig="+kubeconfig, "--run-dir="+filepath.Join(dir, "run"))
	conn, err := grpc.NewClient("unix:"+socket, dialOptions...)
	must(t, err)
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(p.gone, &csi.GetPluginInfoRequest{})
	must(t, err)
	node, err := csi.NewNodeClient(conn).NodeGetInfo(p.gone, &csi.NodeGetInfoRequest{})
	must(t, err, conn.Close())
	if info.GetName() != name || node.GetNodeId() != "n1" {
		t.Errorf("the driver is %v on %v", info, node)
	}
	conn, err = grpc.NewClient("unix:"+filepath.Join(dir, "plugins_registry", name+"-reg.sock"), dialOptions...)
	must(t, err)
	announced, err := registerapi.NewRegistrationClient(conn).GetInfo(p.gone, &registerapi.InfoRequest{})
	must(t, err, conn.Close())
	if announced.GetName() != name || announced.GetEndpoint() != socket {
		t.Errorf("the kubelet is told %v", announced)
	}
	if info, err := os.Stat(filepath.Join(dir, "run", name)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state's directory: %v, %v", info, err)
	}
	p.end(unix.SIGTERM)

	p = start(t, dir, "--kubeconfig="+kubeconfig, "--config-volumes=false")
	p.end(unix.SIGTERM)
	if _, err := os.Lstat(socket); err == nil {
		t.Error("configuration volumes are served in spite of --config-volumes=false")
	}
}

// Alone, configuration volumes need neither pool nor cluster, and local ones are neither served nor announced.
func TestNodeServesConfigVolumesAlone(t *testing.T) {
	dir := newDir(t)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	must(t, os.WriteFile(kubeconfig, []byte(nowhere), 0o600))
	const name = "config.csi.orlop.io"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	p := run(t, dir, name, "--node-name=n1", "--local-volumes=false", "--kubelet-dir="+dir, "--kubeconfig="+kubeconfig,
		"--run-dir="+filepath.Join(dir, "run"), "--http-address="+address)
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "plugins_registry", name+"-reg.sock"), dialOptions...)
	must(t, err)
	kubelet := registerapi.NewRegistrationClient(conn)
	_, err = kubelet.GetInfo(p.gone, &registerapi.InfoRequest{})
	must(t, err)
	ready := func() (int, string) {
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return 0, err.Error()
		}
		body, err := io.ReadAll(resp.Body)
		must(t, err, resp.Body.Close())
		return resp.StatusCode, string(body)
	}
	eventually(t, "the address is served", func() bool { code, _ := ready(); return code != 0 })
	if code, body := ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "has not registered") {
		t.Errorf("before the kubelet came: %d %s", code, body)
	}
	_, err = kubelet.NotifyRegistrationStatus(p.gone, &registerapi.RegistrationStatus{PluginRegistered: true})
	must(t, err, conn.Close())
	if code, body := ready(); code != http.StatusOK {
		t.Errorf("after the kubelet came: %d %s", code, body)
	}
	for _, pattern := range []string{"plugins/*", "plugins_registry/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 || !strings.HasPrefix(filepath.Base(found[0]), name) {
			t.Errorf("served or announced: %v, %v", found, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
