package provisioner

import volumehelper "k8s.io/component-helpers/storage/volume"

// Names that other components of Kubernetes agree on.
const (
	annSelectedNode  = volumehelper.AnnSelectedNode
	annProvisionedBy = volumehelper.AnnDynamicallyProvisioned

	// FinalizerVolume stays on a PersistentVolume with reclaim policy Delete from its creation until its volume is
	// deleted from the driver (KEP-2644). It is the finalizer that upstream's external-provisioner uses.
	FinalizerVolume = volumehelper.PVDeletionProtectionFinalizer

	// attrIdentity marks, in a PersistentVolume's volumeAttributes, which provisioner made it.
	attrIdentity = "storage.kubernetes.io/csiProvisionerIdentity"

	// paramPrefix is the reserved namespace of StorageClass parameters that are meant for the provisioner and not for
	// the driver.
	paramPrefix = "csi.storage.k8s.io/"
	paramFSType = paramPrefix + "fstype"

	// Parameters passed to the driver so that it can label what it makes (--extra-create-metadata upstream).
	paramClaimName      = paramPrefix + "pvc/name"
	paramClaimNamespace = paramPrefix + "pvc/namespace"
	paramVolumeName     = paramPrefix + "pv/name"

	volumeNamePrefix = "pvc-"

	// keyEnforcement, in a volume's context, says how the driver enforces the volume's size. It is shown as an annotation
	// of the PersistentVolume too.
	keyEnforcement  = "orlop.io/capacity-enforcement"
	enforcementNone = "none"
)

// Reasons of the Events this package writes.
const (
	ReasonProvisioning          = "Provisioning"
	ReasonProvisioningFailed    = "ProvisioningFailed"
	ReasonProvisioningSucceeded = "ProvisioningSucceeded"
	ReasonVolumeFailedDelete    = "VolumeFailedDelete"
	ReasonVolumeNodeGone        = "VolumeNodeGone"
	ReasonSelectedNodeGone      = "SelectedNodeGone"
	ReasonWaitForNode           = "WaitForNode"
	ReasonCapacityNotEnforced   = "CapacityNotEnforced"
)
