package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersions is the example of versioned configuration: edits make versions, a rollout is undone to the former one, and what
// no revision refers to any more is collected.
func TestVersions(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	example := filepath.Join(root(), "deploy", "examples", "versions")
	dir := c.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	edit := func(file, old, replacement string) {
		t.Helper()
		path := filepath.Join(dir, file)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), old) {
			t.Fatalf("%s has no %q", file, old)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), old, replacement)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit("kustomization.yaml", "collect-after: 24h", "collect-after: 1s")
	edit("kustomization.yaml", "resources:", "images: [{name: busybox, newName: orlop.io/test/busybox, newTag: '1'}]\nresources:")

	// roll applies the files and returns the names of the version's objects.
	roll := func() (configMap, secret string) {
		t.Helper()
		c.kubectl("apply", "-k", dir)
		c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
		return "configmap/" + c.get("deployment/web", ".spec.template.spec.volumes[0].configMap.name"),
			"secret/" + c.get("deployment/web", ".spec.template.spec.containers[0].envFrom[0].secretRef.name")
	}
	serves := func(when, greeting, password string) {
		t.Helper()
		c.eventually("both pods serve "+greeting+" "+when, func() error {
			pods := strings.Fields(c.get("pods", ".items[*].metadata.name"))
			if len(pods) != 2 {
				return fmt.Errorf("there are %q", pods)
			}
			for _, pod := range pods {
				got, err := c.try("kubectl", "exec", pod, "--", "sh", "-c", "cat /etc/web/web.properties; echo $PASSWORD")
				if want := "greeting=" + greeting + "\n" + password + "\n"; err != nil || got != want {
					return fmt.Errorf("%s has %q, %w", pod, got, err)
				}
			}
			return nil
		})
	}
	there := func(when string, objects ...string) {
		t.Helper()
		for _, o := range objects {
			if out, err := c.try("kubectl", "get", o); err != nil {
				t.Errorf("%s, %s: %v: %s", when, o, err, out)
			}
		}
	}

	first, firstSecret := roll()
	serves("at first", "ahoy", "change-me")
	edit("web.properties", "ahoy", "hello")
	second, secret := roll()
	if second == first || secret != firstSecret {
		t.Fatalf("the versions are %s %s and %s %s", first, firstSecret, second, secret)
	}
	serves("after an edit", "hello", "change-me")
	c.refused([]string{"immutable"}, "kubectl", "patch", second, "-p", `{"data":{"web.properties":"x"}}`)

	// What a rollback needs stays, however long nothing else refers to it: a version that is younger goes before.
	bystander(c)
	there("with one revision to go back to", first, second, secret)
	edit("web.properties", "hello", "greetings")
	edit("secret.env", "change-me", "changed")
	third, thirdSecret := roll()
	serves("after another edit", "greetings", "changed")
	c.eventuallyGone(first)
	c.eventuallySays([]string{"Collected"}, "get", "events", "--field-selector=involvedObject.name="+strings.TrimPrefix(first, "configmap/"))
	there("after the first was collected", second, secret, third, thirdSecret)

	c.kubectl("rollout", "undo", "deployment/web")
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	serves("after a rollback", "hello", "change-me")
	bystander(c)
	there("after a rollback", second, secret, third, thirdSecret)

	// A version that was collected is made again by whoever applies it again.
	edit("web.properties", "greetings", "ahoy")
	if again, _ := roll(); again != first {
		t.Errorf("the first version is %s, and made again %s", first, again)
	}
	serves("with the first version again", "ahoy", "changed")

	c.kubectl("delete", "deployment/web")
	for _, o := range []string{first, second, third, secret, thirdSecret} {
		c.eventuallyGone(o)
	}
	there("after all", "configmap/kube-root-ca.crt")
	versionsOfStatefulSet(c)
}

// bystander makes a version that nothing refers to, and waits until it is collected: what is older and was to be collected
// is gone by then.
func bystander(c *testCluster) {
	c.t.Helper()
	c.apply(version("bystander", "x"))
	c.eventuallyGone("configmap/bystander")
}

func version(name, value string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: %s
  labels: {config.orlop.io/collect: unused}
  annotations: {config.orlop.io/collect-after: 1s}
immutable: true
data: {k: %s}
`, name, value)
}

// versionsOfStatefulSet: the revisions of a StatefulSet keep what they refer to.
func versionsOfStatefulSet(c *testCluster) {
	set := func(configMap string) string {
		return version(configMap, configMap) + fmt.Sprintf(`
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  replicas: 1
  revisionHistoryLimit: 1
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: %s
        command: [sleep, "1000000"]
        volumeMounts: [{name: v, mountPath: /v}]
      volumes: [{name: v, configMap: {name: %s}}]
`, busyboxImage, configMap)
	}
	roll := func(configMap string) {
		c.apply(set(configMap))
		c.kubectl("rollout", "status", "statefulset/set", "--timeout="+patience.String())
		c.fileIs("set-0", "/v/k", configMap)
	}
	roll("set-1")
	roll("set-2")
	bystander(c)
	c.kubectl("rollout", "undo", "statefulset/set")
	c.kubectl("rollout", "status", "statefulset/set", "--timeout="+patience.String())
	c.fileIs("set-0", "/v/k", "set-1")
	roll("set-3")
	roll("set-4")
	c.eventuallyGone("configmap/set-2")
	c.get("configmap/set-3", ".metadata.name")
	c.kubectl("delete", "statefulset/set")
	for _, name := range []string{"set-1", "set-3", "set-4"} {
		c.eventuallyGone("configmap/" + name)
	}
}
