package pvcontroller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// bindVolume is the first write of a bind: the volume's claimRef, with the claim's UID. It is what keeps all others
// off the volume.
func (c *Controller) bindVolume(
	ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim,
) (*corev1.PersistentVolume, error) {
	updated, changed, err := storagehelpers.GetBindVolumeToClaim(pv, claim)
	if err != nil {
		return nil, bindError("refer to the claim", pv, claim, err)
	}
	if !changed {
		return pv, nil
	}
	if updated, err = c.updateVolume(ctx, updated); err != nil {
		return nil, bindError("write claimRef", pv, claim, err)
	}
	return updated, nil
}
