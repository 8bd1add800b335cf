// Package csifake is a CSI driver for tests of a provisioner: a real gRPC server on a unix socket whose volumes are
// entries of a map. It is idempotent by name as the CSI specification asks, counts what it is asked, and can be told to
// fail or to wait before or after it has done its work. It outlives its server, so a test can restart the driver.
package csifake

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Call is one request that reached the driver. Name is the volume's name for CreateVolume, its ID for DeleteVolume.
type Call struct{ Method, Name string }

// Hook is called around the work of CreateVolume and DeleteVolume; its error becomes the answer. It may block until the
// context ends.
type Hook func(ctx context.Context, call Call) error

// Driver is the fake. Its methods are safe for concurrent use.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	name     string
	segments map[string]string

	mu            sync.Mutex
	volumes       map[string]*csi.CreateVolumeRequest
	calls         []Call
	before, after Hook
	shrink        int64
	free          int64
}

// New makes a driver with topology: its volumes are accessible from the segments alone.
func New(name string, segments map[string]string) *Driver {
	none := func(context.Context, Call) error { return nil }
	return &Driver{
		name: name, segments: segments, volumes: make(map[string]*csi.CreateVolumeRequest), before: none, after: none,
	}
}

// Serve serves the driver on a unix socket until the returned function is called, which cuts running calls off and
// leaves no goroutine.
func (d *Driver) Serve(socket string) (stop func(), err error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The error is ErrServerStopped or the listener's end, both of stop's making.
		_ = server.Serve(listener)
	}()
	return func() {
		server.Stop()
		<-done
	}, nil
}

// Dial connects to a driver on a unix socket.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Before sets the hook that runs before the work, and After the one that runs after it. Nil takes a hook away.
func (d *Driver) Before(hook Hook) { d.set(&d.before, hook) }

// After is described at Before.
func (d *Driver) After(hook Hook) { d.set(&d.after, hook) }

// SetFree sets what GetCapacity answers, in bytes. It has no effect on CreateVolume.
func (d *Driver) SetFree(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = bytes
}

// GetCapacity implements csi.ControllerServer.
func (d *Driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &csi.GetCapacityResponse{AvailableCapacity: d.free}, nil
}

// Shrink makes the driver answer with that many bytes fewer than requested.
func (d *Driver) Shrink(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shrink = bytes
}

func (d *Driver) set(to *Hook, hook Hook) {
	if hook == nil {
		hook = func(context.Context, Call) error { return nil }
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	*to = hook
}

// Volumes returns the names of the volumes that exist, sorted.
func (d *Driver) Volumes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.volumes))
}

// Request returns the request that a volume was made by, or nil.
func (d *Driver) Request(name string) *csi.CreateVolumeRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.volumes[name]
}

// Count returns how many calls of a method have come.
func (d *Driver) Count(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.calls {
		if c.Method == method {
			n++
		}
	}
	return n
}

// do runs one call with its hooks.
func (d *Driver) do(ctx context.Context, call Call, work func() error) error {
	d.mu.Lock()
	d.calls = append(d.calls, call)
	before, after := d.before, d.after
	d.mu.Unlock()
	if err := before(ctx, call); err != nil {
		return err
	}
	d.mu.Lock()
	err := work()
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return after(ctx, call)
}

// CreateVolume implements csi.ControllerServer.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	var size int64
	err := d.do(ctx, Call{"CreateVolume", r.GetName()}, func() error {
		size = r.GetCapacityRange().GetRequiredBytes() - d.shrink
		if old, found := d.volumes[r.GetName()]; found && !proto.Equal(old, r) {
			return status.Errorf(codes.AlreadyExists, "volume %q exists and is different", r.GetName())
		}
		d.volumes[r.GetName()] = r
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:           id(r.GetName()),
		CapacityBytes:      size,
		AccessibleTopology: []*csi.Topology{{Segments: d.segments}},
	}}, nil
}

// DeleteVolume implements csi.ControllerServer.
func (d *Driver) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	err := d.do(ctx, Call{"DeleteVolume", r.GetVolumeId()}, func() error {
		maps.DeleteFunc(d.volumes, func(name string, _ *csi.CreateVolumeRequest) bool { return id(name) == r.GetVolumeId() })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func id(name string) string { return fmt.Sprintf("id-of-%s", name) }

// ControllerGetCapabilities implements csi.ControllerServer.
func (d *Driver) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	rpc := func(t csi.ControllerServiceCapability_RPC_Type) *csi.ControllerServiceCapability {
		return &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: t},
		}}
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{
		rpc(csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME),
		rpc(csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER),
		rpc(csi.ControllerServiceCapability_RPC_GET_CAPACITY),
	}}, nil
}

// GetPluginInfo implements csi.IdentityServer.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: "test"}, nil
}

// GetPluginCapabilities implements csi.IdentityServer.
func (d *Driver) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
			Service: &csi.PluginCapability_Service{Type: t},
		}}
	}
	capabilities := []*csi.PluginCapability{service(csi.PluginCapability_Service_CONTROLLER_SERVICE)}
	if d.segments != nil {
		capabilities = append(capabilities, service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS))
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: capabilities}, nil
}

// NodeGetInfo implements csi.NodeServer.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "node", AccessibleTopology: &csi.Topology{Segments: d.segments}}, nil
}
