package pvcontroller

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestBoundClaim(t *testing.T) {
	const (
		completed   = "pv.kubernetes.io/bind-completed"
		byUs        = "pv.kubernetes.io/bound-by-controller"
		provisioner = "volume.kubernetes.io/storage-provisioner"
		beta        = "volume.beta.kubernetes.io/storage-provisioner"
	)
	made := pvAnnotation("pv.kubernetes.io/provisioned-by", "local.csi.orlop.io")
	for _, c := range []struct {
		name        string
		claim       *corev1.PersistentVolumeClaim
		pv          *corev1.PersistentVolume
		changed     bool
		annotations map[string]string
	}{
		{"unbound", testClaim(), testPV("a"), true, map[string]string{completed: "yes", byUs: "yes"}},
		{"it named the volume itself", testClaim(names("a")), testPV("a"), true, map[string]string{completed: "yes"}},
		{"it was bound before", testClaim(names("a"), annotated(completed, "yes")), testPV("a"), false,
			map[string]string{completed: "yes"}},
		{"provisioned without being asked for", testClaim(), testPV("a", made), true, map[string]string{
			completed: "yes", byUs: "yes", provisioner: "local.csi.orlop.io", beta: "local.csi.orlop.io"}},
		{"provisioned on request", testClaim(annotated(provisioner, "x"), annotated(beta, "x")), testPV("a", made), true,
			map[string]string{completed: "yes", byUs: "yes", provisioner: "x", beta: "x"}},
		{"bound before, annotations are not worth a write", testClaim(names("a"), annotated(completed, "yes")), testPV("a", made),
			false, map[string]string{completed: "yes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.claim.DeepCopy()
			got, changed := boundClaim(c.claim, c.pv)
			if changed != c.changed || got.Spec.VolumeName != "a" || !maps.Equal(got.Annotations, c.annotations) {
				t.Errorf("changed %t, volume %q, annotations %v", changed, got.Spec.VolumeName, got.Annotations)
			}
			if !maps.Equal(before.Annotations, c.claim.Annotations) || before.Spec.VolumeName != c.claim.Spec.VolumeName {
				t.Error("the cached claim was changed")
			}
		})
	}
}

func TestBoundClaimStatus(t *testing.T) {
	phase := func(p corev1.PersistentVolumeClaimPhase, capacity string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Status.Phase = p
			c.Status.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
			if capacity != "" {
				c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(capacity)}
			}
		}
	}
	for _, c := range []struct {
		name     string
		claim    *corev1.PersistentVolumeClaim
		pv       *corev1.PersistentVolume
		changed  bool
		capacity string
		fails    string
	}{
		{"pending", testClaim(), testPV("a", size("2Gi")), true, "2Gi", ""},
		{"bound", testClaim(phase(corev1.ClaimBound, "1Gi")), testPV("a"), false, "1Gi", ""},
		{"bound, and a resize is under way: capacity is the resizer's", testClaim(phase(corev1.ClaimBound, "1Gi")),
			testPV("a", size("2Gi")), false, "1Gi", ""},
		{"lost, and its volume came back", testClaim(phase(corev1.ClaimLost, "")), testPV("a"), true, "1Gi", ""},
		{"the file system was not enlarged yet", testClaim(), testPV("a", size("2Gi"), pvAnnotation(annPreResizeCapacity, "1Gi")),
			true, "1Gi", ""},
		{"the size before enlarging is nonsense", testClaim(), testPV("a", pvAnnotation(annPreResizeCapacity, "x")), false, "",
			annPreResizeCapacity},
		{"the volume has no capacity", testClaim(), testPV("a", func(pv *corev1.PersistentVolume) { pv.Spec.Capacity = nil }),
			false, "", "spec.capacity"},
		{"other access modes", testClaim(phase(corev1.ClaimBound, "1Gi")),
			testPV("a", modes(corev1.ReadWriteOnce, corev1.ReadWriteMany)), true, "1Gi", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, changed, err := boundClaimStatus(c.claim, c.pv)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v, want one that says %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			capacity := got.Status.Capacity[corev1.ResourceStorage]
			if changed != c.changed || capacity.String() != c.capacity || got.Status.Phase != corev1.ClaimBound ||
				len(got.Status.AccessModes) != len(c.pv.Spec.AccessModes) {
				t.Errorf("changed %t, status %+v", changed, got.Status)
			}
		})
	}
}

func TestBoundClaimStatusTakesTheAttributesClassWhenItBinds(t *testing.T) {
	pv := testPV("a", pvAttributes("fast"))
	got, _, err := boundClaimStatus(testClaim(), pv)
	if err != nil || deref(got.Status.CurrentVolumeAttributesClassName) != "fast" {
		t.Errorf("status %+v, error %v", got.Status, err)
	}
	bound := testClaim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimBound })
	got, _, err = boundClaimStatus(bound, pv)
	if err != nil || got.Status.CurrentVolumeAttributesClassName != nil {
		t.Errorf("status %+v, error %v: a bound claim's attributes class is the resizer's", got.Status, err)
	}
}

func TestUnboundVolume(t *testing.T) {
	byUs := pvAnnotation("pv.kubernetes.io/bound-by-controller", "yes")
	got := unboundVolume(testPV("a", claimedBy("data", "u"), byUs))
	if got.Spec.ClaimRef != nil || len(got.Annotations) != 0 {
		t.Errorf("a volume that the controller bound keeps %v and %v", got.Spec.ClaimRef, got.Annotations)
	}
	got = unboundVolume(testPV("a", claimedBy("data", "u")))
	if ref := got.Spec.ClaimRef; ref == nil || ref.UID != "" || ref.Name != "data" {
		t.Errorf("a volume that was reserved refers to %v", ref)
	}
}
