package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestRollout: a workload that opted in is rolled when what its environment comes of changes, and only then.
func TestRollout(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.apply(rolloutConfig("red", "hunter1"))
	c.apply(rolloutDeployment)
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	c.envIs("red hunter1")
	if out := c.get("deployment/web", `.metadata.annotations.config\.orlop\.io/observed`); !strings.Contains(out, "ConfigMap/web") ||
		strings.Contains(out, "hunter") {
		t.Errorf("the baseline is %s", out)
	}

	c.apply(rolloutConfig("blue", "hunter1"))
	c.rolledOut("blue hunter1", 2)
	c.eventuallySays([]string{"Rolling out, because ConfigMap default/web changed"}, "events", "--for=deployment/web")
	c.kubectl("patch", "secret", "web", "-p", `{"stringData":{"PASSWORD":"hunter2"}}`)
	c.rolledOut("blue hunter2", 3)

	// The same content again: with a label, and made anew. What follows is rolled once, and nothing was before.
	c.kubectl("label", "configmap", "web", "tier=front")
	c.apply(rolloutConfig("blue", "hunter2"))
	c.kubectl("delete", "configmap", "web")
	c.eventuallySays([]string{"ConfigMap default/web is gone"}, "events", "--for=deployment/web")
	c.apply(rolloutConfig("blue", "hunter2"))
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	c.apply(rolloutConfig("green", "hunter2"))
	c.rolledOut("green hunter2", 4)

	rolloutKilled(c)
	rolloutOthers(c)
}

// rolloutKilled: what changes while the controllers are killed, and before they are back, is caught up.
func rolloutKilled(c *testCluster) {
	for i := range 3 {
		c.apply(rolloutConfig(fmt.Sprintf("killed%d", i), "hunter2"))
		if err := syscall.Kill(c.pidOf("storage-controllers"), syscall.SIGKILL); err != nil {
			c.t.Fatal(err)
		}
		c.kubectl("patch", "secret", "web", "-p", fmt.Sprintf(`{"stringData":{"PASSWORD":"killed%d"}}`, i))
		c.kubectl("patch", "configmap", "web", "-p", fmt.Sprintf(`{"data":{"COLOR":"after%d"}}`, i))
		c.eventually("the pods have what changed", func() error { return c.envNow(fmt.Sprintf("after%[1]d killed%[1]d", i)) })
		c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
		c.apply(rolloutConfig(fmt.Sprintf("after%d", i), "hunter2"))
		c.eventually("the pods have what changed", func() error { return c.envNow(fmt.Sprintf("after%d hunter2", i)) })
	}
}

// rolloutOthers: a StatefulSet and a DaemonSet are rolled by a Secret that they mount by subPath, with Reloader's annotation.
func rolloutOthers(c *testCluster) {
	c.kubectl("create", "secret", "generic", "token", "--from-literal=k=one")
	for _, kind := range []string{"StatefulSet", "DaemonSet"} {
		c.apply(`
apiVersion: apps/v1
kind: ` + kind + `
metadata:
  name: reader
  annotations: {reloader.stakater.com/auto: "true", config.orlop.io/rollout-window: 0s}
spec:
  selector: {matchLabels: {app: ` + kind + `}}
  template:
    metadata: {labels: {app: ` + kind + `}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: ` + busyboxImage + `
        command: [sleep, "1000000"]
        volumeMounts: [{name: s, mountPath: /token, subPath: k}]
      volumes: [{name: s, secret: {secretName: token}}]
`)
		c.kubectl("rollout", "status", kind+"/reader", "--timeout="+patience.String())
		c.eventuallySays([]string{"Secret/token"}, "get", kind+"/reader", "-o", "yaml")
	}
	c.kubectl("patch", "secret", "token", "-p", `{"stringData":{"k":"two"}}`)
	for _, kind := range []string{"StatefulSet", "DaemonSet"} {
		c.eventuallySays([]string{"two"}, "exec", kind+"/reader", "--", "cat", "/token")
	}
}

func rolloutConfig(color, password string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {COLOR: %q}
---
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {PASSWORD: %q}
`, color, password)
}

const rolloutDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {config.orlop.io/rollout: "true", config.orlop.io/rollout-window: 500ms}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: ` + busyboxImage + `
        command: [sleep, "1000000"]
        envFrom: [{configMapRef: {name: web}}]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: web, key: PASSWORD}}}]
`

// envNow compares the environment of all pods of the Deployment, which must be as many as it wants.
func (c *testCluster) envNow(want string) error {
	var pods corev1.PodList
	out, err := c.try(c.inNamespace("get", "pods", "-l", "app=web", "-o", "json")...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return err
	}
	if len(pods.Items) != 2 {
		return fmt.Errorf("%d pods", len(pods.Items))
	}
	for i := range pods.Items {
		got, err := c.try(c.inNamespace("exec", pods.Items[i].Name, "--", "sh", "-c", "echo $COLOR $PASSWORD")...)
		if err != nil || strings.TrimSpace(got) != want {
			return fmt.Errorf("%s has %q, want %q (%w)", pods.Items[i].Name, got, want, err)
		}
	}
	return nil
}

func (c *testCluster) envIs(want string) {
	c.t.Helper()
	c.eventually("the pods have "+want, func() error { return c.envNow(want) })
}

// rolledOut waits until all pods have the environment, and fails when the Deployment had another number of templates.
func (c *testCluster) rolledOut(want string, revisions int) {
	c.t.Helper()
	c.envIs(want)
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	sets := read[appsv1.ReplicaSetList](c, "replicasets")
	if len(sets.Items) != revisions {
		c.t.Errorf("with %s the Deployment had %d pod templates, want %d", want, len(sets.Items), revisions)
	}
}
