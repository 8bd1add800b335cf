package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestStorage tells, on one cluster, what becomes of claims and their volumes. At the end nothing of them is left.
func TestStorage(t *testing.T) {
	c := start(t)
	c.importImage("busybox")
	t.Run("DefaultClass", func(t *testing.T) { defaultClass(&testCluster{t: t, dir: c.dir}) })
	c.stories("Stories", func(c *testCluster) {
		c.story("Size", sizeStory)
		c.story("Directories", dirStory)
		c.story("Immediate", immediateStory)
		c.story("UnknownParameter", unknownParameterStory)
		c.story("AbsurdSize", absurdSizeStory)
		c.story("Retain", retainStory)
		c.story("StaticPool", staticPoolStory)
		c.story("StaticLocal", staticLocalStory)
		c.story("TwoPods", twoPodsStory)
		c.story("Mounts", mountsStory)
		c.story("Ephemeral", ephemeralStory)
		c.story("InUse", inUseStory)
		c.story("OncePod", oncePodStory)
		c.story("Twenty", twentyStory)
	})
	c.eventuallyEmpty()
}

// defaultClass: a claim that names no class waits for a default one, and gets it when there is one.
func defaultClass(c *testCluster) {
	const mark = "storageclass.kubernetes.io/is-default-class="
	c.kubectl("annotate", "--overwrite", "storageclass/local", mark+"false")
	c.apply(claim("early", "16Mi", ""))
	if got := c.get("pvc/early", ".spec.storageClassName"); got != "" {
		c.t.Errorf("without a default class the claim has class %q", got)
	}
	c.kubectl("annotate", "--overwrite", "storageclass/local", mark+"true")
	c.eventuallyIs("pvc/early", ".spec.storageClassName", "local")
	c.apply(claim("late", "16Mi", ""))
	if got := c.get("pvc/late", ".spec.storageClassName"); got != "local" {
		c.t.Errorf("a claim without a class has class %q, want local", got)
	}
	// Neither has a consumer.
	c.eventuallySays([]string{"WaitForFirstConsumer"}, "describe", "pvc/early")
	if phase := c.get("pvc/early", ".status.phase"); phase != "Pending" {
		c.t.Errorf("a claim that waits for a consumer is %s", phase)
	}
	c.kubectl("delete", "pvc", "early", "late")
}

// sizeStory: the claim of a pod is Bound with all that other parts of Kubernetes look for, its size is enforced, its
// neighbours do not notice, and everything goes with it.
func sizeStory(c *testCluster) {
	c.apply(volumePod("full", "64Mi", "") + "\n---" + volumePod("neighbour", "32Mi", ""))
	c.waitReady("full")
	c.waitReady("neighbour")

	pvc := read[corev1.PersistentVolumeClaim](c, "pvc/full")
	node := c.get("node", ".items[0].metadata.name")
	if pvc.Status.Phase != corev1.ClaimBound {
		c.t.Errorf("the claim is %s", pvc.Status.Phase)
	}
	for key, want := range map[string]string{
		"pv.kubernetes.io/bind-completed":               "yes",
		"pv.kubernetes.io/bound-by-controller":          "yes",
		"volume.kubernetes.io/storage-provisioner":      "local.csi.orlop.io",
		"volume.beta.kubernetes.io/storage-provisioner": "local.csi.orlop.io",
		"volume.kubernetes.io/selected-node":            node,
	} {
		if got := pvc.Annotations[key]; got != want {
			c.t.Errorf("the claim's annotation %s is %q, want %q", key, got, want)
		}
	}
	pv := read[corev1.PersistentVolume](c, "pv/"+pvc.Spec.VolumeName)
	finalizers := strings.Join(pv.Finalizers, " ")
	for _, want := range []string{"external-provisioner.volume.kubernetes.io/finalizer", "kubernetes.io/pv-protection"} {
		if !strings.Contains(finalizers, want) {
			c.t.Errorf("the volume's finalizers are %q, without %s", finalizers, want)
		}
	}
	if got := pv.Annotations["pv.kubernetes.io/provisioned-by"]; got != "local.csi.orlop.io" {
		c.t.Errorf("the volume is provisioned by %q", got)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != pvc.UID || pv.Status.Phase != corev1.VolumeBound {
		c.t.Errorf("the volume is %s, of claim %+v", pv.Status.Phase, pv.Spec.ClaimRef)
	}
	if affinity := fmt.Sprint(pv.Spec.NodeAffinity); !strings.Contains(affinity, "topology.local.csi.orlop.io/node") ||
		!strings.Contains(affinity, node) {
		c.t.Errorf("the volume's node affinity is %s", affinity)
	}

	// df counts what the file system keeps for itself out.
	kib, err := strconv.Atoi(strings.TrimSpace(c.exec("full", "df -k /data | tail -1 | awk '{print $2}'")))
	if err != nil || kib <= 48<<10 || kib > 64<<10 {
		c.t.Errorf("df shows %d KiB, %v, of a claim for 64Mi", kib, err)
	}
	c.execFails("No space left on device", "full", "dd if=/dev/zero of=/data/big bs=1M count=65")
	c.exec("neighbour", "dd if=/dev/zero of=/data/file bs=1M count=8 && sync")
	c.exec("full", "rm /data/big && echo again > /data/file && sync")

	volumes := []string{pvc.Spec.VolumeName, c.get("pvc/neighbour", ".spec.volumeName")}
	c.kubectl("delete", "pod,pvc", "full", "neighbour")
	for _, v := range volumes {
		c.eventuallyNoVolume(v)
	}
}

// dirStory: a class whose volumes are plain directories says that sizes are not enforced.
func dirStory(c *testCluster) {
	c.apply(class("directories", "parameters: {backend: dir}\nvolumeBindingMode: WaitForFirstConsumer") +
		"---" + volumePod("plain", "1Mi", "storageClassName: directories"))
	c.waitReady("plain")
	c.exec("plain", "dd if=/dev/zero of=/data/file bs=1M count=2")
	volume := c.get("pvc/plain", ".spec.volumeName")
	if got := c.get("pv/"+volume, `.spec.csi.volumeAttributes.orlop\.io/capacity-enforcement`); got != "none" {
		c.t.Errorf("the volume says of its capacity's enforcement %q, want none", got)
	}
	if loops := c.loops(c.pool()[volume]); len(loops) > 0 {
		c.t.Errorf("a directory is behind loop devices %v", loops)
	}
	c.kubectl("delete", "pod,pvc", "plain")
	c.eventuallyNoVolume(volume)
	c.kubectl("delete", "storageclass", "directories")
}

// immediateStory: a class may give volumes before there is a pod; the pod comes to the volume.
func immediateStory(c *testCluster) {
	c.apply(class("at-once", "volumeBindingMode: Immediate") + claim("eager", "16Mi", "storageClassName: at-once"))
	c.eventuallyIs("pvc/eager", ".status.phase", "Bound")
	c.apply(user("comer", "eager"))
	c.waitReady("comer")
	c.exec("comer", "echo here > /data/file")
	c.kubectl("delete", "storageclass", "at-once")
}

// unknownParameterStory: a class that asks for what is not known says so on the claim, and helps once it is mended.
func unknownParameterStory(c *testCluster) {
	c.apply(class("misspelt", "parameters: {bakend: loop}\nvolumeBindingMode: Immediate") +
		claim("hopeful", "16Mi", "storageClassName: misspelt") +
		class("exotic", "parameters: {backend: zfs}\nvolumeBindingMode: WaitForFirstConsumer") +
		claim("rare", "16Mi", "storageClassName: exotic") + user("rare", "rare"))
	c.eventuallySays([]string{"ProvisioningFailed", `"bakend"`, `"backend"`, "loop", "dir"}, "describe", "pvc/hopeful")
	c.eventuallySays([]string{"ProvisioningFailed", `"backend"`, `"zfs"`, "loop", "dir"}, "describe", "pvc/rare")

	// A class's parameters cannot be edited: it is made anew.
	c.kubectl("delete", "storageclass", "misspelt", "exotic")
	c.apply(class("misspelt", "parameters: {backend: loop}\nvolumeBindingMode: Immediate"))
	c.eventuallyIs("pvc/hopeful", ".status.phase", "Bound")
	volume := c.get("pvc/hopeful", ".spec.volumeName")
	c.kubectl("delete", "pod/rare", "pvc/rare", "pvc/hopeful", "storageclass/misspelt")
	c.eventuallyNoVolume(volume)
}

// absurdSizeStory: a size that cannot be is refused with the reason, and leaves nothing.
func absurdSizeStory(c *testCluster) {
	c.apply(class("sizes", "volumeBindingMode: Immediate"))
	none := filepath.Join(c.t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, []byte(claim("none", `"0"`, "storageClassName: sizes")), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.refused([]string{"storage", "must be greater than zero"}, c.inNamespace("apply", "-f", none)...)

	uids := map[string]string{}
	for name, size := range map[string]string{"exbi": "1Ei", "tebi": "15Ti", "beyond": "9Ei"} {
		c.apply(claim(name, size, "storageClassName: sizes"))
		uids[name] = c.get("pvc/"+name, ".metadata.uid")
	}
	c.apply(claim("podded", "15Ti", "") + user("podded", "podded"))
	uids["podded"] = c.get("pvc/podded", ".metadata.uid")
	// Either the room of the node is known already and no node is asked, or the node says that it has not enough.
	c.eventuallySays([]string{"local.csi.orlop.io", "1Ei"}, "describe", "pvc/exbi")
	c.eventuallySays([]string{"local.csi.orlop.io", "15Ti"}, "describe", "pvc/tebi")
	c.eventuallySays([]string{"ProvisioningFailed", "8Ei"}, "describe", "pvc/beyond")
	c.eventuallySays([]string{"local.csi.orlop.io", "15Ti"}, "describe", "pvc/podded")
	c.kubectl("delete", "pod/podded", "pvc/podded", "pvc/exbi", "pvc/tebi", "pvc/beyond", "storageclass/sizes")
	for _, uid := range uids {
		c.eventuallyNoVolume("pvc-" + uid)
	}
}

// retainStory: a volume that is to be retained outlives its claim, and no later claim of that name gets at its data.
func retainStory(c *testCluster) {
	c.apply(class("kept", "reclaimPolicy: Retain\nvolumeBindingMode: WaitForFirstConsumer") +
		"---" + volumePod("diary", "16Mi", "storageClassName: kept"))
	c.waitReady("diary")
	c.exec("diary", "echo first > /data/file")
	first := c.get("pvc/diary", ".spec.volumeName")
	c.kubectl("delete", "pod,pvc", "diary")
	c.eventuallyIs("pv/"+first, ".status.phase", "Released")
	dir, there := c.pool()[first]
	if !there {
		c.t.Fatalf("the retained volume %s has left the pool", first)
	}
	if _, err := os.Stat(dir); err != nil {
		c.t.Error(err)
	}

	c.apply(volumePod("diary", "16Mi", "storageClassName: kept"))
	c.waitReady("diary")
	second := c.get("pvc/diary", ".spec.volumeName")
	if second == first {
		c.t.Errorf("the second claim got the first one's volume")
	}
	c.execFails("No such file", "diary", "cat /data/file")
	c.kubectl("delete", "pod,pvc", "diary")
	c.eventuallyIs("pv/"+second, ".status.phase", "Released")

	// The administrator gives both up.
	for _, v := range []string{first, second} {
		c.kubectl("patch", "pv", v, "--patch", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
		c.eventuallyNoVolume(v)
	}
	c.kubectl("delete", "storageclass", "kept")
}

func hostPathVolume(name, size, class, path string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: %s}
spec:
  capacity: {storage: %s}
  accessModes: [ReadWriteOnce]
  storageClassName: %s
  hostPath: {path: %s, type: DirectoryOrCreate}
`, name, size, class, path)
}

// staticPoolStory: of volumes that were made by hand a claim takes the smallest that will do.
func staticPoolStory(c *testCluster) {
	dir := c.t.TempDir()
	var pool string
	for name, size := range map[string]string{"pool-10m": "10M", "pool-1gi": "1Gi", "pool-3gi": "3Gi"} {
		pool += hostPathVolume(name, size, "by-hand", filepath.Join(dir, name))
	}
	c.apply(pool)
	c.apply(claim("modest", "200Mi", "storageClassName: by-hand") + user("modest", "modest"))
	c.eventuallyIs("pvc/modest", ".spec.volumeName", "pool-1gi")
	c.waitReady("modest")
	if got := c.get("pvc/modest", ".status.capacity.storage"); got != "1Gi" {
		c.t.Errorf("the claim says it has %s, want 1Gi", got)
	}
	for _, name := range []string{"pool-10m", "pool-3gi"} {
		c.eventuallyIs("pv/"+name, ".status.phase", "Available")
	}
	c.exec("modest", "echo written > /data/file")
	sameFile(c, filepath.Join(dir, "pool-1gi", "file"), "written\n")
	c.kubectl("delete", "pod,pvc", "modest")
	c.eventuallyIs("pv/pool-1gi", ".status.phase", "Released")
	sameFile(c, filepath.Join(dir, "pool-1gi", "file"), "written\n")
	c.kubectl("delete", "pv", "pool-10m", "pool-1gi", "pool-3gi")
}

func sameFile(c *testCluster, path, want string) {
	c.t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		c.t.Errorf("%s holds %q, %v, want %q", path, data, err, want)
	}
}

// staticLocalStory: a directory of the node is a volume of type local, for pods on that node.
func staticLocalStory(c *testCluster) {
	dir := c.t.TempDir()
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: disks
  local: {path: %s}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}
`, dir, c.get("node", ".items[0].metadata.name")))
	c.apply(claim("disk", "1Gi", "storageClassName: disks") + user("disk", "disk"))
	c.waitReady("disk")
	c.exec("disk", "echo written > /data/file")
	sameFile(c, filepath.Join(dir, "file"), "written\n")
	c.kubectl("delete", "pod/disk", "pvc/disk", "pv/disk")
}
