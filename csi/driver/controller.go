package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/orlop-io/orlop/csi/volume"
)

// CreateVolume implements csi.ControllerServer.
func (d *Driver) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := required("name", req.GetName()); err != nil {
		return nil, err
	}
	if req.GetVolumeContentSource() != nil {
		return nil, fmt.Errorf("%w: %s cannot make a volume from a snapshot or another volume", volume.ErrInvalid, d.info.Name)
	}
	if len(req.GetMutableParameters()) > 0 {
		return nil, fmt.Errorf("%w: %s knows no mutable parameters", volume.ErrInvalid, d.info.Name)
	}
	caps, err := capabilities(req.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if err := d.reachable(req.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	v, err := d.volumes.Create(ctx, volume.Spec{
		Name:         req.GetName(),
		Size:         sizeRange(req.GetCapacityRange()),
		Capabilities: caps,
		Parameters:   req.GetParameters(),
	})
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: d.volume(v)}, nil
}

// reachable fails with volume.ErrExhausted when a volume of this node is not where it is asked to be.
func (d *Driver) reachable(req *csi.TopologyRequirement) error {
	requisite := req.GetRequisite()
	if len(requisite) == 0 || slices.ContainsFunc(requisite, d.here) {
		return nil
	}
	return fmt.Errorf("%w: volumes of %s can be reached from node %q alone, which is not among those asked for",
		volume.ErrExhausted, d.info.Name, d.info.NodeID)
}

// here reports whether a topology names this node. Segments with foreign keys are other drivers'.
func (d *Driver) here(t *csi.Topology) bool {
	return t.GetSegments()[d.info.TopologyKey] == d.info.NodeID
}

func (d *Driver) volume(v volume.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.ID.String(),
		CapacityBytes:      v.Capacity,
		VolumeContext:      v.Context,
		AccessibleTopology: []*csi.Topology{d.info.topology()},
	}
}

// DeleteVolume implements csi.ControllerServer.
func (d *Driver) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := volumeID(req.GetVolumeId())
	if err == nil {
		err = d.volumes.Delete(ctx, id)
	}
	// What is no ID of this driver names no volume, and deleting nothing succeeds.
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (d *Driver) ValidateVolumeCapabilities(
	ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	id, err := volumeID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, required("volume_capabilities", "")
	}
	v, err := d.volumes.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(req.GetVolumeCapabilities())
	if err == nil {
		err = d.volumes.CheckVolume(v, req.GetParameters(), caps)
	}
	if errors.Is(err, volume.ErrInvalid) {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
			VolumeContext:      req.GetVolumeContext(),
			VolumeCapabilities: req.GetVolumeCapabilities(),
			Parameters:         req.GetParameters(),
		},
	}, nil
}

// GetCapacity implements csi.ControllerServer.
func (d *Driver) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if t := req.GetAccessibleTopology(); t != nil && !d.here(t) {
		return &csi.GetCapacityResponse{}, nil
	}
	var caps []volume.Capability
	if len(req.GetVolumeCapabilities()) > 0 {
		var err error
		if caps, err = capabilities(req.GetVolumeCapabilities()); err != nil {
			return &csi.GetCapacityResponse{}, nil //nolint:nilerr // no volume can have them, so there is no room for one
		}
	}
	c, err := d.volumes.Capacity(ctx, req.GetParameters(), caps)
	if err != nil {
		return nil, err
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: c.Available,
		MaximumVolumeSize: wrapperspb.Int64(c.Maximum),
		MinimumVolumeSize: wrapperspb.Int64(c.Minimum),
	}, nil
}

// ListVolumes implements csi.ControllerServer. The token that continues a list is the ID of the last volume that was
// given, so that volumes may come and go between two pages.
func (d *Driver) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if req.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("%w: max_entries is negative", volume.ErrInvalid)
	}
	token := req.GetStartingToken()
	if token != "" {
		if _, err := volume.ParseID(token); err != nil {
			return nil, status.Errorf(codes.Aborted, "starting_token %q was not given by this driver; list from the start", token)
		}
	}
	all, err := d.volumes.List(ctx)
	if err != nil {
		return nil, err
	}
	from, exact := slices.BinarySearchFunc(all, token, func(v volume.Volume, token string) int {
		return strings.Compare(v.ID.String(), token)
	})
	if exact {
		from++
	}
	resp := &csi.ListVolumesResponse{}
	for i, v := range all[from:] {
		if n := int(req.GetMaxEntries()); n > 0 && i == n {
			resp.NextToken = all[from+i-1].ID.String()
			break
		}
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: d.volume(v)})
	}
	return resp, nil
}

// ControllerGetCapabilities implements csi.ControllerServer.
func (d *Driver) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}
