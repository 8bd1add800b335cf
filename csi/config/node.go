package config

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/orlop-io/orlop/configsync/action"
	csivolume "github.com/orlop-io/orlop/csi/volume"
)

// GetPluginInfo implements csi.IdentityServer.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: DriverName, VendorVersion: d.config.Version}, nil
}

// GetPluginCapabilities implements csi.IdentityServer: there is no controller, for nothing is made before it is published.
func (d *Driver) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe implements csi.IdentityServer. A driver that is open can serve, also without an API server.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// NodeGetInfo implements csi.NodeServer.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.config.NodeID}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_VOLUME_CONDITION,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// lock takes the volume's lock, for one call at a time.
func (d *Driver) lock(id string) (release func(), err error) {
	if release, err = d.locks.TryAcquire(id); err != nil {
		return nil, fmt.Errorf("volume %s: %w", shorten(id), err)
	}
	return release, nil
}

// NodePublishVolume implements csi.NodeServer. Once a volume is published at its target, publishing it again fails for
// nothing but a malformed request (see the package's comment).
func (d *Driver) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	release, err := d.lock(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	p, parseErr := publicationOf(req)
	v := d.lookup(req.GetVolumeId())
	if v == nil {
		// Parsed or not, what lies there may be in use, from a driver whose state is lost.
		mounted, err := d.mountedAt(p.Target)
		switch {
		case err != nil:
			return nil, err
		case !mounted && parseErr != nil:
			return nil, parseErr
		case !mounted:
			return &csi.NodePublishVolumeResponse{}, d.publish(ctx, p)
		case parseErr != nil:
			d.complain(ctx, p, parseErr)
			return &csi.NodePublishVolumeResponse{}, nil
		}
		v = d.add(p.ID)
		if err := v.adopt(p); err != nil {
			d.complain(ctx, p, errors.Join(err, d.remove(v)))
			return &csi.NodePublishVolumeResponse{}, nil
		}
	}
	if at := v.target(); at != filepath.Clean(req.GetTargetPath()) {
		return nil, fmt.Errorf("%w: volume %s is published at %s already", csivolume.ErrIncompatible, shorten(req.GetVolumeId()), at)
	}
	v.republish(ctx, p, parseErr)
	return &csi.NodePublishVolumeResponse{}, nil
}

// publish publishes a volume for the first time. Where it fails, nothing is left of it.
func (d *Driver) publish(ctx context.Context, p publication) (err error) {
	if m, err := d.host.MountAt(p.Target); err != nil {
		return err
	} else if m != nil {
		return fmt.Errorf("%w: something else (%s) is mounted at %s", csivolume.ErrInUse, m.FSType, p.Target)
	}
	if err := d.state.write(p.record); err != nil {
		return err
	}
	v := d.add(p.ID)
	if err := v.publish(ctx, p); err != nil {
		// What is left of an attempt that was killed in the middle has to go as well.
		return errors.Join(err, d.unpublish(context.WithoutCancel(ctx), p.ID, p.Target))
	}
	return nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (d *Driver) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, fmt.Errorf("%w: field volume_id is empty", csivolume.ErrInvalid)
	}
	if !filepath.IsAbs(req.GetTargetPath()) {
		return nil, fmt.Errorf("%w: field target_path is no absolute path: %q", csivolume.ErrInvalid, req.GetTargetPath())
	}
	release, err := d.lock(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := d.unpublish(ctx, req.GetVolumeId(), req.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// unpublish takes all of a volume away. The record goes last: until then a driver that is started anew knows the rest.
func (d *Driver) unpublish(ctx context.Context, id, target string) error {
	if v := d.lookup(id); v != nil {
		if err := d.remove(v); err != nil {
			return err
		}
		if d.config.Actions != nil {
			// A pod whose volumes are taken away has no containers any more.
			d.config.Actions.Forget(string(v.p.pod.UID))
		}
	}
	if err := action.Forget(filepath.Join(d.config.StateDir, markersDir, fileOf(id))); err != nil {
		return err
	}
	if err := d.host.Unmount("unpublish.unmount", target); err != nil {
		return err
	}
	if err := d.host.Remove("unpublish.target", target); err != nil {
		return err
	}
	return d.state.remove(ctx, id)
}

// NodeGetVolumeStats implements csi.NodeServer.
func (d *Driver) NodeGetVolumeStats(
	_ context.Context, req *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	if req.GetVolumeId() == "" || req.GetVolumePath() == "" {
		return nil, fmt.Errorf("%w: volume_id and volume_path must be given", csivolume.ErrInvalid)
	}
	v := d.lookup(req.GetVolumeId())
	if v == nil || v.target() != filepath.Clean(req.GetVolumePath()) {
		return nil, fmt.Errorf("%w: volume %s is not published at %s", csivolume.ErrNotFound, shorten(req.GetVolumeId()),
			req.GetVolumePath())
	}
	s, err := d.host.Statfs(v.target())
	if err != nil {
		return nil, err
	}
	condition := &csi.VolumeCondition{Message: "the files are those of the objects"}
	if trouble := v.troubled(); trouble != "" {
		condition = &csi.VolumeCondition{Abnormal: true, Message: trouble}
	}
	return &csi.NodeGetVolumeStatsResponse{VolumeCondition: condition, Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: s.Total, Used: s.Used, Available: s.Available},
		{Unit: csi.VolumeUsage_INODES, Total: s.Inodes, Used: s.UsedInodes, Available: s.FreeInodes},
	}}, nil
}
