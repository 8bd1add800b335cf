package controllers

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPendingClaimSaysWhy(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))

	missing := w.createClaim(w.claim("missing-class", "1Gi"))
	w.untilEvent(missing, "ProvisioningFailed", w.class, "does not exist")

	none := w.createClaim(w.claim("no-class", "1Ti", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.StorageClassName = new(string)
	}))
	w.untilEvent(none, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")

	// The class that the first claim waits for turns up; it provisions nothing.
	w.createClass("kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate)
	w.untilEvent(missing, "ProvisioningFailed", "kubernetes.io/no-provisioner", "1Gi", w.class)
	w.createPV(w.pv("late", "1Gi"))
	w.untilClaimPhase("missing-class", corev1.ClaimBound)
}

func TestDefaultClassIsAssignedToOlderClaims(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	older := w.createClaim(w.claim("older", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.StorageClassName = nil
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": w.ns}}
	}))
	w.createClaim(w.claim("declines", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.StorageClassName = new(string)
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": w.ns}}
	}))
	w.untilEvent(older, "FailedBinding", "no storage class is set")
	w.createClass("kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate, func(c *storagev1.StorageClass) {
		c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	})
	w.until("the claim has the default class", func() (string, error) {
		if got := w.getClaim("older").Spec.StorageClassName; got == nil || *got != w.class {
			return "it has none", nil
		}
		return "", nil
	})
	if got := w.getClaim("declines").Spec.StorageClassName; *got != "" {
		t.Errorf("a claim that declines dynamic provisioning got class %q", *got)
	}
	w.createPV(w.pv("late", "1Gi", func(pv *corev1.PersistentVolume) { pv.Labels = map[string]string{"of": w.ns} }))
	w.untilClaimPhase("older", corev1.ClaimBound)
}

func TestForeignProvisionerIsAskedByAnnotation(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	w.createClass("example.com/nfs", storagev1.VolumeBindingImmediate)
	claim := w.createClaim(w.claim("data", "1Gi"))
	w.untilEvent(claim, "ExternalProvisioning", "example.com/nfs")
	w.until("the claim names its provisioner", func() (string, error) {
		return namesProvisioner(w.getClaim("data"), "example.com/nfs"), nil
	})
	w.createPV(w.provisioned(claim, "example.com/nfs"))
	w.untilClaimPhase("data", corev1.ClaimBound)
	w.checkBindings()
}

// namesProvisioner says which of a claim's provisioner annotations is not as it should be.
func namesProvisioner(claim *corev1.PersistentVolumeClaim, want string) string {
	for _, key := range []string{
		"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner",
	} {
		if got := claim.Annotations[key]; got != want {
			return key + " is " + got
		}
	}
	return ""
}

// provisioned is a volume as a provisioner makes it for a claim.
func (w *pvWorld) provisioned(claim *corev1.PersistentVolumeClaim, driver string) *corev1.PersistentVolume {
	return w.pv("pvc-"+string(claim.UID), "1Gi", func(pv *corev1.PersistentVolume) {
		pv.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": driver}
		pv.Spec.ClaimRef = &corev1.ObjectReference{
			Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: w.ns, Name: claim.Name, UID: claim.UID,
		}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		if strings.HasSuffix(driver, ".csi.orlop.io") {
			pv.Spec.HostPath = nil
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: string(claim.UID)}
		}
	})
}

// writeLog records the writes to claims and volumes that go through it.
type writeLog struct {
	mu     sync.Mutex
	writes []string
}

func (l *writeLog) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/events") {
			l.mu.Lock()
			l.writes = append(l.writes, r.Method+" "+r.URL.Path)
			l.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestProvisionedClaimTakesThreeWrites counts what a claim of our own provisioner costs: with the creation of the
// volume, the four writes that are the least there can be.
func TestProvisionedClaimTakesThreeWrites(t *testing.T) {
	w := newPVWorld(t)
	var log writeLog
	config := pvConfig(t)
	config.Wrap(log.wrap)
	runPVController(t, config)
	w.createClass("local.csi.orlop.io", storagev1.VolumeBindingImmediate)
	claim := w.createClaim(w.claim("data", "1Gi"))
	pv := w.createPV(w.provisioned(claim, "local.csi.orlop.io"))
	bound := w.untilClaimPhase("data", corev1.ClaimBound)
	if missing := namesProvisioner(bound, "local.csi.orlop.io"); missing != "" {
		t.Error(missing)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	var ours []string
	for _, write := range log.writes {
		if strings.Contains(write, pv.Name) || strings.Contains(write, "/"+w.ns+"/") {
			ours = append(ours, write)
		}
	}
	claimPath := "PUT /api/v1/namespaces/" + w.ns + "/persistentvolumeclaims/data"
	want := []string{"PUT /api/v1/persistentvolumes/" + pv.Name + "/status", claimPath, claimPath + "/status"}
	if strings.Join(ours, "\n") != strings.Join(want, "\n") {
		t.Errorf("writes:\n%s\nwant:\n%s", strings.Join(ours, "\n"), strings.Join(want, "\n"))
	}
}

func TestDelayedBindingIsLeftToTheScheduler(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	w.createClass("kubernetes.io/no-provisioner", storagev1.VolumeBindingWaitForFirstConsumer)
	elsewhere := w.createPV(w.pv("elsewhere", "1Gi", func(pv *corev1.PersistentVolume) {
		pv.Spec.NodeAffinity = onNode("elsewhere")
	}))
	here := w.createPV(w.pv("here", "2Gi", func(pv *corev1.PersistentVolume) { pv.Spec.NodeAffinity = onNode(w.ns) }))
	claim := w.createClaim(w.claim("data", "1Gi"))
	w.untilEvent(claim, "WaitForFirstConsumer", w.class)
	w.untilPVPhase(here.Name, corev1.VolumeAvailable)

	w.createPod("consumer", "data")
	w.untilEvent(claim, "WaitForPodScheduled", "consumer")
	if got := w.getClaim("data"); got.Spec.VolumeName != "" {
		t.Fatalf("bound to %s before there is a node", got.Spec.VolumeName)
	}
	w.createNode(w.ns)
	if got := w.untilClaimPhase("data", corev1.ClaimBound); got.Spec.VolumeName != here.Name {
		t.Errorf("bound to %s, want the volume on the pod's node", got.Spec.VolumeName)
	}
	if got := w.getPV(elsewhere.Name); got.Spec.ClaimRef != nil {
		t.Errorf("the volume on another node belongs to %v", got.Spec.ClaimRef)
	}
	w.until("the pod has its node", func() (string, error) {
		pod, err := w.client.CoreV1().Pods(w.ns).Get(t.Context(), "consumer", metav1.GetOptions{})
		if err == nil && pod.Spec.NodeName == "" {
			return "not scheduled", nil
		}
		return "", err
	})
	w.checkBindings()
}

// createPod makes a pod that uses a claim, and that only fits on the node of the world's name.
func (w *pvWorld) createPod(name, claim string) {
	w.t.Helper()
	_, err := w.client.CoreV1().Pods(w.ns).Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeSelector:  map[string]string{corev1.LabelHostname: w.ns},
			Tolerations:   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:    []corev1.Container{{Name: "c", Image: "none"}},
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatalf("create pod %s: %v", name, err)
	}
}

// createNode makes a node that only the scheduler believes in. It goes with the test.
func (w *pvWorld) createNode(name string) {
	w.t.Helper()
	nodes := w.client.CoreV1().Nodes()
	node, err := nodes.Create(w.t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatalf("create node %s: %v", name, err)
	}
	w.t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			w.t.Errorf("delete node %s: %v", name, err)
		}
	})
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
	node.Status.Capacity = node.Status.Allocatable
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := nodes.UpdateStatus(w.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		w.t.Fatalf("update node %s: %v", name, err)
	}
}
