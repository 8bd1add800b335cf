package pvcontroller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// bind makes the four writes that bind a volume to a claim, leaving out those that were made before. On an error the
// next reconciliation of either object carries on.
func (c *Controller) bind(ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	pv, err := c.bindVolume(ctx, pv, claim)
	if err != nil {
		return err
	}
	if pv, err = c.setVolumePhase(ctx, pv, corev1.VolumeBound); err != nil {
		return err
	}
	if claim, err = c.bindClaim(ctx, claim, pv); err != nil {
		return err
	}
	before := claim.Status.Phase
	if err := c.markClaimBound(ctx, claim, pv); err != nil {
		return err
	}
	if before != corev1.ClaimBound {
		c.announced.forget(claim.UID)
		c.log.V(2).Info("Bound", "claim", keyOf(claim), "volume", pv.Name)
	}
	return nil
}

// bindError says which step of a bind failed.
func bindError(step string, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, err error) error {
	return fmt.Errorf("bind volume %s to claim %s: %s: %w", pv.Name, keyOf(claim), step, err)
}
