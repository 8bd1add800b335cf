package pvcontroller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// annPreResizeCapacity is set on a volume that was made larger and whose file system was not yet: its value is the
// size that can be used meanwhile.
const annPreResizeCapacity = "volume.alpha.kubernetes.io/pre-resize-capacity"

// markClaimBound is the fourth write of a bind: the claim's phase, and what it got.
func (c *Controller) markClaimBound(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume,
) error {
	updated, changed, err := boundClaimStatus(claim, pv)
	if err != nil || !changed {
		return err
	}
	if _, err := c.updateClaimStatus(ctx, updated); err != nil {
		return bindError("write the claim's status", pv, claim, err)
	}
	return nil
}

// boundClaimStatus returns the claim with the status that a bind to pv gives it, and whether that differs. Capacity
// and attributes class are only taken over when the claim becomes bound: later they are a resizer's to change, and
// may rightly differ from the volume's.
func boundClaimStatus(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (
	_ *corev1.PersistentVolumeClaim, changed bool, err error,
) {
	updated := claim.DeepCopy()
	if !slices.Equal(updated.Status.AccessModes, pv.Spec.AccessModes) {
		updated.Status.AccessModes, changed = slices.Clone(pv.Spec.AccessModes), true
	}
	if updated.Status.Phase == corev1.ClaimBound {
		return updated, changed, nil
	}
	capacity, ok := pv.Spec.Capacity[corev1.ResourceStorage]
	if !ok {
		return nil, false, fmt.Errorf("PersistentVolume %q has no spec.capacity.storage: set it", pv.Name)
	}
	if usable, ok := pv.Annotations[annPreResizeCapacity]; ok {
		if capacity, err = resource.ParseQuantity(usable); err != nil {
			return nil, false, fmt.Errorf("PersistentVolume %q: annotation %s: %w", pv.Name, annPreResizeCapacity, err)
		}
	}
	if updated.Status.Capacity == nil {
		updated.Status.Capacity = corev1.ResourceList{}
	}
	updated.Status.Capacity[corev1.ResourceStorage] = capacity
	if updated.Status.Phase != corev1.ClaimLost {
		updated.Status.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
	}
	updated.Status.Phase = corev1.ClaimBound
	return updated, true, nil
}

// setClaimPhase sets the phase of a claim that has no volume, and takes back what a bind had told of one.
func (c *Controller) setClaimPhase(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase,
) error {
	s := claim.Status
	if s.Phase == phase && s.AccessModes == nil && s.Capacity == nil && s.CurrentVolumeAttributesClassName == nil {
		return nil
	}
	updated := claim.DeepCopy()
	updated.Status.Phase = phase
	updated.Status.AccessModes, updated.Status.Capacity = nil, nil
	updated.Status.CurrentVolumeAttributesClassName = nil
	if _, err := c.updateClaimStatus(ctx, updated); err != nil {
		return fmt.Errorf("set claim %s to %s: %w", keyOf(claim), phase, err)
	}
	return nil
}
