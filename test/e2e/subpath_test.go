package e2e

import (
	"strings"
)

// subPathObjects has a pod whose containers mount single files, and a directory, of a ConfigMap and a Secret.
const subPathObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: parts}
data: {a: "0", b: "0"}
---
apiVersion: v1
kind: Secret
metadata: {name: part}
stringData: {k: orlop-e2e-secret-part-0}
---
apiVersion: v1
kind: Pod
metadata:
  name: parts
  annotations: {config.orlop.io/subpath: in-place, kubectl.kubernetes.io/default-container: c}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: side
    image: ` + busyboxImage + `
    restartPolicy: Always
    command: [sleep, "1000000"]
    volumeMounts: [{name: cm, mountPath: /a, subPath: a}]
  containers:
  - name: c
    image: ` + busyboxImage + `
    command: [sleep, "1000000"]
    env: [{name: KEY, value: b}]
    volumeMounts:
    - {name: cm, mountPath: /b, subPathExpr: d/$(KEY)}
    - {name: cm, mountPath: /d, subPath: d}
    - {name: part, mountPath: /s, subPath: k}
  volumes:
  - {name: cm, configMap: {name: parts, items: [{key: a, path: a}, {key: b, path: d/b}]}}
  - {name: part, secret: {secretName: part, defaultMode: 0400}}
`

// configSubPath: files that are mounted with subPath follow in place where the pod asks for it, also after the kubelet
// was killed; and a pod that does not ask is told that they will not.
func configSubPath(c *testCluster) {
	c.eventuallySays([]string{"SubPathNotLive", `container "c": /sub (subPath "b" of volume "cm")`}, "get", "events")
	c.apply(subPathObjects)
	c.waitReady("parts")
	set := func(value string) {
		c.kubectl("patch", "configmap", "parts", "-p", `{"data":{"a":"`+value+`","b":"`+value+`"}}`)
		c.kubectl("patch", "secret", "part", "-p", `{"stringData":{"k":"orlop-e2e-secret-part-`+value+`"}}`)
		for _, file := range []string{"/b", "/s"} {
			want := value
			if file == "/s" {
				want = "orlop-e2e-secret-part-" + value
			}
			c.fileIs("parts", file, want)
		}
		c.eventuallySays([]string{value}, "exec", "parts", "-c", "side", "--", "cat", "/a")
	}
	before := c.exec("parts", "stat -c %i /b /s")
	set("one")
	set("two, which is longer")
	kill(c.t, c.pidOf("kubelet"))
	set("3")
	if after := c.exec("parts", "stat -c %i /b /s"); after != before {
		c.t.Errorf("the inodes were\n%sand are\n%s", before, after)
	}
	if got := c.exec("parts", "cat /d/b"); got != "0" {
		c.t.Errorf("the directory mounted with subPath shows %q", got)
	}
	if got := c.exec("parts", "stat -c %a /b /s"); got != "644\n400\n" {
		c.t.Errorf("modes are\n%s", got)
	}
	if out := c.kubectl("get", "events", "--field-selector", "involvedObject.name=parts"); strings.Contains(out, "SubPath") {
		c.t.Errorf("events on the pod:\n%s", out)
	}
}
