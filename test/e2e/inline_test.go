package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orlop-io/orlop/cluster"
)

// TestInlineConfig: volumes of config.csi.orlop.io show what their pod's ServiceAccount may read, and follow it.
func TestInlineConfig(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.kubectl("create", "namespace", "strict")
	c.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
	c.ns = "strict"
	for _, file := range []string{"rbac", "objects", "pod"} {
		text, err := os.ReadFile(filepath.Join(root(), "deploy/examples/config", file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		c.apply(strings.ReplaceAll(string(text), "busybox:1.37", busyboxImage))
	}
	c.waitReady("config-reader")

	inlineFiles(c)
	inlineForbidden(c)
	inlineKilled(c)
	inlineSecrecy(c)
	inlineGone(c)
}

// setSetting edits the ConfigMap and waits until the pod sees it.
func (c *testCluster) setSetting(value string) {
	c.t.Helper()
	c.kubectl("patch", "configmap", "app-settings", "-p", fmt.Sprintf(`{"data":{"settings.ini":"%s"}}`, value))
	c.fileIs("config-reader", "/etc/app/settings.ini", value)
}

// inlineFiles: what the pod sees has the modes and owners that were asked for, cannot be written, and follows edits.
func inlineFiles(c *testCluster) {
	if got := c.exec("config-reader", "cat /etc/app/settings.ini /etc/key/key"); got != "level = info\nchange me" {
		c.t.Errorf("the pod reads %q", got)
	}
	// Where no mode was asked for, the fsGroup may read; where one was, it stays.
	if got := c.exec("config-reader", "stat -L -c '%a %u:%g' /etc/app/settings.ini /etc/key/key"); got != "644 0:2000\n400 1000:2000\n" {
		c.t.Errorf("modes and owners are\n%s", got)
	}
	if got := c.exec("config-reader", "grep -c 'config.csi.orlop.io /etc/[a-z]* tmpfs ro,' /proc/mounts"); got != "2\n" {
		c.t.Errorf("the container has %s of its volumes read-only", got)
	}
	for i := range 5 {
		c.setSetting(fmt.Sprintf("level = %d", i))
	}
	c.kubectl("patch", "secret", "app-key", "-p", `{"stringData":{"key":"orlop-e2e-inline-1"}}`)
	c.fileIs("config-reader", "/etc/key/key", "orlop-e2e-inline-1")

	// As root of a container.
	c.ns = ""
	c.kubectl("create", "configmap", "cm", "--from-literal=k=v")
	c.kubectl("create", "role", "cm", "--verb=get,list,watch", "--resource=configmaps", "--resource-name=cm")
	c.kubectl("create", "rolebinding", "cm", "--role=cm", "--serviceaccount=default:default")
	c.apply(sleeper("root", "volumeMounts: [{name: v, mountPath: /v}]",
		"volumes: [{name: v, csi: {driver: config.csi.orlop.io, readOnly: true, volumeAttributes: {kind: ConfigMap, name: cm, items: '[{key: k, path: a/b}]'}}}]"))
	c.waitReady("root")
	c.execFails("Read-only file system", "root", "touch /v/x")
	c.fileIs("root", "/v/a/b", "v")
}

// inlineForbidden: a pod that may not read says what to grant, and starts once it is granted.
func inlineForbidden(c *testCluster) {
	c.apply(sleeper("stranger", "volumeMounts: [{name: v, mountPath: /v}]",
		"volumes: [{name: v, csi: {driver: config.csi.orlop.io, volumeAttributes: {kind: Secret, name: app-key, namespace: strict}}}]"))
	out := c.eventuallySays([]string{"ServiceAccount default/default may not get, list and watch Secret strict/app-key"},
		"get", "events", "--field-selector=involvedObject.name=stranger", "-o", "jsonpath={.items[*].message}")
	_, commands, _ := strings.Cut(out, "to grant it: ")
	for command := range strings.SplitSeq(commands, " && ") {
		words := strings.Fields(command)
		// The last one's words may be followed by those of another event.
		last := slices.IndexFunc(words, func(w string) bool {
			return strings.HasPrefix(w, "--serviceaccount=") || strings.HasPrefix(w, "--resource-name=")
		})
		if last < 0 || words[0] != "kubectl" {
			c.t.Fatalf("the event has no commands: %s", out)
		}
		c.orlop(words[:last+1]...)
	}
	c.waitReady("stranger")
	c.fileIs("stranger", "/v/key", "orlop-e2e-inline-1")
	c.apply(sleeper("wrong", "volumeMounts: [{name: v, mountPath: /v}]",
		"volumes: [{name: v, csi: {driver: config.csi.orlop.io, volumeAttributes: {kind: Secret, title: x}}}]"))
	c.eventuallySays([]string{"volume attribute title: there is no such attribute"}, "describe", "pod/wrong")
	c.kubectl("delete", "pod", "wrong", "--now")
}

// inlineKilled: neither a killed driver nor a killed API server takes files away or stops them from following.
func inlineKilled(c *testCluster) {
	c.ns = "strict"
	for i := range 3 {
		kill(c.t, c.pidOf("storage-node"))
		c.setSetting(fmt.Sprintf("killed = %d", i))
	}
	kill(c.t, c.pidOf("kube-apiserver"))
	kill(c.t, c.pidOf("storage-node"))
	c.pidOf("kube-apiserver")
	c.eventually("the API server takes a change", func() error {
		out, err := c.try(c.inNamespace("patch", "configmap", "app-settings", "-p", `{"data":{"settings.ini":"outage"}}`)...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	c.fileIs("config-reader", "/etc/app/settings.ini", "outage")
	c.pidOf("storage-node")
	if restarts := c.get("pod/config-reader", ".status.containerStatuses[0].restartCount"); restarts != "0" {
		c.t.Errorf("the pod was restarted %s times", restarts)
	}
}

// inlineSecrecy: the node's own identity can read nothing, and neither tokens nor Secrets get into a log.
func inlineSecrecy(c *testCluster) {
	node := strings.TrimSpace(c.get("node", ".items[0].metadata.name"))
	for _, resource := range []string{"secrets", "configmaps"} {
		for _, verb := range []string{"get", "list", "watch"} {
			out, err := c.try("kubectl", "auth", "can-i", verb, resource, "--all-namespaces",
				"--as=orlop:storage-node:"+node, "--as-group=orlop:storage-nodes")
			if err == nil || !strings.HasPrefix(out, "no") {
				c.t.Errorf("the node's storage may %s %s: %s", verb, resource, out)
			}
		}
	}
	logs, err := filepath.Glob(filepath.Join(c.dir, "logs", "*"))
	if err != nil || len(logs) == 0 {
		c.t.Fatalf("logs: %v, %v", logs, err)
	}
	for _, file := range logs {
		text, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, secret := range []string{"orlop-e2e-inline-", "eyJhbGciOi"} {
			if strings.Contains(string(text), secret) {
				c.t.Errorf("%s contains %s", file, secret)
			}
		}
	}
	if log, err := os.ReadFile(filepath.Join(c.dir, "logs", "storage-node.log")); err != nil ||
		!strings.Contains(string(log), "NodePublishVolume") {
		c.t.Errorf("the log of storage-node has no publish: %v", err)
	}
}

// inlineGone: pods that go leave neither a mount nor a record.
func inlineGone(c *testCluster) {
	state, err := cluster.ReadState(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	records := filepath.Join("/run/orlop", state.ID, "config.csi.orlop.io", "*.json")
	if have, err := filepath.Glob(records); err != nil || len(have) == 0 {
		c.t.Errorf("records of volumes: %v, %v", have, err)
	}
	c.kubectl("delete", "pod", "config-reader", "--now")
	c.ns = ""
	c.kubectl("delete", "pods", "--all", "--now")
	c.eventually("no volume is left", func() error {
		left, err := filepath.Glob(filepath.Join(c.dir, "nodes/*/kubelet/pods/*/volumes/kubernetes.io~csi/*"))
		recorded, recordsErr := filepath.Glob(records)
		if err != nil || recordsErr != nil || len(left)+len(recorded) > 0 {
			return fmt.Errorf("left: %v %v %w %w", left, recorded, err, recordsErr)
		}
		return nil
	})
}
