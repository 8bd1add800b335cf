package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/orlop-io/orlop/cluster/configstatus"
)

// TestConfigStatus: `orlop config status` tells what volumes show, and what is behind while the kubelet or the API server
// hangs.
func TestConfigStatus(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.apply(configObjects)
	c.waitReady("config")
	c.freeze("1")
	c.orlop("config", "status", "--wait=60s")

	// Labels of a ConfigMap change no file, and so does an edit of a key that no item names: neither leaves anything behind.
	c.kubectl("label", "configmap", "cm", "frozen", "edited=yes")
	c.orlop("config", "status", "--wait=60s")
	// What the API server notes of an edit's time is of whole seconds.
	edits := 0
	c.eventually("the status tells of an edit after the container's start", func() error {
		edits++
		c.setConfig(fmt.Sprint(edits))
		out := c.orlop("config", "status", "--wait=60s")
		for _, want := range []string{"env A", "subPath /sub", "after the container started: restart it", "Secret/s@", "current"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in:\n%s", want, out)
			}
		}
		return nil
	})
	out := c.orlop("config", "status")
	if strings.Contains(out, "kube-api-access") || !strings.Contains(c.orlop("config", "status", "-o", "wide"), "kube-api-access") {
		t.Errorf("the credentials' volumes are shown other than with -o wide:\n%s", out)
	}

	kubelet := c.pidOf("kubelet")
	stopped(t, kubelet, func() {
		c.setConfig("behind")
		c.kubectl("label", "pod", "config", "l=behind", "--overwrite")
		out := c.refused([]string{"behind: ConfigMap cm is at version " + c.get("configmap/cm", ".metadata.resourceVersion"),
			"behind: the pod's labels changed"}, "config", "status", "--check")
		if strings.Contains(out, "gone") {
			t.Errorf("the status says:\n%s", out)
		}
		want := map[string]configstatus.State{"config/cm": "behind", "config/downward": "behind", "config/all": "behind",
			"config/s": "current", "config/frozen": "current", "reader/cm": "behind"}
		for name, state := range want {
			if got := c.configStatus().volume(t, name).State; got != state {
				t.Errorf("%s is %s, want %s", name, got, state)
			}
		}
	})
	c.orlop("config", "status", "--wait=60s", "-A")

	stopped(t, c.pidOf("kube-apiserver"), func() {
		c.refused([]string{"The API server could not be asked", "ConfigMap/cm@", "unknown"}, "config", "status", "--check")
		if r := c.configStatus(); r.Compared || len(r.Volumes) < 6 || r.volume(t, "config/cm").Generation == "" {
			t.Errorf("without an API server: %+v", r)
		}
	})
	c.orlop("config", "status", "--wait=60s", "-A")
	c.refused([]string{`no pod "nonesuch"`}, "config", "status", "nonesuch")
	c.orlop("down")
	c.refused([]string{"is not running: start it with 'orlop up'"}, "config", "status")
}

// stopped does something while a process is stopped.
func stopped(t *testing.T, pid int, do func()) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	do()
}

type configReport struct{ configstatus.Report }

func (c *testCluster) configStatus() configReport {
	c.t.Helper()
	var r configReport
	if out := c.orlop("config", "status", "-o", "json"); json.Unmarshal([]byte(out), &r.Report) != nil {
		c.t.Fatalf("orlop config status -o json prints\n%s", out)
	}
	return r
}

// volume returns the volume that is named as pod/volume.
func (r configReport) volume(t *testing.T, name string) configstatus.Volume {
	t.Helper()
	for _, v := range r.Volumes {
		if fmt.Sprintf("%s/%s", v.Pod, v.Name) == name {
			return v
		}
	}
	t.Fatalf("there is no volume %s: %+v", name, r.Volumes)
	return configstatus.Volume{}
}

// TestConfigStatusPlain: upstream's plugins note no versions, and the status says so.
func TestConfigStatusPlain(t *testing.T) {
	c := start(t, "--plain")
	c.importImage("busybox")
	c.kubectl("create", "configmap", "cm", "--from-literal=k=v")
	c.apply(sleeper("p", "volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, configMap: {name: cm}}]"))
	c.waitReady("p")
	if out := c.orlop("config", "status", "p"); !strings.Contains(out, "unknown: written by upstream's plugin") {
		t.Errorf("the status says\n%s", out)
	}
}

// TestConfigStatusInline: the status tells of the CSI driver's volumes as well.
func TestConfigStatusInline(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.kubectl("create", "configmap", "cm", "--from-literal=k=1")
	c.kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=configmaps")
	c.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:default")
	c.apply(sleeper("p", "volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, csi: {driver: config.csi.orlop.io, readOnly: true, "+
		"volumeAttributes: {kind: ConfigMap, name: cm}}}]"))
	c.waitReady("p")
	c.orlop("config", "status", "--wait=60s")
	stopped(t, c.pidOf("storage-node"), func() {
		c.kubectl("patch", "configmap", "cm", "-p", `{"data":{"k":"2"}}`)
		c.refused([]string{"csi", "behind: ConfigMap cm is at version"}, "config", "status", "--check")
	})
	c.orlop("config", "status", "--wait=60s")
	c.fileIs("p", "/v/k", "2")
	c.kubectl("label", "configmap", "cm", "edited=yes")
	c.orlop("config", "status", "--wait=60s")
}
