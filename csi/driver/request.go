package driver

import (
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/orlop-io/orlop/csi/volume"
)

// required reports a field that must have a value and has none.
func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%w: field %s is empty", volume.ErrInvalid, field)
	}
	return nil
}

// absolute reports a field that is no absolute path.
func absolute(field, path string) error {
	if err := required(field, path); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: field %s is no absolute path: %q", volume.ErrInvalid, field, path)
	}
	return nil
}

func volumeID(s string) (volume.ID, error) {
	if err := required("volume_id", s); err != nil {
		return volume.ID{}, err
	}
	return volume.ParseID(s)
}

func sizeRange(r *csi.CapacityRange) volume.SizeRange {
	return volume.SizeRange{Required: r.GetRequiredBytes(), Limit: r.GetLimitBytes()}
}

func capabilities(caps []*csi.VolumeCapability) ([]volume.Capability, error) {
	if len(caps) == 0 {
		return nil, required("volume_capabilities", "")
	}
	out := make([]volume.Capability, len(caps))
	for i, c := range caps {
		var err error
		if out[i], err = capability(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// accessModes are the modes a volume on a single node can have.
var accessModes = map[csi.VolumeCapability_AccessMode_Mode]volume.AccessMode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        volume.SingleNodeWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   volume.SingleNodeReaderOnly,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: volume.SingleNodeSingleWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  volume.SingleNodeMultiWriter,
}

func capability(c *csi.VolumeCapability) (volume.Capability, error) {
	if c == nil {
		return volume.Capability{}, required("volume_capability", "")
	}
	mode, ok := accessModes[c.GetAccessMode().GetMode()]
	if !ok {
		return volume.Capability{}, fmt.Errorf("%w: access mode %s: a volume on a node's own disk can be used from that "+
			"node alone; use ReadWriteOnce or ReadWriteOncePod", volume.ErrInvalid, c.GetAccessMode().GetMode())
	}
	switch c.GetAccessType().(type) {
	case *csi.VolumeCapability_Block:
		return volume.Capability{Mode: mode, Block: true}, nil
	case *csi.VolumeCapability_Mount:
		m := c.GetMount()
		if m.GetVolumeMountGroup() != "" {
			return volume.Capability{}, fmt.Errorf("%w: volume_mount_group is not supported", volume.ErrInvalid)
		}
		return volume.Capability{Mode: mode, FSType: m.GetFsType(), MountFlags: m.GetMountFlags()}, nil
	default:
		return volume.Capability{}, required("volume_capability.access_type", "")
	}
}
