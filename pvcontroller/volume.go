package pvcontroller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// syncVolume reconciles one volume, given by its name.
func (c *Controller) syncVolume(ctx context.Context, name string) error {
	pv, found, err := c.volumes.get(name)
	if err != nil || !found {
		return err
	}
	claim, err := c.claimOf(ctx, pv)
	if err != nil {
		return err
	}
	switch decideVolume(pv, claim) {
	case volumeAvailable:
		return c.makeAvailable(ctx, pv)
	case volumeBinding:
		c.claimQueue.Add(claimKey(pv))
	case volumeUnfit:
		c.announce(pv, corev1.EventTypeWarning, reasonVolumeMismatch,
			fmt.Sprintf("cannot be bound to claim %q, which it refers to: %v", claimKey(pv), fits(pv, claim)))
		c.claimQueue.Add(claimKey(pv))
	case volumeBound:
		_, err := c.setVolumePhase(ctx, pv, corev1.VolumeBound)
		return err
	case volumeUnbind:
		return c.unbind(ctx, pv)
	case volumeReleased, volumeLeftOver:
		return c.release(ctx, pv)
	case volumeRemoved:
	}
	return nil
}

// claimOf returns the claim that a volume is bound to: that of the claimRef's name, if it has the claimRef's UID.
// Before it says that there is none, it asks the API server, because what follows may delete data.
func (c *Controller) claimOf(ctx context.Context, pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return nil, nil
	}
	claim, found, err := c.claims.get(claimKey(pv))
	if err != nil {
		return nil, err
	}
	if found && claim.UID == ref.UID {
		return claim, nil
	}
	claim, err = c.readClaim(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("find out whether claim %s of volume %s is gone: %w", claimKey(pv), pv.Name, err)
	}
	if claim != nil && claim.UID == ref.UID {
		return claim, nil
	}
	return nil, nil
}

// makeAvailable offers a volume: to the claim it is reserved for, or to all that it suits. The latter hear of it by the
// event of the changed phase.
func (c *Controller) makeAvailable(ctx context.Context, pv *corev1.PersistentVolume) error {
	pv, err := c.setVolumePhase(ctx, pv, corev1.VolumeAvailable)
	if err != nil {
		return err
	}
	if pv.Spec.ClaimRef != nil {
		c.claimQueue.Add(claimKey(pv))
	}
	return nil
}

// unbind takes a bind back: the volume is available again. What an administrator reserved stays reserved.
func (c *Controller) unbind(ctx context.Context, pv *corev1.PersistentVolume) error {
	updated, err := c.updateVolume(ctx, unboundVolume(pv))
	if err != nil {
		return fmt.Errorf("unbind volume %s from claim %s: %w", pv.Name, claimKey(pv), err)
	}
	c.log.V(2).Info("Volume unbound", "volume", pv.Name, "claim", claimKey(pv))
	return c.makeAvailable(ctx, updated)
}

// unboundVolume returns the volume without its claim, or, if its creator had reserved it for that claim, without the
// claim's UID.
func unboundVolume(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	updated := pv.DeepCopy()
	if !metav1.HasAnnotation(pv.ObjectMeta, storagehelpers.AnnBoundByController) {
		updated.Spec.ClaimRef.UID = ""
		return updated
	}
	updated.Spec.ClaimRef = nil
	delete(updated.Annotations, storagehelpers.AnnBoundByController)
	return updated
}
