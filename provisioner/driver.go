package provisioner

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// driverInfo is what a driver says about itself.
type driverInfo struct {
	// topology is the node's, nil for a driver without VOLUME_ACCESSIBILITY_CONSTRAINTS.
	topology              map[string]string
	singleNodeMultiWriter bool
	getCapacity           bool
}

// driverClient makes the CSI calls: each with a deadline, each measured.
type driverClient struct {
	name    string
	conn    grpc.ClientConnInterface
	timeout time.Duration
	metrics *metrics
}

// callError is the error of a CSI call, in words fit for an Event. It unwraps to gRPC's status, whose code is protocol.
type callError struct {
	driver, operation string
	status            error
}

func (e *callError) Error() string {
	s := status.Convert(e.status)
	return fmt.Sprintf("driver %s, %s: %s: %s", e.driver, e.operation, s.Code(), s.Message())
}

func (e *callError) Unwrap() error { return e.status }

// call makes one CSI call. Its error is a *callError.
func call[T any](
	ctx context.Context, d *driverClient, operation string, f func(context.Context) (T, error),
) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	start := time.Now()
	answer, err := f(ctx)
	d.metrics.observe(operation, status.Code(err), time.Since(start))
	if status.Code(err) == codes.Unavailable {
		// The work queue already spaces the attempts; gRPC's own backoff, up to two minutes, must not make a driver
		// that is back look as if it were away.
		if c, ok := d.conn.(interface{ ResetConnectBackoff() }); ok {
			c.ResetConnectBackoff()
		}
	}
	if err != nil {
		return answer, &callError{driver: d.name, operation: operation, status: err}
	}
	return answer, nil
}

func (d *driverClient) create(ctx context.Context, request *csi.CreateVolumeRequest) (*csi.Volume, error) {
	answer, err := call(ctx, d, "CreateVolume", func(ctx context.Context) (*csi.CreateVolumeResponse, error) {
		return csi.NewControllerClient(d.conn).CreateVolume(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	if answer.GetVolume().GetVolumeId() == "" {
		return nil, &callError{d.name, "CreateVolume", status.Error(codes.Internal,
			"the answer has no volume ID, which the CSI specification requires")}
	}
	return answer.GetVolume(), nil
}

// delete deletes a volume. A volume that does not exist is success (CSI spec, DeleteVolume).
func (d *driverClient) delete(ctx context.Context, volumeID string) error {
	_, err := call(ctx, d, "DeleteVolume", func(ctx context.Context) (*csi.DeleteVolumeResponse, error) {
		return csi.NewControllerClient(d.conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volumeID})
	})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// capacity asks how much room volumes with these parameters have on the node.
func (d *driverClient) capacity(
	ctx context.Context, parameters, topology map[string]string,
) (*csi.GetCapacityResponse, error) {
	return call(ctx, d, "GetCapacity", func(ctx context.Context) (*csi.GetCapacityResponse, error) {
		return csi.NewControllerClient(d.conn).GetCapacity(ctx, &csi.GetCapacityRequest{
			Parameters: parameters, AccessibleTopology: &csi.Topology{Segments: topology},
		})
	})
}

// describe asks the driver who and where it is. An error of type *driverMismatch is for good; any other may pass.
func (d *driverClient) describe(ctx context.Context) (*driverInfo, error) {
	identity, controller := csi.NewIdentityClient(d.conn), csi.NewControllerClient(d.conn)
	plugin, err := call(ctx, d, "GetPluginInfo", func(ctx context.Context) (*csi.GetPluginInfoResponse, error) {
		return identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	})
	if err != nil {
		return nil, err
	}
	if plugin.GetName() != d.name {
		return nil, &driverMismatch{fmt.Sprintf("the socket belongs to CSI driver %q, not to %q; correct the driver "+
			"name or the endpoint", plugin.GetName(), d.name)}
	}
	services, err := call(ctx, d, "GetPluginCapabilities",
		func(ctx context.Context) (*csi.GetPluginCapabilitiesResponse, error) {
			return identity.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
		})
	if err != nil {
		return nil, err
	}
	var hasController, hasTopology bool
	for _, c := range services.GetCapabilities() {
		switch c.GetService().GetType() {
		case csi.PluginCapability_Service_CONTROLLER_SERVICE:
			hasController = true
		case csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS:
			hasTopology = true
		}
	}
	if !hasController {
		return nil, &driverMismatch{fmt.Sprintf("CSI driver %s has no controller service, so it can not make volumes",
			d.name)}
	}
	info := &driverInfo{}
	capabilities, err := call(ctx, d, "ControllerGetCapabilities",
		func(ctx context.Context) (*csi.ControllerGetCapabilitiesResponse, error) {
			return controller.ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
		})
	if err != nil {
		return nil, err
	}
	var createDelete bool
	for _, c := range capabilities.GetCapabilities() {
		switch c.GetRpc().GetType() {
		case csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME:
			createDelete = true
		case csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER:
			info.singleNodeMultiWriter = true
		case csi.ControllerServiceCapability_RPC_GET_CAPACITY:
			info.getCapacity = true
		}
	}
	if !createDelete {
		return nil, &driverMismatch{fmt.Sprintf("CSI driver %s lacks the CREATE_DELETE_VOLUME capability", d.name)}
	}
	if hasTopology {
		info.topology, err = d.nodeTopology(ctx)
	}
	return info, err
}

// nodeTopology asks the driver's node service, rather than the Node and CSINode objects, where this node is: the answer
// is the source that the kubelet fills those objects from, and needs no permission to read them.
func (d *driverClient) nodeTopology(ctx context.Context) (map[string]string, error) {
	answer, err := call(ctx, d, "NodeGetInfo", func(ctx context.Context) (*csi.NodeGetInfoResponse, error) {
		return csi.NewNodeClient(d.conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	})
	if err != nil {
		return nil, err
	}
	segments := answer.GetAccessibleTopology().GetSegments()
	if len(segments) == 0 {
		return nil, &driverMismatch{fmt.Sprintf("CSI driver %s has topology, but its NodeGetInfo names none", d.name)}
	}
	return segments, nil
}

// driverMismatch says that the driver can never serve as configured.
type driverMismatch struct{ message string }

func (e *driverMismatch) Error() string { return e.message }
