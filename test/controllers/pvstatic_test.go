package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStaticPoolBindsTheSmallestThatFits(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	small, fit, big := w.createPV(w.pv("10m", "10M")), w.createPV(w.pv("1gi", "1Gi")), w.createPV(w.pv("3gi", "3Gi"))
	for _, pv := range []*corev1.PersistentVolume{small, fit, big} {
		w.untilPVPhase(pv.Name, corev1.VolumeAvailable)
	}
	w.createClaim(w.claim("data", "200Mi"))
	claim := w.untilClaimPhase("data", corev1.ClaimBound)
	if claim.Spec.VolumeName != fit.Name {
		t.Errorf("bound to %s, want %s", claim.Spec.VolumeName, fit.Name)
	}
	if got := claim.Status.Capacity[corev1.ResourceStorage]; got.String() != "1Gi" {
		t.Errorf("capacity %s, want that of the volume", got.String())
	}
	for _, annotation := range []string{"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"} {
		if claim.Annotations[annotation] != "yes" {
			t.Errorf("annotation %s is %q", annotation, claim.Annotations[annotation])
		}
	}
	// The cache drops managed fields; what is written back must not.
	if len(claim.ManagedFields) < 2 {
		t.Errorf("managed fields %v, want those of the creator and of the controller", claim.ManagedFields)
	}
	if pv := w.getPV(fit.Name); pv.Status.Phase != corev1.VolumeBound || pv.Spec.ClaimRef.UID != claim.UID {
		t.Errorf("volume is %s for %v", pv.Status.Phase, pv.Spec.ClaimRef)
	}
	for _, pv := range []*corev1.PersistentVolume{small, big} {
		if got := w.getPV(pv.Name); got.Status.Phase != corev1.VolumeAvailable || got.Spec.ClaimRef != nil {
			t.Errorf("volume %s is %s for %v, want it Available", pv.Name, got.Status.Phase, got.Spec.ClaimRef)
		}
	}
	w.checkBindings()
}

func TestClaimWaitsForItsVolume(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim func(*corev1.PersistentVolumeClaim)
		wrong func(*corev1.PersistentVolume) // a volume that must not be taken
		right func(*corev1.PersistentVolume)
	}{
		{"selector", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
		}, func(pv *corev1.PersistentVolume) { pv.Labels = map[string]string{"disk": "hdd"} },
			func(pv *corev1.PersistentVolume) { pv.Labels = map[string]string{"disk": "ssd"} }},
		{"no class at all", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.StorageClassName = new(string)
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": c.Namespace}}
		}, func(pv *corev1.PersistentVolume) {
			pv.Labels = map[string]string{"of": pv.Name[:len(pv.Name)-len("-wrong")]}
		},
			func(pv *corev1.PersistentVolume) {
				pv.Spec.StorageClassName, pv.Labels = "", map[string]string{"of": pv.Name[:len(pv.Name)-len("-right")]}
			}},
		{"access mode", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, func(*corev1.PersistentVolume) {}, func(pv *corev1.PersistentVolume) {
			pv.Spec.AccessModes = append(pv.Spec.AccessModes, corev1.ReadWriteMany)
		}},
		{"block mode", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeMode = new(corev1.PersistentVolumeMode)
			*c.Spec.VolumeMode = corev1.PersistentVolumeBlock
		}, func(*corev1.PersistentVolume) {}, func(pv *corev1.PersistentVolume) {
			block := corev1.PersistentVolumeBlock
			pv.Spec.VolumeMode, pv.Spec.HostPath = &block, nil
			pv.Spec.Local = &corev1.LocalVolumeSource{Path: "/dev/nonexistent"}
			pv.Spec.NodeAffinity = onNode("anywhere")
		}},
		{"class in the beta annotation", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: *c.Spec.StorageClassName}
			c.Spec.StorageClassName = nil
		}, func(pv *corev1.PersistentVolume) { pv.Spec.StorageClassName += "-other" },
			func(pv *corev1.PersistentVolume) {
				pv.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: pv.Spec.StorageClassName}
				pv.Spec.StorageClassName = ""
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newPVWorld(t)
			runPVController(t, pvConfig(t))
			wrong := w.createPV(w.pv("wrong", "1Gi", c.wrong))
			w.untilPVPhase(wrong.Name, corev1.VolumeAvailable)
			w.createClaim(w.claim("data", "1Gi", c.claim))
			right := w.createPV(w.pv("right", "1Gi", c.right))
			if claim := w.untilClaimPhase("data", corev1.ClaimBound); claim.Spec.VolumeName != right.Name {
				t.Errorf("bound to %s", claim.Spec.VolumeName)
			}
			if pv := w.getPV(wrong.Name); pv.Status.Phase != corev1.VolumeAvailable || pv.Spec.ClaimRef != nil {
				t.Errorf("the volume that does not suit is %s for %v", pv.Status.Phase, pv.Spec.ClaimRef)
			}
			w.checkBindings()
		})
	}
}

func TestVolumeReservedForAClaim(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	smaller := w.createPV(w.pv("smaller", "1Gi"))
	reserved := w.createPV(w.pv("reserved", "5Gi", func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data"}
	}))
	w.untilPVPhase(smaller.Name, corev1.VolumeAvailable)
	w.untilPVPhase(reserved.Name, corev1.VolumeAvailable)

	w.createClaim(w.claim("data", "1Gi"))
	if claim := w.untilClaimPhase("data", corev1.ClaimBound); claim.Spec.VolumeName != reserved.Name {
		t.Errorf("bound to %s, want the volume that is reserved for it", claim.Spec.VolumeName)
	}
	pv := w.untilPVPhase(reserved.Name, corev1.VolumeBound)
	if _, ok := pv.Annotations["pv.kubernetes.io/bound-by-controller"]; ok {
		t.Error("a volume that its creator reserved is marked as bound by the controller")
	}
	w.checkBindings()
}

func TestClaimNamesItsVolume(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	name := w.ns + "-wanted"
	claim := w.createClaim(w.claim("data", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }))
	w.untilEvent(claim, "FailedBinding", name, "does not exist")
	w.createPV(w.pv("smaller", "1Gi"))
	w.createPV(w.pv("wanted", "5Gi"))
	if claim := w.untilClaimPhase("data", corev1.ClaimBound); claim.Spec.VolumeName != name {
		t.Errorf("bound to %s, want %s", claim.Spec.VolumeName, name)
	}
	w.untilPVPhase(name, corev1.VolumeBound)

	late := w.createClaim(w.claim("late", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }))
	w.untilEvent(late, "FailedBinding", name, w.ns+"/data")
	tooBig := w.createPV(w.pv("small", "1Gi"))
	greedy := w.createClaim(w.claim("greedy", "2Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName = tooBig.Name
	}))
	w.untilEvent(greedy, "VolumeMismatch", "1Gi", "2Gi")
	for _, pending := range []string{"late", "greedy"} {
		if got := w.getClaim(pending); got.Status.Phase != corev1.ClaimPending {
			t.Errorf("claim %s is %s", pending, got.Status.Phase)
		}
	}
	w.untilPVPhase(tooBig.Name, corev1.VolumeAvailable)
}

func TestReservedVolumeThatCannotServe(t *testing.T) {
	w := newPVWorld(t)
	runPVController(t, pvConfig(t))
	reserved := w.createPV(w.pv("reserved", "1Gi", func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data"}
	}))
	claim := w.createClaim(w.claim("data", "2Gi"))
	w.untilEvent(claim, "VolumeMismatch", reserved.Name, "1Gi", "2Gi")

	made := w.createPV(w.pv("made", "1Gi", func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: w.ns, Name: "data", UID: claim.UID}
	}))
	w.untilEvent(made, "VolumeMismatch", "1Gi", "2Gi")

	large := w.createPV(w.pv("large", "3Gi"))
	if got := w.untilClaimPhase("data", corev1.ClaimBound); got.Spec.VolumeName != large.Name {
		t.Errorf("bound to %s", got.Spec.VolumeName)
	}
	w.until("the others are free again", func() (string, error) { return w.done(), nil })
	w.checkBindings()
}

// onNode is the affinity of a volume that is on one node only.
func onNode(name string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
		}},
	}}}}
}
