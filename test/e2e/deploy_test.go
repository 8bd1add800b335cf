package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/orlop-io/orlop/cluster"
)

// storageImage is the name under which importStorage brings orlop-storage; no registry has it.
const storageImage = "registry.example.com/orlop-storage:e2e"

// importStorage puts bin/orlop-storage into an image, as `make image` does, and imports it with containerd's own tool.
func (c *testCluster) importStorage() {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "orlop-storage.tar")
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "run", "./deploy/image", "-name", storageImage, "-o", file,
		filepath.Join("bin", "orlop-storage"))
	build.Dir = root()
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("building the image: %v\n%s", err, out)
	}
	load := exec.CommandContext(ctx, filepath.Join(root(), "bin", "ctr"), "--address", filepath.Join(c.dir, "run/containerd.sock"),
		"--namespace", "k8s.io", "images", "import", file)
	if out, err := load.CombinedOutput(); err != nil {
		c.t.Fatalf("ctr images import: %v\n%s", err, out)
	}
}

// deployed renders a directory below deploy/ as a user does, in a kustomization that says which image, for the node's
// directories, which are not the usual ones.
func (c *testCluster) deployed(dir string) string {
	c.t.Helper()
	overlay := c.t.TempDir()
	base, err := filepath.Rel(overlay, filepath.Join(root(), "deploy", dir))
	if err != nil {
		c.t.Fatal(err)
	}
	name, tag, _ := strings.Cut(storageImage, ":")
	kustomization := fmt.Sprintf("resources: [%s]\nimages:\n- {name: orlop-storage, newName: %s, newTag: %s}\n", base, name, tag)
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		c.t.Fatal(err)
	}
	rendered := c.orlop("kubectl", "kustomize", overlay)
	if n := strings.Count(rendered, storageImage); n != 2 {
		c.t.Fatalf("the image is named %d times, not 2, in\n%s", n, rendered)
	}
	return strings.NewReplacer("/var/lib/kubelet", c.kubeletDir(),
		"/run/containerd/containerd.sock", filepath.Join(c.dir, "run/containerd.sock"),
		"/run/containerd", filepath.Join(c.dir, "run")).Replace(rendered)
}

func (c *testCluster) kubeletDir() string {
	c.t.Helper()
	state, err := cluster.ReadState(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join(c.dir, "nodes", state.Node, "kubelet")
}

// deployedReady waits until what was applied runs.
func (c *testCluster) deployedReady() {
	c.t.Helper()
	for _, workload := range []string{"daemonset/orlop-config-node", "deployment/orlop-config-controllers"} {
		c.orlop("kubectl", "rollout", "status", "-n", "orlop-system", workload, "--timeout="+patience.String())
	}
}

// dumpDeployed prints what helps to see why a test failed.
func (c *testCluster) dumpDeployed() {
	for _, args := range [][]string{
		{"describe", "pods", "-n", "orlop-system"}, {"logs", "-n", "orlop-system", "daemonset/orlop-config-node", "--tail=40"},
		{"logs", "-n", "orlop-system", "deployment/orlop-config-controllers", "--tail=40"},
	} {
		out, err := c.command(context.Background(), append([]string{"kubectl"}, args...)...).CombinedOutput()
		c.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestDeploy: deploy/config gives an ordinary Kubernetes live configuration volumes and rollouts, and goes without a trace.
func TestDeploy(t *testing.T) {
	c := start(t, "--plain")
	t.Cleanup(func() {
		if t.Failed() {
			c.dumpDeployed()
		}
	})
	c.importImage("busybox")
	c.importStorage()
	manifests := c.deployed("config")
	c.apply(manifests)
	c.deployedReady()

	deployVolumes(c)
	deployRights(c)
	deployRollout(c)
	deployRestart(c)
	deployActions(c)
	deployGone(c, manifests)
}

// deployVolumes: edits arrive by their event, while upstream's volume of the same pod waits for the kubelet's next look.
func deployVolumes(c *testCluster) {
	c.kubectl("create", "configmap", "cm", "--from-literal=k=0")
	c.kubectl("create", "secret", "generic", "key", "--from-literal=k=orlop-e2e-deploy-0")
	c.kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=configmaps,secrets", "--resource-name=cm",
		"--resource-name=key")
	c.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:default")
	c.apply(sleeper("reader", `volumeMounts: [{name: live, mountPath: /live}, {name: key, mountPath: /key}, {name: plain, mountPath: /plain}]`,
		`volumes:
  - {name: live, csi: {driver: config.csi.orlop.io, readOnly: true, volumeAttributes: {kind: ConfigMap, name: cm}}}
  - {name: key, csi: {driver: config.csi.orlop.io, readOnly: true, volumeAttributes: {kind: Secret, name: key, defaultMode: "0400"}}}
  - {name: plain, configMap: {name: cm}}`))
	c.waitReady("reader")
	if got := c.exec("reader", "stat -L -c '%a %u:%g' /key/k; cat /live/k /key/k /plain/k"); got != "400 0:0\n0orlop-e2e-deploy-00" {
		c.t.Errorf("the pod reads %q", got)
	}
	const edits = 5
	first := 0
	for i := range edits {
		value := fmt.Sprint("edit ", i)
		c.kubectl("patch", "configmap", "cm", "-p", fmt.Sprintf(`{"data":{"k":%q}}`, value))
		c.fileIs("reader", "/live/k", value)
		if c.exec("reader", "cat /plain/k") != value {
			first++
		}
	}
	// The kubelet looks once a minute, so it may overtake one of them.
	if first < edits-1 {
		c.t.Errorf("of %d edits %d were in upstream's volume as soon as in ours", edits, edits-first)
	}
	c.kubectl("patch", "secret", "key", "-p", `{"stringData":{"k":"orlop-e2e-deploy-1"}}`)
	c.fileIs("reader", "/key/k", "orlop-e2e-deploy-1")
}

// deployRights: the driver reads with the pods' rights, and has none of its own; it tells no Secret to its log.
func deployRights(c *testCluster) {
	for _, resource := range []string{"secrets", "configmaps", "serviceaccounts/token"} {
		for _, verb := range []string{"get", "list", "watch", "create"} {
			out, err := c.try("kubectl", "auth", "can-i", verb, resource, "--all-namespaces",
				"--as=system:serviceaccount:orlop-system:orlop-config-node")
			if err == nil || !strings.HasPrefix(out, "no") {
				c.t.Errorf("the driver may %s %s: %s", verb, resource, out)
			}
		}
	}
	c.kubectl("create", "serviceaccount", "stranger")
	c.apply(sleeper("stranger", "volumeMounts: [{name: v, mountPath: /v}]", `serviceAccountName: stranger
  volumes: [{name: v, csi: {driver: config.csi.orlop.io, readOnly: true, volumeAttributes: {kind: Secret, name: key}}}]`))
	c.eventuallySays([]string{"ServiceAccount default/stranger may not get, list and watch Secret default/key"},
		"get", "events", "--field-selector=involvedObject.name=stranger", "-o", "jsonpath={.items[*].message}")
	c.kubectl("delete", "pod", "stranger", "--now")
	log := c.orlop("kubectl", "logs", "-n", "orlop-system", "daemonset/orlop-config-node")
	if !strings.Contains(log, "NodePublishVolume") {
		c.t.Errorf("the driver's log has no publish:\n%s", log)
	}
	for _, secret := range []string{"orlop-e2e-deploy-", "eyJhbGciOi"} {
		if strings.Contains(log, secret) {
			c.t.Errorf("the driver's log contains %s", secret)
		}
	}
}

// deployRollout: a workload that opted in is rolled, and claims are left to kube-controller-manager.
func deployRollout(c *testCluster) {
	c.apply(rolloutConfig("red", "hunter1"))
	c.apply(rolloutDeployment)
	c.kubectl("rollout", "status", "deployment/web", "--timeout="+patience.String())
	c.eventuallySays([]string{"ConfigMap/web", "Secret/web"}, "get", "deployment/web", "-o", "yaml")
	c.apply(rolloutConfig("blue", "hunter1"))
	c.rolledOut("blue hunter1", 2)
	for _, resource := range []string{"persistentvolumes", "persistentvolumeclaims"} {
		out, err := c.try("kubectl", "auth", "can-i", "update", resource, "--all-namespaces",
			"--as=system:serviceaccount:orlop-system:orlop-storage-controllers")
		if err == nil || !strings.HasPrefix(out, "no") {
			c.t.Errorf("the controllers may update %s: %s", resource, out)
		}
	}
	c.kubectl("delete", "deployment", "web")
}

// deployRestart: without the driver a volume keeps its files; as soon as it is back, they follow.
func deployRestart(c *testCluster) {
	const driver = "app.kubernetes.io/name=orlop-config-node"
	selector := func(value string) {
		c.orlop("kubectl", "patch", "-n", "orlop-system", "daemonset", "orlop-config-node", "-p",
			`{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":`+value+`}}}}}`)
	}
	selector(`"true"`)
	c.orlop("kubectl", "wait", "--for=delete", "pod", "-n", "orlop-system", "-l", driver, "--timeout="+patience.String())
	before := c.exec("reader", "cat /live/k")
	c.kubectl("patch", "configmap", "cm", "-p", `{"data":{"k":"unattended"}}`)
	if got := c.exec("reader", "cat /live/k"); got != before {
		c.t.Errorf("without a driver the file changed from %q to %q", before, got)
	}
	selector("null")
	c.fileIs("reader", "/live/k", "unattended")
	c.deployedReady()

	// Killed without a word.
	c.orlop("kubectl", "delete", "pod", "-n", "orlop-system", "-l", driver, "--force", "--grace-period=0")
	c.kubectl("patch", "configmap", "cm", "-p", `{"data":{"k":"killed"}}`)
	c.fileIs("reader", "/live/k", "killed")
	c.deployedReady()
	if restarts := c.get("pod/reader", ".status.containerStatuses[0].restartCount"); restarts != "0" {
		c.t.Errorf("the pod was restarted %s times", restarts)
	}
}

// deployActions: with deploy/config-actions a change is acted on.
func deployActions(c *testCluster) {
	c.apply(c.deployed("config-actions"))
	c.deployedReady()
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: signalled}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + busyboxImage + `
    command: [sh, -c, "trap 'cat /live/k >/tmp/seen' HUP; trap exit TERM; while :; do sleep 0.1; done"]
    volumeMounts: [{name: v, mountPath: /live}]
  volumes:
  - name: v
    csi: {driver: config.csi.orlop.io, readOnly: true, volumeAttributes: {kind: ConfigMap, name: cm, onChange: signal=SIGHUP}}
`)
	c.waitReady("signalled")
	c.kubectl("patch", "configmap", "cm", "-p", `{"data":{"k":"signalled"}}`)
	c.fileIs("signalled", "/tmp/seen", "signalled")
	c.fileIs("reader", "/live/k", "signalled")
}

// deployGone: once its pods and the manifests are deleted, nothing of it is left.
func deployGone(c *testCluster, manifests string) {
	c.kubectl("delete", "pods", "--all", "--now")
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, "kubectl", "delete", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("kubectl delete: %v\n%s", err, out)
	}
	for _, kind := range []string{"clusterroles", "clusterrolebindings", "csidrivers", "namespaces", "validatingadmissionpolicies",
		"validatingadmissionpolicybindings"} {
		if out := c.orlop("kubectl", "get", kind, "-o", "name"); strings.Contains(out, "orlop-") || strings.Contains(out, "config.csi") {
			c.t.Errorf("left:\n%s", out)
		}
	}
	c.eventuallyIs("csinodes", ".items[*].spec.drivers[*].name", "")
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(c.dir))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Source, "config.csi.orlop.io") {
			c.t.Errorf("left mounted: %s at %s", m.Source, m.Mountpoint)
		}
	}
	left, err := filepath.Glob(filepath.Join(c.kubeletDir(), "plugins", "config.csi*", "csi.sock"))
	sockets, socketsErr := filepath.Glob(filepath.Join(c.kubeletDir(), "plugins_registry", "config.csi*"))
	if err != nil || socketsErr != nil || len(left)+len(sockets) > 0 {
		c.t.Errorf("left: %v %v, %v, %v", left, sockets, err, socketsErr)
	}
}
