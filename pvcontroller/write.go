package pvcontroller

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The only places that write claims and volumes. What the API server returns is kept over the informer's version;
// after a conflict the object is read again, so that the retry starts from what there is.

func (c *Controller) updateVolume(ctx context.Context, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	updated, err := c.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	return c.keepVolume(ctx, pv.Name, updated, err)
}

func (c *Controller) updateVolumeStatus(ctx context.Context, pv *corev1.PersistentVolume) (
	*corev1.PersistentVolume, error,
) {
	updated, err := c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, pv, metav1.UpdateOptions{})
	return c.keepVolume(ctx, pv.Name, updated, err)
}

func (c *Controller) keepVolume(ctx context.Context, name string, updated *corev1.PersistentVolume, err error) (
	*corev1.PersistentVolume, error,
) {
	if apierrors.IsConflict(err) {
		_, readErr := c.readVolume(ctx, name)
		return nil, errors.Join(err, readErr)
	}
	if err != nil {
		return nil, err
	}
	c.volumes.store(updated)
	return updated, nil
}

// readVolume asks the API server for a volume. It is nil if there is none.
func (c *Controller) readVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	pv, err := c.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.volumes.store(pv)
	return pv, nil
}

func (c *Controller) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (
	*corev1.PersistentVolumeClaim, error,
) {
	updated, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return c.keepClaim(ctx, claim, updated, err)
}

func (c *Controller) updateClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim) (
	*corev1.PersistentVolumeClaim, error,
) {
	updated, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).
		UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return c.keepClaim(ctx, claim, updated, err)
}

func (c *Controller) keepClaim(ctx context.Context, claim, updated *corev1.PersistentVolumeClaim, err error) (
	*corev1.PersistentVolumeClaim, error,
) {
	if apierrors.IsConflict(err) {
		fresh, readErr := c.readClaim(ctx, claim.Namespace, claim.Name)
		if fresh != nil && fresh.Spec.VolumeName != "" {
			// It has its volume. One that was written for it in vain is to be let go without waiting for the cache.
			c.enqueueVolumesOf(fresh)
		}
		return nil, errors.Join(err, readErr)
	}
	if err != nil {
		return nil, err
	}
	c.claims.store(updated)
	return updated, nil
}

// readClaim asks the API server for a claim. It is nil if there is none.
func (c *Controller) readClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c.claims.store(claim)
	return claim, nil
}
