package pvcontroller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// bindClaim is the third write of a bind: the claim's volumeName and annotations. It is what makes the bind final.
func (c *Controller) bindClaim(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume,
) (*corev1.PersistentVolumeClaim, error) {
	updated, changed := boundClaim(claim, pv)
	if !changed {
		return claim, nil
	}
	updated, err := c.updateClaim(ctx, updated)
	if err != nil {
		return nil, bindError("write volumeName", pv, claim, err)
	}
	return updated, nil
}

// boundClaim returns the claim as it is once it is bound, and whether that differs. The provisioner's annotations are
// set along, if they were not needed before.
func boundClaim(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (
	_ *corev1.PersistentVolumeClaim, changed bool,
) {
	updated := claim.DeepCopy()
	if updated.Spec.VolumeName != pv.Name {
		updated.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, storagehelpers.AnnBoundByController, "yes")
		changed = true
	}
	if !bindCompleted(updated) {
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, storagehelpers.AnnBindCompleted, "yes")
		changed = true
	}
	_, requested := updated.Annotations[storagehelpers.AnnStorageProvisioner]
	if provisioner := pv.Annotations[storagehelpers.AnnDynamicallyProvisioned]; changed && provisioner != "" && !requested {
		setProvisioner(updated, provisioner)
	}
	return updated, changed
}
