package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/cluster"
)

// TestUp walks through the life of a cluster as the README tells it.
func TestUp(t *testing.T) {
	c := newCluster(t)
	out := c.up()
	for _, w := range []string{"kube-apiserver", "ready after", "kubectl get nodes", "KUBECONFIG="} {
		if !strings.Contains(out, w) {
			t.Errorf("orlop up does not say %q:\n%s", w, out)
		}
	}
	if out := c.orlop("up"); !strings.Contains(out, "is running already") {
		t.Errorf("up on a running cluster says:\n%s", out)
	}
	s := c.status()
	if s.Phase != cluster.PhaseReady {
		t.Errorf("phase %q after up", s.Phase)
	}
	info, err := os.Stat(s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig has mode %v, want 0600", info.Mode())
	}
	nodes := c.kubectl("get", "nodes")
	if !strings.Contains(nodes, "Ready") || !strings.Contains(nodes, "v1.36.3") {
		t.Errorf("kubectl get nodes:\n%s", nodes)
	}
	if v := c.kubectl("version"); strings.Contains(v, "$Format") || strings.Count(v, "v1.36.3") != 2 {
		t.Errorf("kubectl version:\n%s", v)
	}
	if got := c.get("storageclass", ".items[*].metadata.name"); got != "local" {
		t.Errorf("storage classes %q, want local", got)
	}
	if log := c.orlop("logs", "kubelet", "--tail=5"); strings.Count(log, "\n") != 5 {
		t.Errorf("logs --tail=5:\n%s", log)
	}
	c.refused([]string{"no component \"nonesuch\"", "kube-apiserver"}, "logs", "nonesuch")
	c.refused([]string{"--plain=false", "stays so"}, "up", "--plain")

	if out := c.orlop("down"); !strings.Contains(out, "data is kept") {
		t.Errorf("orlop down says:\n%s", out)
	}
	var exit *exec.ExitError
	if out, err := c.try("status"); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(out, "is stopped") {
		t.Errorf("status of a stopped cluster: %v\n%s", err, out)
	}
	if _, err := os.Stat(s.Netns); !os.IsNotExist(err) {
		t.Errorf("network namespace %s is left after down", s.Netns)
	}
	c.orlop("down")
	c.refused([]string{"is not running", "orlop up"}, "images", "list")
}

// TestHeals kills every process with SIGKILL, the supervisor last, and finds the pods untouched.
func TestHeals(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	c.apply(volumePod("steady", "32Mi", ""))
	c.waitReady("steady")
	c.kubectl("exec", "steady", "--", "sh", "-c", "echo kept > /data/file")
	started := c.get("pod/steady", ".status.containerStatuses[0].state.running.startedAt")

	for _, victim := range c.status().Components {
		kill(t, victim.PID)
		c.eventually(victim.Name+" is ready again", func() error {
			for _, now := range c.status().Components {
				if now.Name == victim.Name && (now.PID == victim.PID || now.State != "ready") {
					return fmt.Errorf("it is %s with PID %d: %s", now.State, now.PID, now.Reason)
				}
			}
			return nil
		})
	}
	// The pod's status is still that of before the kill until the kubelet has looked: ask the container itself.
	kept := func() {
		t.Helper()
		c.eventuallySays([]string{"kept"}, "exec", "steady", "--", "cat", "/data/file")
	}
	check := func() {
		t.Helper()
		kept()
		if now := c.get("pod/steady", ".status.containerStatuses[0].state.running.startedAt"); now != started {
			t.Errorf("the container started at %s and now at %s", started, now)
		}
	}
	check()

	before := c.status()
	kill(t, before.PID)
	c.eventually("all components have died with their supervisor", func() error {
		for _, x := range before.Components {
			if syscall.Kill(x.PID, 0) == nil {
				return fmt.Errorf("%s is alive", x.Name)
			}
		}
		return nil
	})
	if out, err := c.try("status"); err == nil || !strings.Contains(out, "pods go on running") {
		t.Errorf("status without a supervisor: %v\n%s", err, out)
	}
	c.orlop("up")
	check()

	// As after a power cut: the supervisor is gone and nobody calls up before down.
	kill(t, c.status().PID)
	c.orlop("down")
	c.orlop("up")
	kept()
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("PID %d is nobody's to kill", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: ` + busyboxImage + `
        command: [sh, -c, "echo hello from CLUSTER > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30001}]
`

// TestSideBySide runs two clusters at once: the same ports, Services and node names, and neither hears of the other.
func TestSideBySide(t *testing.T) {
	clusters := map[string]*testCluster{"one": start(t), "two": start(t)}
	for name, c := range clusters {
		c.importImage("busybox")
		c.apply(strings.ReplaceAll(web, "CLUSTER", name))
	}
	for name, c := range clusters {
		c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
		want := "hello from " + name + "\n"
		// From the host, by NodePort.
		c.eventually("the NodePort answers", func() error { return httpGet("http://"+c.status().NodeIP+":30001/", want) })
		// From a pod, by the Service's name.
		pod := c.get("pods", ".items[0].metadata.name")
		c.eventually("the Service answers by name", func() error {
			got, err := c.try("kubectl", "exec", pod, "--", "wget", "-qO-", "http://web.default.svc.cluster.local/")
			if err != nil || got != want {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		})
	}
	clusters["one"].orlop("down")
	clusters["two"].eventually("the other one still answers", func() error {
		return httpGet("http://"+clusters["two"].status().NodeIP+":30001/", "hello from two\n")
	})
}

func httpGet(url, want string) error {
	client := http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	return getWith(&client, url, want)
}

func getWith(client *http.Client, url, want string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if string(body) != want {
		return fmt.Errorf("%s answers %q, want %q", url, body, want)
	}
	return nil
}

// TestPlain starts an ordinary Kubernetes: upstream's binder binds, and nothing of Orlop's is there.
func TestPlain(t *testing.T) {
	c := start(t, "--plain")
	for _, x := range c.status().Components {
		if strings.HasPrefix(x.Name, "storage") {
			t.Errorf("%s runs", x.Name)
		}
	}
	if got := c.get("storageclass,csidriver", ".items[*].metadata.name"); got != "" {
		t.Errorf("there are %s", got)
	}
	c.apply(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: static}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /nonexistent}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  resources: {requests: {storage: 1Gi}}
`)
	c.eventuallySays([]string{"Bound"}, "get", "pvc", "claim")
}
