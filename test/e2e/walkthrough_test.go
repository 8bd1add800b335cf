package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestWalkthrough takes the steps by which Kubernetes is taught, each as its story, on one cluster.
func TestWalkthrough(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.stories("Steps", func(c *testCluster) {
		c.story("Node", nodeStep)
		c.story("Pod", podStep)
		c.story("Probes", probesStep)
		c.story("Deployment", deploymentStep)
		c.story("Selectors", selectorsStep)
		c.story("Jobs", jobsStep)
		c.story("StatefulSet", statefulSetStep)
		c.story("Services", servicesStep)
		c.story("Configuration", configurationStep)
		c.story("Downward", downwardStep)
		c.story("Limits", limitsStep)
		c.story("StaticPod", staticPodStep)
	})
	c.eventuallyEmpty()
}

// nodeStep: a look at the node and the namespaces.
func nodeStep(c *testCluster) {
	node := read[corev1.Node](c, "node/"+c.status().Node)
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods} {
		has, gives := node.Status.Capacity[r], node.Status.Allocatable[r]
		if has.IsZero() || gives.IsZero() {
			c.t.Errorf("the node has %s of %s, %s allocatable", has.String(), r, gives.String())
		}
	}
	info := node.Status.NodeInfo
	if info.KubeletVersion != "v1.36.3" || !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://2.") {
		c.t.Errorf("the node runs kubelet %s, %s", info.KubeletVersion, info.ContainerRuntimeVersion)
	}
	if out := c.kubectl("describe", "node"); !strings.Contains(out, "InternalIP") || !strings.Contains(out, "MemoryPressure") {
		c.t.Errorf("describe node says:\n%s", out)
	}
	names := " " + c.get("namespaces", ".items[*].metadata.name") + " "
	for _, ns := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if !strings.Contains(names, " "+ns+" ") {
			c.t.Errorf("the namespaces are%s, without %s", names, ns)
		}
	}
	c.kubectl("run", "hidden", "--image="+busyboxImage, "--", "sleep", "60")
	if out := c.orlop("kubectl", "get", "pods", "--namespace=default"); strings.Contains(out, "hidden") {
		c.t.Errorf("the namespace default has the pod of another:\n%s", out)
	}
	c.kubectl("delete", "pod", "hidden", "--force")
}

// podStep: run a pod, look at it, talk to it, delete it.
func podStep(c *testCluster) {
	c.kubectl("run", "web", "--image="+busyboxImage, "--port=80", "--env=COLOUR=blue", "--",
		"sh", "-c", "echo started; echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp")
	c.waitReady("web")
	ip := c.get("pod/web", ".status.podIP")
	if out := c.kubectl("get", "pod", "web", "-o", "wide"); !strings.Contains(out, ip) || !strings.Contains(out, "Running") {
		c.t.Errorf("get pod -o wide says:\n%s", out)
	}
	c.eventually("the pod's address answers the node", func() error {
		return getInside(c.status().Netns, "http://"+ip+"/", "hello\n")
	})
	if out := c.kubectl("describe", "pod", "web"); !strings.Contains(out, "Started") || !strings.Contains(out, busyboxImage) {
		c.t.Errorf("describe pod says:\n%s", out)
	}
	if out := c.kubectl("logs", "web"); out != "started\n" {
		c.t.Errorf("logs say %q", out)
	}
	if out := c.kubectl("exec", "web", "--", "env"); !strings.Contains(out, "COLOUR=blue") {
		c.t.Errorf("exec env says:\n%s", out)
	}
	sh := c.command(c.t.Context(), c.inNamespace("exec", "-i", "web", "--", "sh")...)
	sh.Stdin = strings.NewReader("echo $COLOUR; exit 7\n")
	if out, err := sh.Output(); string(out) != "blue\n" || sh.ProcessState.ExitCode() != 7 {
		c.t.Errorf("a shell in the pod says %q, %v, want blue and exit status 7", out, err)
	}
	there, back := filepath.Join(c.t.TempDir(), "there"), filepath.Join(c.t.TempDir(), "back")
	if err := os.WriteFile(there, []byte("copied\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("cp", there, "web:/tmp/copy.html")
	c.kubectl("cp", "web:/tmp/copy.html", back)
	sameFile(c, back, "copied\n")
	c.portForward("pod/web", 80, func(address string) error { return httpGet("http://"+address+"/copy.html", "copied\n") })
	c.kubectl("delete", "pod", "web", "--grace-period=1")
	c.eventuallyGone("pod/web")
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

// portForward forwards a port of the host's to one of an object while use tries it.
func (c *testCluster) portForward(object string, port int, use func(address string) error) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	cmd := c.command(ctx, c.inNamespace("port-forward", object, fmt.Sprintf(":%d", port))...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if match := forwarding.FindStringSubmatch(line); match == nil {
		err = fmt.Errorf("port-forward says %q, %w", line, err)
	} else {
		err = use(match[1])
	}
	cancel()
	// It was killed.
	_ = cmd.Wait()
	if err != nil {
		c.t.Error(err)
	}
}

// probesStep: init containers in their order, two containers that share a directory, hooks and probes of all kinds.
func probesStep(c *testCluster) {
	const image = "image: " + busyboxImage
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: chain}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {medium: Memory}}]
  initContainers:
  - {name: one, ` + image + `, command: [sh, -c, "echo one >> /v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: two, ` + image + `, command: [sh, -c, "echo two >> /v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: main
    ` + image + `
    command: [sh, -c, "exec httpd -f -p 80 -h /v"]
    volumeMounts: [{name: v, mountPath: /v}]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo hook > /v/hook"]}}
      preStop: {exec: {command: [sh, -c, "echo bye"]}}
    startupProbe: {httpGet: {path: /order, port: 80}, periodSeconds: 1}
    readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, -f, /v/order]}, periodSeconds: 1}
  - {name: side, ` + image + `, command: [sleep, "600"], volumeMounts: [{name: v, mountPath: /v}]}
` + sleeper("unready", `readinessProbe: {exec: {command: [test, -f, /tmp/ready]}, periodSeconds: 1}`, "") +
		sleeper("dying", `livenessProbe: {tcpSocket: {port: 81}, periodSeconds: 1, failureThreshold: 1}`, ""))
	c.waitReady("chain")
	if got := c.kubectl("exec", "chain", "-c", "side", "--", "sh", "-c", "cat /v/order /v/hook; df /v | grep -c tmpfs"); got !=
		"one\ntwo\nhook\n1\n" {
		c.t.Errorf("the second container sees %q", got)
	}
	c.eventually("the failing probe restarts its container", func() error {
		if n := c.get("pod/dying", ".status.containerStatuses[0].restartCount"); n == "" || n == "0" {
			return errors.New("no restart yet")
		}
		return nil
	})
	if got := c.get("pod/unready", `.status.conditions[?(@.type=="Ready")].status`); got != "False" {
		c.t.Errorf("the pod whose probe fails is Ready: %s", got)
	}
	c.exec("unready", "touch /tmp/ready")
	c.waitReady("unready")
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: ` + busyboxImage + `, command: [sh, -c, "trap exit TERM; while :; do sleep 1; done"]}
`

// deploymentStep: a Deployment heals itself, scales, rolls out, back, and stops half way when told to.
func deploymentStep(c *testCluster) {
	rolled := func() {
		c.t.Helper()
		c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	}
	image := func() string {
		return c.get("deployment/web", ".spec.template.spec.containers[0].image")
	}
	c.apply(deployment)
	rolled()
	victim := c.get("pods", ".items[0].metadata.name")
	c.kubectl("delete", "pod", victim)
	c.eventuallyIs("deployment/web", ".status.availableReplicas", "3")
	for _, n := range []string{"5", "3"} {
		c.kubectl("scale", "deployment/web", "--replicas="+n)
		c.eventuallyIs("deployment/web", ".status.availableReplicas", n)
	}

	c.kubectl("set", "image", "deployment/web", "c=orlop.io/test/nonesuch:1")
	c.eventually("the new image cannot be had", func() error {
		out := c.kubectl("get", "pods")
		if !strings.Contains(out, "ErrImagePull") && !strings.Contains(out, "ImagePullBackOff") {
			return errors.New(out)
		}
		return nil
	})
	if n := c.get("deployment/web", ".status.availableReplicas"); n != "3" {
		c.t.Errorf("with maxUnavailable 0 there are %s of 3 replicas during a rollout that hangs", n)
	}
	if out := c.kubectl("rollout", "history", "deployment/web"); !strings.Contains(out, "2") {
		c.t.Errorf("rollout history says:\n%s", out)
	}
	c.kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
	rolled()
	if got := image(); got != busyboxImage {
		c.t.Errorf("after undo the image is %s", got)
	}

	c.kubectl("rollout", "pause", "deployment/web")
	revision := c.get("deployment/web", `.metadata.annotations.deployment\.kubernetes\.io/revision`)
	c.kubectl("set", "env", "deployment/web", "COLOUR=green")
	if now := c.get("deployment/web", `.metadata.annotations.deployment\.kubernetes\.io/revision`); now != revision {
		c.t.Errorf("a paused Deployment went from revision %s to %s", revision, now)
	}
	c.kubectl("rollout", "resume", "deployment/web")
	rolled()
	c.kubectl("patch", "deployment/web", "--patch",
		`{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null},"template":{"metadata":{"labels":{"again":"yes"}}}}}`)
	rolled()
	c.eventuallyIs("deployment/web", ".status.availableReplicas", "3")
	if n := c.kubectl("get", "pods", "-l", "again=yes,app in (web)", "-o", "name"); strings.Count(n, "pod/") != 3 {
		c.t.Errorf("with the new label there are %q", n)
	}
}

// selectorsStep: ReplicaSet and ReplicationController, by equality and by expression.
func selectorsStep(c *testCluster) {
	const template = `
  template:
    metadata: {labels: {tier: front, app: x}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: ` + busyboxImage + `, command: [sleep, "600"]}]
`
	c.apply(`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: set}
spec:
  replicas: 2
  selector:
    matchExpressions:
    - {key: tier, operator: In, values: [front, middle]}
    - {key: app, operator: Exists}
    - {key: legacy, operator: DoesNotExist}
    - {key: tier, operator: NotIn, values: [back]}` + template + `
---
apiVersion: v1
kind: ReplicationController
metadata: {name: controller}
spec:
  replicas: 1
  selector: {app: other}` + strings.Replace(template, "app: x", "app: other", 1))
	c.eventuallyIs("replicaset/set", ".status.readyReplicas", "2")
	c.eventuallyIs("replicationcontroller/controller", ".status.readyReplicas", "1")
	// A pod that no longer matches is let go, and replaced.
	pod := c.kubectl("get", "pods", "-l", "app=x", "-o", "jsonpath={.items[0].metadata.name}")
	c.kubectl("label", "pod", pod, "legacy=yes")
	c.eventuallyIs("pod/"+pod, ".metadata.ownerReferences", "")
	c.eventuallyIs("replicaset/set", ".status.readyReplicas", "2")
}

// jobsStep: what runs on every node, once, several times, too long, and by the clock.
func jobsStep(c *testCluster) {
	pod := func(script string) string {
		return `{spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: ` + busyboxImage +
			`, command: [sh, -c, "` + script + `"]}]}}`
	}
	c.apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: clock}
spec: {schedule: "* * * * *", jobTemplate: {spec: {template: ` + pod("echo tick") + `}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: thrice}
spec: {completions: 3, parallelism: 2, template: ` + pod("echo done") + `}
---
apiVersion: batch/v1
kind: Job
metadata: {name: late}
spec: {activeDeadlineSeconds: 1, template: ` + pod("sleep 600") + `}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: ` + busyboxImage + `, command: [sleep, "600"]}]
`)
	c.kubectl("wait", "--for=condition=Complete", "job/thrice", "--timeout="+patience.String())
	c.eventuallyIs("job/thrice", ".status.succeeded", "3")
	c.kubectl("wait", "--for=condition=Failed", "job/late", "--timeout="+patience.String())
	if got := c.get("job/late", `.status.conditions[?(@.type=="Failed")].reason`); got != "DeadlineExceeded" {
		c.t.Errorf("the job that takes too long failed for %s", got)
	}
	c.eventuallyIs("daemonset/everywhere", ".status.numberReady", "1")
	c.kubectl("create", "job", "by-hand", "--from=cronjob/clock")
	c.kubectl("wait", "--for=condition=Complete", "job/by-hand", "--timeout="+patience.String())
	if out := c.kubectl("logs", "job/by-hand"); out != "tick\n" {
		c.t.Errorf("the job says %q", out)
	}
	c.eventually("the minute strikes", func() error {
		if c.get("cronjob/clock", ".status.lastSuccessfulTime") == "" {
			return errors.New("not yet")
		}
		return nil
	})
}

// staticPodStep: a manifest in the node's directory is a pod, without the API server's doing.
func staticPodStep(c *testCluster) {
	node := c.status().Node
	manifest := filepath.Join(c.dir, "nodes", node, "manifests", "static.yaml")
	pod := strings.Replace(sleeper("static", "", ""), "metadata: {", "metadata: {namespace: "+c.ns+", ", 1)
	if err := os.WriteFile(manifest, []byte(pod), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.eventuallySays([]string{"static-" + node, "1/1", "Running"}, "get", "pods")
	if err := os.Remove(manifest); err != nil {
		c.t.Fatal(err)
	}
	c.eventuallyGone("pod/static-" + node)
}

// limitsStep: quality of service, quotas, defaults, and the end of a container that takes too much.
func limitsStep(c *testCluster) {
	c.apply(`
apiVersion: v1
kind: LimitRange
metadata: {name: defaults}
spec: {limits: [{type: Container, default: {memory: 64Mi, cpu: 500m}, defaultRequest: {memory: 32Mi, cpu: 10m}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec: {hard: {pods: "3", persistentvolumeclaims: "1", requests.storage: 1Gi}}
`)
	c.apply(sleeper("burstable", "", "") +
		sleeper("guaranteed", "resources: {requests: {memory: 32Mi, cpu: 10m}, limits: {memory: 32Mi, cpu: 10m}}", ""))
	for _, class := range []string{"burstable", "guaranteed"} {
		if got := c.get("pod/"+class, ".status.qosClass"); !strings.EqualFold(got, class) {
			c.t.Errorf("pod %s is %s", class, got)
		}
	}
	if got := c.get("pod/burstable", ".spec.containers[0].resources.limits.memory"); got != "64Mi" {
		c.t.Errorf("the LimitRange gave the pod a limit of %q", got)
	}
	c.kubectl("run", "greedy", "--image="+busyboxImage, "--restart=Never", "--", "sh", "-c", "tail /dev/zero")
	c.eventuallyIs("pod/greedy", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled")

	c.eventuallyIs("resourcequota/quota", ".status.hard.persistentvolumeclaims", "1")
	for what, manifest := range map[string]string{
		"requests.storage": claim("big", "2Gi", ""), "pods": sleeper("fourth", "", ""),
	} {
		if what == "pods" {
			c.kubectl("delete", "pod", "greedy")
			c.eventuallyIs("resourcequota/quota", ".status.used.pods", "2")
			c.apply(sleeper("third", "", ""))
		}
		path := filepath.Join(c.t.TempDir(), "m.yaml")
		if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.refused([]string{"exceeded quota: quota", what}, c.inNamespace("apply", "-f", path)...)
	}
}

// downwardStep: a pod learns of itself by its environment and by files.
func downwardStep(c *testCluster) {
	c.apply(sleeper("self", `
    resources: {limits: {memory: 48Mi}}
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    volumeMounts: [{name: info, mountPath: /info}]`, `
  volumes:
  - name: info
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}`))
	c.waitReady("self")
	want := fmt.Sprintf("self %s %s 48\napp=\"self\"", c.ns, c.get("pod/self", ".status.podIP"))
	if got := c.exec("self", "echo $NAME $NAMESPACE $IP $LIMIT; cat /info/labels"); got != want {
		c.t.Errorf("the pod knows of itself %q, want %q", got, want)
	}
}

// configurationStep: ConfigMaps and Secrets, made from everything they can be made from and used in every way.
func configurationStep(c *testCluster) {
	dir := c.t.TempDir()
	for name, content := range map[string]string{
		"folder/a.conf": "a", "folder/b.conf": "b", "file.conf": "whole", "vars.env": "MODE=fast\nLEVEL=3\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.kubectl("create", "configmap", "literal", "--from-literal=colour=blue")
	c.kubectl("create", "configmap", "files", "--from-file="+dir+"/folder", "--from-file=renamed="+dir+"/file.conf")
	c.kubectl("create", "configmap", "vars", "--from-env-file="+dir+"/vars.env")
	c.kubectl("create", "secret", "generic", "secret", "--from-literal=user=root", "--from-file="+dir+"/file.conf")
	c.apply("{apiVersion: v1, kind: Secret, metadata: {name: encoded}, data: {password: aHVudGVyMg==}}")
	var data map[string]string
	if err := json.Unmarshal([]byte(c.get("configmap/files", ".data")), &data); err != nil || len(data) != 3 || data["renamed"] != "whole" {
		c.t.Errorf("the ConfigMap of files holds %v, %v", data, err)
	}
	c.apply(strings.Replace(sleeper("user", `
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: literal, key: colour}}}
    - {name: USER_NAME, valueFrom: {secretKeyRef: {name: secret, key: user}}}
    - {name: MISSING, valueFrom: {configMapKeyRef: {name: nonesuch, key: x, optional: true}}}
    envFrom: [{configMapRef: {name: vars}}, {secretRef: {name: encoded}}]
    args: [sh, $(COLOUR), $$(COLOUR)]
    volumeMounts:
    - {name: files, mountPath: /files}
    - {name: secret, mountPath: /secret}
    - {name: files, mountPath: /etc/one.conf, subPath: one}`, `
  volumes:
  - {name: files, configMap: {name: files, items: [{key: a.conf, path: one}, {key: renamed, path: deep/two, mode: 0400}]}}
  - {name: secret, secret: {secretName: secret, defaultMode: 0440}}`),
		"while :; do", "echo $1 $2; while :; do", 1))
	c.waitReady("user")
	for script, want := range map[string]string{
		"echo $COLOUR $USER_NAME $MODE $LEVEL $password-$MISSING": "blue root fast 3 hunter2-\n",
		"cat /files/one /files/deep/two /etc/one.conf":            "awholea",
		"ls /files": "deep\none\n",
		"cat /secret/user; stat -Lc ' %a' /secret/user /files/deep/two": "root 440\n 400\n",
		"df /secret | grep -c tmpfs":                                    "1\n",
	} {
		if got := c.exec("user", script); got != want {
			c.t.Errorf("%s says %q, want %q", script, got, want)
		}
	}
	if got := c.kubectl("logs", "user"); got != "blue $(COLOUR)\n" {
		c.t.Errorf("the arguments are %q", got)
	}
	c.kubectl("delete", "configmap", "literal")
}
