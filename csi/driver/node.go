package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/orlop-io/orlop/csi/volume"
)

// NodeStageVolume implements csi.NodeServer.
func (d *Driver) NodeStageVolume(
	ctx context.Context, req *csi.NodeStageVolumeRequest,
) (*csi.NodeStageVolumeResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := absolute("staging_target_path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	c, err := capability(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.volumes.Stage(ctx, id, req.GetStagingTargetPath(), c); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// NodeUnstageVolume implements csi.NodeServer.
func (d *Driver) NodeUnstageVolume(
	ctx context.Context, req *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := absolute("staging_target_path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.volumes.Unstage(ctx, id, req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume implements csi.NodeServer.
func (d *Driver) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := absolute("target_path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	if err := absolute("staging_target_path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	c, err := capability(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.volumes.Publish(ctx, id, volume.PublishRequest{
		Staging:    req.GetStagingTargetPath(),
		Target:     req.GetTargetPath(),
		Capability: c,
		ReadOnly:   req.GetReadonly(),
	}); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (d *Driver) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := absolute("target_path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.volumes.Unpublish(ctx, id, req.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements csi.NodeServer.
func (d *Driver) NodeGetVolumeStats(
	ctx context.Context, req *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := required("volume_path", req.GetVolumePath()); err != nil {
		return nil, err
	}
	id, err := volumeID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	s, err := d.volumes.Stats(ctx, id, req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	resp := &csi.NodeGetVolumeStatsResponse{
		Usage: []*csi.VolumeUsage{{
			Unit: csi.VolumeUsage_BYTES, Total: s.TotalBytes, Used: s.UsedBytes, Available: s.AvailableBytes,
		}},
		VolumeCondition: &csi.VolumeCondition{Abnormal: s.Abnormal != "", Message: s.Abnormal},
	}
	if s.Abnormal == "" {
		resp.VolumeCondition.Message = "the volume is mounted and usable"
	}
	if !s.Block {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{
			Unit: csi.VolumeUsage_INODES, Total: s.TotalInodes, Used: s.UsedInodes, Available: s.FreeInodes,
		})
	}
	return resp, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_VOLUME_CONDITION,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodeGetInfo implements csi.NodeServer. No limit is given for the number of volumes: what bounds it is the room.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.info.NodeID, AccessibleTopology: d.info.topology()}, nil
}
