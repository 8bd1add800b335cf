package pvcontroller

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
)

// claimAction is what is to be done about a claim.
type claimAction string

const (
	actNothing         claimAction = "nothing"          // leave the claim as it is
	actBind            claimAction = "bind"             // bind to the volume, or finish a bind that was begun
	actPending         claimAction = "pending"          // wait, saying why
	actLost            claimAction = "lost"             // the claim's volume is gone or another's
	actAssignClass     claimAction = "assign class"     // give it the default class
	actRequestVolume   claimAction = "request volume"   // ask a foreign provisioner, by annotation
	actAwaitVolume     claimAction = "await volume"     // our own provisioner finds the claim by itself
	actAwaitConsumer   claimAction = "await consumer"   // the scheduler comes first
	actProvisionFailed claimAction = "provision failed" // no volume can be made, saying why
)

// claimDecision is an action and what its event says. The reason is empty where there is nothing to tell.
type claimDecision struct {
	action  claimAction
	reason  string
	message string
}

// decideNamed says what to do about an unbound claim whose spec names a volume; pv is nil if there is none of that
// name.
func decideNamed(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) claimDecision {
	switch {
	case pv == nil:
		return claimDecision{actPending, reasonFailedBinding, fmt.Sprintf(
			"volume %q, which this claim names, does not exist: create it, or make the claim anew with another volumeName",
			claim.Spec.VolumeName)}
	case pv.Spec.ClaimRef == nil && claim.DeletionTimestamp != nil:
		return claimDecision{action: actNothing} // Nothing new is begun for a claim on its way out.
	case pv.Spec.ClaimRef == nil:
		if err := fitsNamed(pv, claim); err != nil {
			return claimDecision{actPending, reasonVolumeMismatch,
				fmt.Sprintf("cannot bind to the requested volume %q: %v", pv.Name, err)}
		}
		return claimDecision{action: actBind}
	case storagehelpers.IsVolumeBoundToClaim(pv, claim):
		return claimDecision{action: actBind}
	default:
		return claimDecision{actPending, reasonFailedBinding, fmt.Sprintf(
			"volume %q, which this claim names, belongs to claim %q already: choose another volume", pv.Name, claimKey(pv))}
	}
}

// decideBound says what to do about a claim that was bound before; pv is the volume it names, nil if there is none.
func decideBound(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) claimDecision {
	switch {
	case claim.Spec.VolumeName == "":
		return claimDecision{actLost, reasonClaimLost,
			"the claim was bound and no longer names its PersistentVolume: its data cannot be found from here"}
	case pv == nil:
		return claimDecision{actLost, reasonClaimLost, fmt.Sprintf("PersistentVolume %q, which the claim was bound to, "+
			"is gone: create it again from the storage behind it, or restore the data from a backup", claim.Spec.VolumeName)}
	case pv.Spec.ClaimRef == nil, storagehelpers.IsVolumeBoundToClaim(pv, claim):
		// Either the volume came unbound (somebody edited it), or some write of the bind is still missing.
		return claimDecision{action: actBind}
	default:
		return claimDecision{actLost, reasonClaimMisbound, fmt.Sprintf(
			"PersistentVolume %q belongs to another claim, %q (UID %s): this claim must not use it",
			pv.Name, claimKey(pv), pv.Spec.ClaimRef.UID)}
	}
}

// unmatched is what was observed about an unbound claim for which there is no volume.
type unmatched struct {
	claim        *corev1.PersistentVolumeClaim
	class        *storagev1.StorageClass // the claim's class, nil if it has none or that does not exist
	defaultClass *storagev1.StorageClass // nil if there is none
	own          func(provisioner string) bool
}

// decideUnmatched says what to do about an unbound claim for which there is no volume.
func decideUnmatched(u unmatched) claimDecision {
	className := storagehelpers.GetPersistentVolumeClaimClass(u.claim)
	switch {
	case !storagehelpers.PersistentVolumeClaimHasClass(u.claim) && u.defaultClass != nil:
		return claimDecision{action: actAssignClass}
	case className == "":
		return claimDecision{actPending, reasonFailedBinding,
			"no persistent volumes available for this claim and no storage class is set"}
	case u.class == nil:
		return claimDecision{actProvisionFailed, reasonProvisioningFailed, fmt.Sprintf(
			"storage class %q does not exist, and no volume of that class is available: create the class, "+
				"or make the claim anew with one that `kubectl get storageclass` lists", className)}
	case isDelayed(u.class) && !storagehelpers.IsDelayBindingProvisioning(u.claim):
		return claimDecision{action: actAwaitConsumer}
	case u.class.Provisioner == storagehelpers.NotSupportedProvisioner:
		wants := u.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return claimDecision{actProvisionFailed, reasonProvisioningFailed, fmt.Sprintf(
			"no available PersistentVolume suits this claim, and storage class %q makes none (provisioner %s): create one "+
				"with storageClassName %q, at least %s and accessModes %v",
			className, u.class.Provisioner, className, wants.String(), u.claim.Spec.AccessModes)}
	}
	provisioner, err := externalProvisioner(u.class.Provisioner)
	switch {
	case err != nil:
		return claimDecision{actProvisionFailed, reasonProvisioningFailed,
			fmt.Sprintf("storage class %q: %v", className, err)}
	case u.own(provisioner):
		return claimDecision{action: actAwaitVolume}
	default:
		return claimDecision{actRequestVolume, reasonExternalProvisioning, fmt.Sprintf(
			"waiting for provisioner %q to create a volume, or for an administrator to create one; "+
				"if this lasts, check that the provisioner runs", provisioner)}
	}
}

func isDelayed(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil &&
		*class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// volumeAction is what is to be done about a volume.
type volumeAction string

const (
	volumeAvailable volumeAction = "available"  // nobody's, or reserved by name: offer it
	volumeBinding   volumeAction = "binding"    // its claim has to finish the bind
	volumeUnfit     volumeAction = "unfit"      // its claim cannot use it
	volumeBound     volumeAction = "bound"      // both sides agree
	volumeUnbind    volumeAction = "unbind"     // its claim has another volume: let go
	volumeReleased  volumeAction = "released"   // its claim is gone: the reclaim policy decides
	volumeLeftOver  volumeAction = "left over"  // made for a claim that has another volume: reclaim
	volumeRemoved   volumeAction = "being gone" // nobody's and being deleted: leave it
)

// decideVolume says what to do about a volume. claim is the one with the UID in the volume's claimRef, nil if that is
// gone or if the claimRef has no UID yet.
func decideVolume(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) volumeAction {
	ref := pv.Spec.ClaimRef
	switch {
	case ref == nil && pv.DeletionTimestamp != nil:
		return volumeRemoved
	case ref == nil, ref.UID == "":
		return volumeAvailable
	case claim == nil:
		return volumeReleased
	case claim.Spec.VolumeName == pv.Name:
		return volumeBound
	case claim.Spec.VolumeName == "":
		if fits(pv, claim) != nil {
			return volumeUnfit
		}
		return volumeBinding
	case metav1.HasAnnotation(pv.ObjectMeta, storagehelpers.AnnDynamicallyProvisioned) &&
		pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return volumeLeftOver
	default:
		return volumeUnbind
	}
}

// migrated maps upstream's former in-tree provisioners to the CSI drivers that took over from them.
var migrated = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

var errNoInTree = errors.New("its provisioner is built into no component any more: use a class of a CSI driver")

// externalProvisioner returns the name under which a class's provisioner looks for its claims.
func externalProvisioner(provisioner string) (string, error) {
	if csi, ok := migrated[provisioner]; ok {
		return csi, nil
	}
	if isInTree(provisioner) {
		return "", fmt.Errorf("%q: %w", provisioner, errNoInTree)
	}
	return provisioner, nil
}
