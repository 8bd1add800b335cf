package provisioner

import (
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
)

// volumeCapabilities makes one capability for each access mode of the plan: the volume must serve all of them, though
// not at once (CSI spec, CreateVolumeRequest.volume_capabilities).
func volumeCapabilities(plan *Plan, singleNodeMultiWriter bool) ([]*csi.VolumeCapability, *Refusal) {
	modes := plan.AccessModes
	if len(modes) == 0 {
		return nil, refuse("spec.accessModes", "at least one access mode is required, such as %s", corev1.ReadWriteOnce)
	}
	if len(modes) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod) {
		return nil, refuse("spec.accessModes", "%s can not be combined with other access modes", corev1.ReadWriteOncePod)
	}
	var out []*csi.VolumeCapability
	var seen []csi.VolumeCapability_AccessMode_Mode
	for _, mode := range modes {
		m, ok := csiAccessMode(mode, singleNodeMultiWriter)
		if !ok {
			return nil, refuse("spec.accessModes", "access mode %q is unknown; allowed are %s, %s, %s, %s", mode,
				corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
		}
		if slices.Contains(seen, m) {
			continue
		}
		seen = append(seen, m)
		c, r := volumeCapability(plan, m)
		if r != nil {
			return nil, r
		}
		out = append(out, c)
	}
	return out, nil
}

func volumeCapability(plan *Plan, mode csi.VolumeCapability_AccessMode_Mode) (*csi.VolumeCapability, *Refusal) {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	switch plan.VolumeMode {
	case corev1.PersistentVolumeBlock:
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	case corev1.PersistentVolumeFilesystem:
		c.AccessType = &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{FsType: plan.FSType, MountFlags: plan.MountOptions},
		}
	default:
		return nil, refuse("spec.volumeMode", "volume mode %q is unknown; allowed are %s and %s", plan.VolumeMode,
			corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock)
	}
	return c, nil
}

// csiAccessMode maps a claim's access mode to CSI's. A driver with the SINGLE_NODE_MULTI_WRITER capability must be told
// how many pods may write; one without it knows SINGLE_NODE_WRITER alone and leaves ReadWriteOncePod to the scheduler
// and the kubelet, as upstream does.
func csiAccessMode(
	mode corev1.PersistentVolumeAccessMode, singleNodeMultiWriter bool,
) (csi.VolumeCapability_AccessMode_Mode, bool) {
	switch mode {
	case corev1.ReadWriteOnce:
		if singleNodeMultiWriter {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, true
		}
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, true
	case corev1.ReadWriteOncePod:
		if singleNodeMultiWriter {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, true
		}
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, true
	case corev1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, true
	case corev1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, true
	}
	return csi.VolumeCapability_AccessMode_UNKNOWN, false
}
