package pvcontroller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// release says that a volume's claim is gone, and sees to it that the volume's reclaim policy is carried out. A
// volume that failed stays Failed, so that people see it, while the attempts go on.
func (c *Controller) release(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		var err error
		if pv, err = c.setVolumePhase(ctx, pv, corev1.VolumeReleased); err != nil {
			return err
		}
	}
	switch policy := pv.Spec.PersistentVolumeReclaimPolicy; policy {
	case corev1.PersistentVolumeReclaimRetain:
		// It may have failed under another policy, and its owner followed the advice to retain it.
		_, err := c.setVolumePhase(ctx, pv, corev1.VolumeReleased)
		return err
	case corev1.PersistentVolumeReclaimDelete:
		if deletedElsewhere(pv) {
			return nil
		}
		return c.fail(ctx, pv, reasonVolumeFailedDelete, fmt.Sprintf("no component deletes volumes of kind %s: remove the "+
			"data and then this PersistentVolume by hand, or set its persistentVolumeReclaimPolicy to Retain", sourceKind(pv)))
	case corev1.PersistentVolumeReclaimRecycle:
		if c.recycling.begin(pv) {
			c.recycleQueue.Add(pv.Name)
		}
		return nil
	default:
		return c.fail(ctx, pv, reasonUnknownReclaimPolicy, fmt.Sprintf(
			"persistentVolumeReclaimPolicy %q is unknown: set it to Retain or Delete", policy))
	}
}

// fail sets a volume to Failed with an event that says why and what to do.
func (c *Controller) fail(ctx context.Context, pv *corev1.PersistentVolume, reason, message string) error {
	if pv.Status.Phase == corev1.VolumeFailed && pv.Status.Message == message {
		return nil
	}
	updated := pv.DeepCopy()
	updated.Status.Phase, updated.Status.Reason, updated.Status.Message = corev1.VolumeFailed, reason, message
	updated, err := c.updateVolumeStatus(ctx, updated)
	if err != nil {
		return fmt.Errorf("set volume %s to Failed (%s): %w", pv.Name, message, err)
	}
	c.announce(updated, corev1.EventTypeWarning, reason, message)
	return nil
}

// deletedElsewhere tells whether a provisioner takes care of a released volume whose reclaim policy is Delete.
func deletedElsewhere(pv *corev1.PersistentVolume) bool {
	provisioner := pv.Annotations[storagehelpers.AnnDynamicallyProvisioned]
	return pv.Spec.CSI != nil ||
		slices.Contains(pv.Finalizers, storagehelpers.PVDeletionProtectionFinalizer) ||
		pv.Annotations[storagehelpers.AnnMigratedTo] != "" ||
		provisioner != "" && (!isInTree(provisioner) || migrated[provisioner] != "")
}

// isInTree tells whether a provisioner was, or is, part of Kubernetes itself.
func isInTree(provisioner string) bool { return strings.HasPrefix(provisioner, "kubernetes.io/") }

// sourceKind names the kind of a volume's source as the API does, for people.
func sourceKind(pv *corev1.PersistentVolume) string {
	s := &pv.Spec.PersistentVolumeSource
	for _, kind := range []struct {
		name string
		is   bool
	}{
		{"hostPath", s.HostPath != nil}, {"local", s.Local != nil}, {"nfs", s.NFS != nil}, {"csi", s.CSI != nil},
		{"iscsi", s.ISCSI != nil}, {"fc", s.FC != nil}, {"flexVolume", s.FlexVolume != nil},
		{"cephfs", s.CephFS != nil}, {"rbd", s.RBD != nil}, {"glusterfs", s.Glusterfs != nil},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil}, {"gcePersistentDisk", s.GCEPersistentDisk != nil},
		{"azureDisk", s.AzureDisk != nil}, {"azureFile", s.AzureFile != nil}, {"cinder", s.Cinder != nil},
		{"vsphereVolume", s.VsphereVolume != nil}, {"portworxVolume", s.PortworxVolume != nil},
	} {
		if kind.is {
			return kind.name
		}
	}
	return "unknown"
}
