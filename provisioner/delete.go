package provisioner

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reclaimAction is what is to be done about a PersistentVolume of ours.
type reclaimAction int

const (
	// keep: nothing.
	keep reclaimAction = iota
	// guard: add the finalizer, because the policy has become Delete.
	guard
	// release: remove the finalizer and let the object go; the data stays (policy Retain).
	release
	// remove: delete the volume, then the object.
	remove
)

func (a reclaimAction) String() string { return [...]string{"keep", "guard", "release", "remove"}[a] }

// reclaim decides about a PersistentVolume, which must be one of ours. Who binds decides when a volume is Released; the
// one case decided here is an object that somebody deletes while no claim is named in it, where the policy is honoured
// too (KEP-2644).
func reclaim(pv *corev1.PersistentVolume) reclaimAction {
	deleting := pv.DeletionTimestamp != nil
	guarded := slices.Contains(pv.Finalizers, FinalizerVolume)
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		if deleting && guarded && pv.Status.Phase != corev1.VolumeBound {
			return release
		}
		return keep
	}
	switch {
	case deleting && !guarded:
		// The volume is deleted already, or somebody has taken the finalizer to keep it.
		return keep
	case pv.Status.Phase == corev1.VolumeReleased:
		return remove
	case deleting && pv.Status.Phase != corev1.VolumeBound && pv.Spec.ClaimRef == nil:
		return remove
	case !deleting && !guarded:
		return guard
	}
	return keep
}

// reclaimVolume carries out what reclaim decides about the current state of a PersistentVolume: a decision to delete
// data is not taken from a cache.
func (c *core) reclaimVolume(ctx context.Context, cached *corev1.PersistentVolume) error {
	pv, err := c.client.CoreV1().PersistentVolumes().Get(ctx, cached.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && pv.UID != cached.UID) {
		return nil
	}
	if err != nil {
		return err
	}
	if !ours(pv, c.driver.name) {
		return nil
	}
	switch reclaim(pv) {
	case guard:
		return patchFinalizer(ctx, c.client, pv, true)
	case release:
		return ignoreNotFound(patchFinalizer(ctx, c.client, pv, false))
	case remove:
		return c.removeVolume(ctx, pv)
	}
	return nil
}

// removeVolume deletes the volume, the object, and last the finalizer: until then a crash leaves an object that leads
// back here.
func (c *core) removeVolume(ctx context.Context, pv *corev1.PersistentVolume) error {
	if err := c.driver.delete(ctx, pv.Spec.CSI.VolumeHandle); err != nil {
		err = fmt.Errorf("volume %s can not be deleted: %w", pv.Spec.CSI.VolumeHandle, err)
		if ctx.Err() == nil {
			c.recorder.Event(pv, corev1.EventTypeWarning, ReasonVolumeFailedDelete, err.Error()+"; will try again")
		}
		return err
	}
	if pv.DeletionTimestamp == nil {
		err := c.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name,
			metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pv.UID}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			// Gone, or another object of the same name.
			return nil
		}
		if err != nil {
			return err
		}
	}
	if slices.Contains(pv.Finalizers, FinalizerVolume) {
		if err := ignoreNotFound(patchFinalizer(ctx, c.client, pv, false)); err != nil {
			return err
		}
	}
	c.log.Info("Deleted", "pv", pv.Name, "volume", pv.Spec.CSI.VolumeHandle)
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
