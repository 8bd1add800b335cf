package pvcontroller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// match chooses the volume for an unbound claim from the candidates, or none (nil).
//
// A volume that refers to the claim already comes first: a provisioner made it, the scheduler chose it, an
// administrator reserved it, or an earlier bind was cut short. Otherwise, and only if binding is not delayed until
// there is a pod (then the scheduler chooses), it is the available volume with the fewest access modes beyond those
// asked for, and of these the smallest.
//
// Candidates whose name is in excluded are passed over. The error says that the claim's selector is invalid.
func match(claim *corev1.PersistentVolumeClaim, candidates []*corev1.PersistentVolume,
	excluded map[string]*corev1.PersistentVolume, delayed bool,
) (*corev1.PersistentVolume, error) {
	var reserved []*corev1.PersistentVolume
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, pv := range candidates {
		switch {
		case !storagehelpers.CheckAccessModes(claim, pv):
		case storagehelpers.IsVolumeBoundToClaim(pv, claim):
			reserved = append(reserved, pv)
		case pv.Spec.ClaimRef == nil && !delayed:
			byModes[len(pv.Spec.AccessModes)] = append(byModes[len(pv.Spec.AccessModes)], pv)
		}
	}
	// Of several, first the one that has this very claim's UID: it was bound before; then by name, so that two
	// controllers choose alike.
	slices.SortFunc(reserved, func(a, b *corev1.PersistentVolume) int {
		return cmp.Or(cmp.Compare(b.Spec.ClaimRef.UID, a.Spec.ClaimRef.UID), cmp.Compare(a.Name, b.Name))
	})
	groups := [][]*corev1.PersistentVolume{reserved}
	counts := make([]int, 0, len(byModes))
	for n := range byModes {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	for _, n := range counts {
		groups = append(groups, byModes[n])
	}
	for _, group := range groups {
		pv, err := storagehelpers.FindMatchingVolume(claim, group, nil, excluded, delayed, true)
		if pv != nil || err != nil {
			return pv, err
		}
	}
	return nil, nil
}

// fits tells why a volume cannot hold what a claim asks for, whoever brought the two together. It is nil when it can.
func fits(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	has, wants := pv.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case pv.DeletionTimestamp != nil:
		return errors.New("it is being deleted")
	case has.Cmp(wants) < 0:
		return fmt.Errorf("it has %s, the claim asks for %s", has.String(), wants.String())
	case storagehelpers.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return fmt.Errorf("its volumeMode is %s, the claim asks for %s",
			modeOf(pv.Spec.VolumeMode), modeOf(claim.Spec.VolumeMode))
	case !storagehelpers.CheckAccessModes(claim, pv):
		return fmt.Errorf("its accessModes are %v, the claim asks for %v", pv.Spec.AccessModes, claim.Spec.AccessModes)
	case deref(pv.Spec.VolumeAttributesClassName) != deref(claim.Spec.VolumeAttributesClassName):
		return fmt.Errorf("its volumeAttributesClassName is %q, the claim asks for %q",
			deref(pv.Spec.VolumeAttributesClassName), deref(claim.Spec.VolumeAttributesClassName))
	}
	return nil
}

// fitsNamed tells why a claim cannot have the unclaimed volume it names. Other than for a volume reserved for the
// claim by its claimRef, the class must agree too.
func fitsNamed(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	has, wants := storagehelpers.GetPersistentVolumeClass(pv), storagehelpers.GetPersistentVolumeClaimClass(claim)
	if has != wants {
		return fmt.Errorf("its storageClassName is %q, the claim asks for %q", has, wants)
	}
	return fits(pv, claim)
}

// suits tells why a claim that names no volume would not be given this one.
func suits(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	if err := fitsNamed(pv, claim); err != nil {
		return err
	}
	if claim.Spec.Selector == nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	if err != nil {
		return fmt.Errorf("the claim's selector is invalid: %w", err)
	}
	if !selector.Matches(labels.Set(pv.Labels)) {
		return fmt.Errorf("its labels do not match the claim's selector %q", selector)
	}
	return nil
}

// modeOf applies the API's default volume mode.
func modeOf(mode *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if mode == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *mode
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
