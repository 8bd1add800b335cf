package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// TestActions: what a pod's annotations ask for is done after its configuration has changed.
func TestActions(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	for name, test := range map[string]func(*testCluster){
		"signal": actionSignal, "exec": actionExec, "http": actionHTTP, "restart": actionRestart,
		"debounce": actionDebounce, "failing": actionFailing, "refused": actionRefused, "killed": actionKilled,
		"inline": actionInline,
	} {
		t.Run(name, func(t *testing.T) {
			sub := *c
			sub.t, sub.ns = t, name
			sub.orlop("kubectl", "create", "namespace", name)
			test(&sub)
			sub.orlop("kubectl", "delete", "namespace", name, "--wait=false")
		})
	}
}

// actor is a pod that mounts the ConfigMap cm at /cm and runs a script, and asks for an action.
func (c *testCluster) actor(script, annotations, extra string) {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: "0"}
---
apiVersion: v1
kind: Pod
metadata:
  name: p
  annotations: {kubectl.kubernetes.io/default-container: app, %s}
spec:
  terminationGracePeriodSeconds: 1
  %s
  containers:
  - name: app
    image: %s
    command: [sh, -c, %q]
    volumeMounts: [{name: config, mountPath: /cm}]
  - name: other
    image: %[3]s
    command: [sleep, "1000000"]
  volumes:
  - {name: config, configMap: {name: cm}}
`, annotations, extra, busyboxImage, script))
	c.waitReady("p")
}

func (c *testCluster) setA(value string) {
	c.t.Helper()
	c.kubectl("patch", "configmap", "cm", "-p", fmt.Sprintf(`{"data":{"a":%q}}`, value))
}

// actorSays waits until the last line of the container's log is the text.
func (c *testCluster) actorSays(want string) {
	c.t.Helper()
	c.eventually("the container says "+want, func() error {
		// The kubelet may be on its way back.
		out, err := c.try(c.inNamespace("logs", "p", "-c", "app")...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		lines := strings.Fields(out)
		if len(lines) == 0 || lines[len(lines)-1] != want {
			return fmt.Errorf("it says %q", lines)
		}
		return nil
	})
}

func (c *testCluster) actorLog() []string {
	c.t.Helper()
	return strings.Fields(c.kubectl("logs", "p", "-c", "app"))
}

// onHUP is a script that says what the file holds when it is sent SIGHUP.
const onHUP = "trap 'cat /cm/a; echo' HUP; echo ready; while :; do usleep 20000; done"

func actionSignal(c *testCluster) {
	c.actor(onHUP, `config.orlop.io/on-change: "signal=SIGHUP"`, "")
	c.actorSays("ready")
	c.setA("signal-1")
	c.actorSays("signal-1")
	c.eventuallySays([]string{"ConfigChangeApplied", "Volume config changed: SIGHUP to container app"}, "get", "events")
	c.setA("signal-2")
	c.actorSays("signal-2")
	// One action a change, and none at the beginning: neither the first files nor those of kube-api-access are a change.
	if got := strings.Join(c.actorLog(), " "); got != "ready signal-1 signal-2" {
		c.t.Errorf("the container says %q", got)
	}
}

func actionExec(c *testCluster) {
	c.actor("echo ready; sleep 1000000", `config.orlop.io/on-change: 'exec=["sh","-c","cp /cm/a /tmp/seen; hostname > /tmp/where"],container=app'`, "")
	c.setA("exec-1")
	c.eventuallySays([]string{`"sh" in container app`}, "get", "events")
	if got := c.kubectl("exec", "p", "--", "cat", "/tmp/seen"); got != "exec-1" {
		c.t.Errorf("the command saw %q", got)
	}
}

// httpServer says what the file holds for each request, and answers.
const httpServer = `while :; do { read -r line; echo "$line" | tr -d '\r' | tr ' ' _ >&2; cat /cm/a >&2; echo >&2;
printf 'HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n'; } < /tmp/in | nc -l -p 8080 > /tmp/in; done 2>&1`

func actionHTTP(c *testCluster) {
	c.actor("mkfifo /tmp/in; echo ready; "+httpServer, `config.orlop.io/on-change: "http=POST :8080/-/reload"`, "")
	c.setA("http-1")
	c.actorSays("http-1")
	c.eventuallySays([]string{"POST http://:8080/-/reload"}, "get", "events")
	if got := strings.Join(c.actorLog(), " "); got != "ready POST_/-/reload_HTTP/1.1 http-1" {
		c.t.Errorf("the container says %q", got)
	}
}

func (c *testCluster) restarts(container string) string {
	c.t.Helper()
	return c.kubectl("get", "pod", "p", "-o", `jsonpath={.status.containerStatuses[?(@.name=="`+container+`")].restartCount}`)
}

func actionRestart(c *testCluster) {
	c.actor("trap exit TERM; cat /cm/a; echo; while :; do usleep 20000; done",
		`config.orlop.io/on-change: "restart-container"`, "")
	c.actorSays("0")
	c.setA("restart-1")
	c.actorSays("restart-1")
	c.eventuallySays([]string{"restart of container app"}, "get", "events")
	c.waitReady("p")
	if app, other := c.restarts("app"), c.restarts("other"); app != "1" || other != "0" {
		c.t.Errorf("the container that mounts the volume was restarted %s times, the other one %s times", app, other)
	}
}

func actionDebounce(c *testCluster) {
	c.actor(onHUP, `config.orlop.io/on-change: "signal=SIGHUP", config.orlop.io/on-change-debounce: 2s`, "")
	c.actorSays("ready")
	const edits = 10
	for i := range edits {
		c.setA("debounce-" + strconv.Itoa(i))
	}
	c.actorSays("debounce-9")
	if n := len(c.actorLog()) - 1; n > edits/2 {
		c.t.Errorf("%d edits were %d actions", edits, n)
	}
}

func actionFailing(c *testCluster) {
	c.actor("echo ready; sleep 1000000", `config.orlop.io/on-change: 'exec=["sh","-c","echo secret; echo x >> /tmp/tries; exit 3"]', config.orlop.io/on-change-retries: "2"`, "")
	c.setA("failing-1")
	c.eventuallySays([]string{"ConfigChangeFailed", "exit code 3; trying again", "exit code 3; given up after attempt 3"}, "get", "events")
	if got := c.kubectl("exec", "p", "--", "cat", "/tmp/tries"); got != "x\nx\nx\n" {
		c.t.Errorf("the command ran %q times", got)
	}
	if events := c.kubectl("get", "events"); strings.Contains(events, "secret") {
		c.t.Errorf("what the command printed is in an event:\n%s", events)
	}
}

// actionRefused: what cannot be done is said, and the files change all the same.
func actionRefused(c *testCluster) {
	c.actor("echo ready; sleep 1000000", `config.orlop.io/on-change: "signal=SIGKILL"`, "")
	c.eventuallySays([]string{"ConfigChangeInvalid", "config.orlop.io/on-change", "allowed are SIGHUP"}, "get", "events")
	c.setA("refused-1")
	c.fileIs("p", "/cm/a", "refused-1")
	c.kubectl("delete", "pod", "p")
	c.actor("echo ready; sleep 1000000", `config.orlop.io/on-change: "restart-container"`, "restartPolicy: OnFailure")
	c.setA("refused-2")
	c.eventuallySays([]string{"restart of container app: it needs restartPolicy Always"}, "get", "events")
	c.kubectl("delete", "pod", "p")
	// The kernel drops a signal for which a container's first process has no handler.
	c.actor("sleep 1000000", `config.orlop.io/on-change: "signal=SIGHUP", config.orlop.io/on-change-retries: "0"`, "")
	c.setA("refused-3")
	c.eventuallySays([]string{"SIGHUP to container app: the process has no handler"}, "get", "events")
	if app := c.restarts("app"); app != "0" {
		c.t.Errorf("the container was restarted %s times", app)
	}
}

// actionKilled: a kubelet that is killed between the change and the action acts when it is back, and one that is killed
// without a change does not.
func actionKilled(c *testCluster) {
	c.actor(onHUP, `config.orlop.io/on-change: "signal=SIGHUP", config.orlop.io/on-change-debounce: 5s`, "")
	c.actorSays("ready")
	c.setA("killed-1")
	c.fileIs("p", "/cm/a", "killed-1")
	// The action waits for the end of the debounce.
	kill(c.t, c.pidOf("kubelet"))
	c.actorSays("killed-1")
	c.pidOf("kubelet")
	kill(c.t, c.pidOf("kubelet"))
	c.setA("killed-2")
	c.actorSays("killed-2")
	if got := strings.Join(c.actorLog(), " "); got != "ready killed-1 killed-2" {
		c.t.Errorf("the container says %q", got)
	}
}

// actionInline: a volume of config.csi.orlop.io asks by its attributes, and a driver that is killed before it acted acts when
// it is back.
func actionInline(c *testCluster) {
	c.kubectl("create", "configmap", "cm", "--from-literal=a=0")
	c.kubectl("create", "role", "cm", "--verb=get,list,watch", "--resource=configmaps", "--resource-name=cm")
	c.kubectl("create", "rolebinding", "cm", "--role=cm", "--serviceaccount="+c.ns+":default")
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: %s
    command: [sh, -c, %q]
    volumeMounts: [{name: config, mountPath: /cm}]
  volumes:
  - name: config
    csi:
      driver: config.csi.orlop.io
      readOnly: true
      volumeAttributes: {kind: ConfigMap, name: cm, onChange: signal=SIGHUP, onChangeDebounce: 2s}
`, busyboxImage, onHUP))
	c.waitReady("p")
	c.actorSays("ready")
	c.setA("inline-1")
	c.actorSays("inline-1")
	c.eventuallySays([]string{"ConfigChangeApplied", "Volume config changed: SIGHUP to container app"}, "get", "events")
	c.setA("inline-2")
	c.fileIs("p", "/cm/a", "inline-2")
	kill(c.t, c.pidOf("storage-node"))
	c.actorSays("inline-2")
	if got := strings.Join(c.actorLog(), " "); got != "ready inline-1 inline-2" {
		c.t.Errorf("the container says %q", got)
	}
}
