package provisioner

import (
	"fmt"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// checkVolume says what is wrong with a driver's answer. Such a volume can not be used and must be deleted again.
func checkVolume(plan *Plan, volume *csi.Volume) error {
	required := plan.Request.GetCapacityRange().GetRequiredBytes()
	switch size := volume.GetCapacityBytes(); {
	// Zero is the spec's "unknown".
	case size != 0 && size < required:
		return fmt.Errorf("volume %q has %d bytes, fewer than the %d requested",
			volume.GetVolumeId(), size, required)
	case plan.Request.GetAccessibilityRequirements() != nil && nodeAffinity(volume.GetAccessibleTopology()) == nil:
		return fmt.Errorf("the answer does not say from where volume %q is accessible, although the driver has topology",
			volume.GetVolumeId())
	}
	return nil
}

// persistentVolume describes the volume that a driver made after a plan. Equal arguments give equal objects, so that a
// second attempt after a crash finds what it would have created. The claimRef carries the claim's UID: a claim that was
// deleted and created anew under its name does not inherit the volume.
func persistentVolume(plan *Plan, volume *csi.Volume, driver, identity string) *corev1.PersistentVolume {
	size := volume.GetCapacityBytes()
	if size == 0 {
		size = plan.Request.GetCapacityRange().GetRequiredBytes()
	}
	attributes := map[string]string{attrIdentity: identity}
	maps.Copy(attributes, volume.GetVolumeContext())
	mode := plan.VolumeMode
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        plan.Request.GetName(),
			Annotations: map[string]string{annProvisionedBy: driver},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *bytesQuantity(size)},
			AccessModes:                   plan.AccessModes,
			PersistentVolumeReclaimPolicy: plan.ReclaimPolicy,
			StorageClassName:              plan.ClassName,
			MountOptions:                  plan.MountOptions,
			VolumeMode:                    &mode,
			NodeAffinity:                  nodeAffinity(volume.GetAccessibleTopology()),
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: plan.ClaimNamespace, Name: plan.ClaimName, UID: plan.ClaimUID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver:           driver,
				VolumeHandle:     volume.GetVolumeId(),
				FSType:           plan.FSType,
				VolumeAttributes: attributes,
			}},
		},
	}
	if how := volume.GetVolumeContext()[keyEnforcement]; how != "" {
		pv.Annotations[keyEnforcement] = how
	}
	if plan.ReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		pv.Finalizers = []string{FinalizerVolume}
	}
	return pv
}

func bytesQuantity(bytes int64) *resource.Quantity {
	return resource.NewQuantity(bytes, resource.BinarySI)
}
