package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const tmpfsMagic = 0x01021994

// TestLiveConfig: what is changed in a ConfigMap, a Secret or a pod's labels is changed in the files of the running pod.
func TestLiveConfig(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.apply(configObjects)
	c.waitReady("config")

	c.freeze("1")
	configArrives(c)
	configOptional(c)
	configSubPath(c)
	configSecret(c)
	configRefused(c)
	c.unfreeze("2")
	configOutage(c)
	configKilled(c)
	// An immutable object has no watch; the kubelet's next look at the pod sees that it was made again.
	c.fileIs("config", "/frozen/k", "2")
	if out := c.kubectl("logs", "reader"); out != "" {
		t.Errorf("a reader that pins generations saw:\n%s", out)
	}
	configGone(c)
}

// configObjects has one pod with all kinds of configuration volumes, and one that reads a ConfigMap of two keys as fast
// as it can and tells when they are of two generations, or not there.
const configObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {a: "0", b: "0"}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: orlop-e2e-secret-0}
---
apiVersion: v1
kind: Pod
metadata: {name: config, labels: {l: "0"}, annotations: {note: "0"}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: ` + busyboxImage + `
    command: [sleep, "1000000"]
    volumeMounts:
    - {name: cm, mountPath: /cm}
    - {name: s, mountPath: /s}
    - {name: downward, mountPath: /downward}
    - {name: all, mountPath: /all}
    - {name: frozen, mountPath: /frozen}
    - {name: cm, mountPath: /sub, subPath: b}
    env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: a}}}]
  volumes:
  - {name: cm, configMap: {name: cm, items: [{key: a, path: deep/a, mode: 0400}, {key: b, path: b}]}}
  - {name: s, secret: {secretName: s, defaultMode: 0400}}
  - name: downward
    downwardAPI:
      items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}]
  - name: all
    projected:
      sources:
      - configMap: {name: cm}
      - secret: {name: late, optional: true}
      - downwardAPI: {items: [{path: l, fieldRef: {fieldPath: "metadata.labels['l']"}}]}
      - serviceAccountToken: {path: token, audience: somebody}
  - {name: frozen, configMap: {name: frozen, optional: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + busyboxImage + `
    command:
    - sh
    - -c
    - |
      cd /cm
      while :; do
        d=$(readlink ..data)
        read -r a < $d/a
        read -r b < $d/b
        [ "$a" = "$b" ] || echo "mixed: $a $b"
        usleep 5000
      done 2>&1
    volumeMounts: [{name: cm, mountPath: /cm}]
  volumes:
  - {name: cm, configMap: {name: cm}}
`

// fileIs waits until a file in the pod has the content; "absent" is no file.
func (c *testCluster) fileIs(pod, file, want string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s in %s is %q", file, pod, want), func() error {
		got, err := c.try(c.inNamespace("exec", pod, "--", "sh", "-c", "[ -e "+file+" ] && cat "+file+" || echo -n absent")...)
		if err != nil || strings.TrimSuffix(got, "\n") != want {
			return fmt.Errorf("it is %q, %w", got, err)
		}
		return nil
	})
}

func (c *testCluster) setConfig(value string) {
	c.t.Helper()
	c.kubectl("patch", "configmap", "cm", "-p", fmt.Sprintf(`{"data":{"a":"%[1]s\n","b":"%[1]s\n"}}`, value))
}

// configArrives: an edit of each kind of object reaches the running pod, and its modes and owners stay.
func configArrives(c *testCluster) {
	for i := range 20 {
		c.setConfig(fmt.Sprint(i))
	}
	for _, file := range []string{"/cm/deep/a", "/cm/b", "/all/a"} {
		c.fileIs("config", file, "19")
	}
	c.fileIs("reader", "/cm/b", "19")
	c.kubectl("label", "pod", "config", "l=1", "--overwrite")
	c.kubectl("annotate", "pod", "config", "note=1", "--overwrite")
	c.fileIs("config", "/downward/labels", `l="1"`)
	c.fileIs("config", "/downward/note", "1")
	c.fileIs("config", "/all/l", "1")
	c.kubectl("patch", "secret", "s", "-p", `{"stringData":{"k":"orlop-e2e-secret-1"}}`)
	c.fileIs("config", "/s/k", "orlop-e2e-secret-1")
	if got := c.exec("config", "stat -L -c '%a %u:%g' /cm/deep/a /cm/b /s/k /all/token"); got != "440 0:2000\n644 0:2000\n440 0:2000\n640 1000:2000\n" {
		c.t.Errorf("modes and owners are\n%s", got)
	}
	if got := c.exec("config", "cat /all/..data/..generation"); !strings.Contains(got, `"name":"cm"`) {
		c.t.Errorf("the generation says %s", got)
	}
	// What upstream never changes in a running container stays as it was, and was there when the container started.
	if got := c.exec("config", "cat /sub; echo -n $A"); got != "00" {
		c.t.Errorf("the file mounted by subPath and the variable are %q", got)
	}
	if got := c.exec("config", "ls /all"); got != "a\nb\nl\ntoken\n" {
		c.t.Errorf("the volume shows %q", got)
	}
}

// configOptional: an optional object may come later, and go again.
func configOptional(c *testCluster) {
	c.kubectl("create", "secret", "generic", "late", "--from-literal=x=here")
	c.fileIs("config", "/all/x", "here")
	c.kubectl("delete", "secret", "late")
	c.fileIs("config", "/all/x", "absent")
}

// freeze makes the immutable ConfigMap, unfreeze replaces it.
func (c *testCluster) freeze(value string) {
	c.t.Helper()
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: frozen}, data: {k: %q}, immutable: true}", value))
	c.fileIs("config", "/frozen/k", value)
}

func (c *testCluster) unfreeze(value string) {
	c.t.Helper()
	c.kubectl("delete", "configmap", "frozen")
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: frozen}, data: {k: %q}, immutable: true}", value))
	// A pod that starts now asks anew at once.
	c.apply(sleeper("thawed", "volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, configMap: {name: frozen}}]"))
	c.waitReady("thawed")
	if got := c.exec("thawed", "cat /v/k"); got != value {
		c.t.Errorf("a new pod sees %q of an immutable ConfigMap that was made again, want %q", got, value)
	}
}

// configSecret: a Secret's bytes are in memory alone, and in no log.
func configSecret(c *testCluster) {
	volumes, err := filepath.Glob(filepath.Join(c.dir, "nodes/*/kubelet/pods/*/volumes/kubernetes.io~secret/s"))
	if err != nil || len(volumes) != 1 {
		c.t.Fatalf("the Secret's volumes: %v, %v", volumes, err)
	}
	var fsys syscall.Statfs_t
	if err := syscall.Statfs(volumes[0], &fsys); err != nil || fsys.Type != tmpfsMagic {
		c.t.Errorf("the Secret's volume is on a file system of type %x, %v; want tmpfs", fsys.Type, err)
	}
	secretsInMemory(c)
	for _, dir := range []string{"nodes", "logs"} {
		searched := 0
		err := filepath.WalkDir(filepath.Join(c.dir, dir), func(path string, e fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil // kubelet and containerd are at work
			}
			if err != nil {
				return err
			}
			if e.IsDir() {
				var on syscall.Statfs_t
				if err := syscall.Statfs(path, &on); err == nil && on.Type == tmpfsMagic {
					return filepath.SkipDir
				}
				return nil
			}
			if !e.Type().IsRegular() {
				return nil
			}
			// A file that is mounted with subPath is on the file system it comes from.
			var on syscall.Statfs_t
			if err := syscall.Statfs(path, &on); err == nil && on.Type == tmpfsMagic {
				return nil
			}
			raw, err := os.ReadFile(path)
			if os.IsNotExist(err) {
				return nil
			}
			searched++
			if bytes.Contains(raw, []byte("orlop-e2e-secret-")) {
				c.t.Errorf("the Secret is in %s, which is on disk", path)
			}
			return err
		})
		if err != nil || searched == 0 {
			c.t.Errorf("searching %s for the Secret: %d files, %v", dir, searched, err)
		}
	}
}

// configRefused: a volume whose object is missing says so, and starts once the object is there.
func configRefused(c *testCluster) {
	c.apply(sleeper("lacking", "volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, configMap: {name: nonesuch}}]"))
	c.eventuallySays([]string{"ConfigMap default/nonesuch: not found"}, "describe", "pod/lacking")
	c.kubectl("create", "configmap", "nonesuch", "--from-literal=k=v")
	c.waitReady("lacking")
}

// configOutage: volumes keep their files while there is no API server, and follow it when it is back.
func configOutage(c *testCluster) {
	for i := range 2 {
		c.setConfig(fmt.Sprintf("before outage %d", i))
		kill(c.t, c.pidOf("kube-apiserver"))
		c.pidOf("kube-apiserver")
		c.eventually("the API server takes a change", func() error {
			out, err := c.try(c.inNamespace("patch", "configmap", "cm", "-p", fmt.Sprintf(`{"data":{"a":"outage %[1]d\n","b":"outage %[1]d\n"}}`, i))...)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		c.fileIs("reader", "/cm/a", fmt.Sprintf("outage %d", i))
		c.fileIs("config", "/all/b", fmt.Sprintf("outage %d", i))
	}
}

// configKilled: a kubelet that is killed while configuration changes converges when it is back.
func configKilled(c *testCluster) {
	for i := range 5 {
		c.setConfig(fmt.Sprintf("killed %d", i))
		kill(c.t, c.pidOf("kubelet"))
		c.setConfig(fmt.Sprintf("killed %d after", i))
		c.fileIs("reader", "/cm/a", fmt.Sprintf("killed %d after", i))
	}
	c.fileIs("config", "/cm/b", "killed 4 after")
	c.fileIs("config", "/all/b", "killed 4 after")
	if restarts := c.get("pod/reader", ".status.containerStatuses[0].restartCount"); restarts != "0" {
		c.t.Errorf("the pod was restarted %s times", restarts)
	}
}

// configGone: a ConfigMap that is deleted under a pod leaves the last good files; one made again brings its own.
func configGone(c *testCluster) {
	c.kubectl("delete", "configmap", "cm")
	c.eventuallySays([]string{"keeps its last good files", "ConfigMap default/cm: not found"}, "get", "events")
	c.fileIs("reader", "/cm/a", "killed 4 after")
	c.kubectl("create", "configmap", "cm", "--from-literal=a=again", "--from-literal=b=again")
	c.fileIs("reader", "/cm/a", "again")
}

// pidOf waits for a component's process.
func (c *testCluster) pidOf(name string) int {
	c.t.Helper()
	pid := 0
	c.eventually(name+" runs", func() error {
		for _, component := range c.status().Components {
			if component.Name == name && component.State == "ready" {
				pid = component.PID
				return nil
			}
		}
		return fmt.Errorf("%s is not ready", name)
	})
	return pid
}
