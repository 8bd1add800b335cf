package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/csi/volume"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// fake is a volume.Service that records what it is asked and answers what it is told to.
type fake struct {
	volume.Service
	err      error
	spec     volume.Spec
	publish  volume.PublishRequest
	deadline bool
	volumes  []volume.Volume
}

func (f *fake) Create(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	f.spec = spec
	_, f.deadline = ctx.Deadline()
	return volume.Volume{ID: volume.NewID(volume.KindLoop, spec.Name), Capacity: 7}, f.err
}
func (f *fake) Delete(context.Context, volume.ID) error            { return f.err }
func (f *fake) List(context.Context) ([]volume.Volume, error)      { return f.volumes, f.err }
func (f *fake) Unstage(context.Context, volume.ID, string) error   { return f.err }
func (f *fake) Unpublish(context.Context, volume.ID, string) error { return f.err }
func (f *fake) Publish(_ context.Context, _ volume.ID, r volume.PublishRequest) error {
	f.publish = r
	return f.err
}
func (f *fake) Capacity(context.Context, map[string]string, []volume.Capability) (volume.Capacity, error) {
	return volume.Capacity{Available: 3, Maximum: 2, Minimum: 1}, f.err
}

// serve serves a driver over f and returns a connection to it and its metrics.
func serve(t *testing.T, f *fake) (*grpc.ClientConn, *prometheus.Registry) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	info := Info{Name: "test.csi", Version: "v1", NodeID: "here", TopologyKey: "test/node"}
	m := NewMetrics(info.Name)
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- NewServer(New(info, f, func() error { return f.err }), m).Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := conn.Close()
		cancel()
		if err := errors.Join(err, <-done); err != nil {
			t.Error(err)
		}
	})
	return conn, registry
}

func writer() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func createRequest() *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{Name: "a", VolumeCapabilities: []*csi.VolumeCapability{writer()}}
}

// Every error has its code, however deep it is wrapped, and over the wire too.
func TestErrorCodes(t *testing.T) {
	f := &fake{}
	conn, _ := serve(t, f)
	client := csi.NewControllerClient(conn)
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{volume.ErrBusy, codes.Aborted},
		{volume.ErrInvalid, codes.InvalidArgument},
		{volume.ErrNotFound, codes.NotFound},
		{volume.ErrIncompatible, codes.AlreadyExists},
		{volume.ErrInUse, codes.FailedPrecondition},
		{volume.ErrNotStaged, codes.FailedPrecondition},
		{volume.ErrOutOfRange, codes.OutOfRange},
		{volume.ErrExhausted, codes.ResourceExhausted},
		{volume.ErrForbidden, codes.PermissionDenied},
		{volume.ErrNotReady, codes.FailedPrecondition},
		{fmt.Errorf("%w: no answer", volume.ErrUnavailable), codes.Unavailable},
		{errors.Join(volume.ErrInvalid, context.Canceled), codes.Canceled},
		{io.ErrUnexpectedEOF, codes.Internal},
		{status.Error(codes.Unavailable, "x"), codes.Unavailable},
	} {
		f.err = c.err
		if f.err != nil && status.Code(c.err) == codes.Unknown {
			f.err = fmt.Errorf("outer: %w", errors.Join(io.EOF, c.err))
		}
		_, err := client.CreateVolume(t.Context(), createRequest())
		if status.Code(err) != c.want {
			t.Errorf("%v became %v, want %v", f.err, status.Code(err), c.want)
		}
		if err != nil && c.want != codes.Unavailable && !strings.Contains(err.Error(), "outer") {
			t.Errorf("the message is lost: %v", err)
		}
	}
}

func TestCreateVolume(t *testing.T) {
	f := &fake{}
	conn, registry := serve(t, f)
	client := csi.NewControllerClient(conn)
	req := createRequest()
	req.CapacityRange = &csi.CapacityRange{RequiredBytes: 5, LimitBytes: 9}
	req.Parameters = map[string]string{"backend": "dir"}
	req.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{
		{Segments: map[string]string{"test/node": "there"}}, {Segments: map[string]string{"test/node": "here", "zone": "z"}},
	}}
	resp, err := client.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	v := resp.GetVolume()
	if v.GetVolumeId() != volume.NewID(volume.KindLoop, "a").String() || v.GetCapacityBytes() != 7 ||
		v.GetAccessibleTopology()[0].GetSegments()["test/node"] != "here" {
		t.Errorf("the answer is %v", v)
	}
	if f.spec.Size != (volume.SizeRange{Required: 5, Limit: 9}) || f.spec.Parameters["backend"] != "dir" ||
		f.spec.Capabilities[0].Mode != volume.SingleNodeWriter {
		t.Errorf("the request became %+v", f.spec)
	}
	if !f.deadline {
		t.Error("a call without a deadline was given none")
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "csi_plugin_operations_seconds" {
		t.Errorf("metrics: %v, %v", families, err)
	}
}

func TestCreateVolumeRefuses(t *testing.T) {
	conn, _ := serve(t, &fake{})
	client := csi.NewControllerClient(conn)
	for name, c := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		want   codes.Code
		says   string
	}{
		"no name":         {func(r *csi.CreateVolumeRequest) { r.Name = "" }, codes.InvalidArgument, "name"},
		"no capabilities": {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, codes.InvalidArgument, "capabilities"},
		"no access type": {
			func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessType = nil }, codes.InvalidArgument, "access_type",
		},
		"many nodes": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		}, codes.InvalidArgument, "ReadWriteOnce"},
		"a mount group": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].GetMount().VolumeMountGroup = "7"
		}, codes.InvalidArgument, "volume_mount_group"},
		"a source": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = &csi.VolumeContentSource{}
		}, codes.InvalidArgument, "snapshot"},
		"mutable parameters": {func(r *csi.CreateVolumeRequest) {
			r.MutableParameters = map[string]string{"a": "b"}
		}, codes.InvalidArgument, "mutable"},
		"elsewhere": {func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{
				Requisite: []*csi.Topology{{Segments: map[string]string{"test/node": "there"}}},
			}
		}, codes.ResourceExhausted, "here"},
	} {
		req := createRequest()
		c.change(req)
		_, err := client.CreateVolume(t.Context(), req)
		if status.Code(err) != c.want || !strings.Contains(status.Convert(err).Message(), c.says) {
			t.Errorf("%s: %v, want %v that says %q", name, err, c.want, c.says)
		}
	}
}

// A volume ID that is no ID names no volume: to delete it is done, to use it fails.
func TestForeignVolumeID(t *testing.T) {
	conn, _ := serve(t, &fake{})
	if _, err := csi.NewControllerClient(conn).DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "../x"}); err != nil {
		t.Error(err)
	}
	_, err := csi.NewNodeClient(conn).NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: "../x", TargetPath: "/t", StagingTargetPath: "/s", VolumeCapability: writer(),
	})
	if status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	_, err = csi.NewNodeClient(conn).NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{
		VolumeId: volume.NewID(volume.KindDir, "a").String(), TargetPath: "relative",
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestGetCapacity(t *testing.T) {
	conn, _ := serve(t, &fake{})
	client := csi.NewControllerClient(conn)
	resp, err := client.GetCapacity(t.Context(), &csi.GetCapacityRequest{
		AccessibleTopology: &csi.Topology{Segments: map[string]string{"test/node": "here"}},
	})
	if err != nil || resp.GetAvailableCapacity() != 3 || resp.GetMaximumVolumeSize().GetValue() != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err = client.GetCapacity(t.Context(), &csi.GetCapacityRequest{
		AccessibleTopology: &csi.Topology{Segments: map[string]string{"test/node": "there"}},
	})
	if err != nil || resp.GetAvailableCapacity() != 0 {
		t.Errorf("another node's: %v, %v", resp, err)
	}
}

// Pages tile the list, also when volumes come and go in between.
func TestListVolumesPages(t *testing.T) {
	f := &fake{}
	for i := range 10 {
		f.volumes = append(f.volumes, volume.Volume{ID: volume.NewID(volume.KindLoop, fmt.Sprint(i))})
	}
	slices.SortFunc(f.volumes, func(a, b volume.Volume) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	all := slices.Clone(f.volumes)
	conn, _ := serve(t, f)
	client := csi.NewControllerClient(conn)
	var got []string
	token := ""
	for {
		resp, err := client.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 3, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEntries() {
			got = append(got, e.GetVolume().GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			break
		}
		// The volume that the token names is deleted.
		f.volumes = slices.DeleteFunc(f.volumes, func(v volume.Volume) bool { return v.ID.String() == token })
	}
	var want []string
	for _, v := range all {
		want = append(want, v.ID.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages hold %v, want %v", got, want)
	}
	if _, err := client.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestProbe(t *testing.T) {
	f := &fake{}
	conn, _ := serve(t, f)
	client := csi.NewIdentityClient(conn)
	if resp, err := client.Probe(t.Context(), &csi.ProbeRequest{}); err != nil || !resp.GetReady().GetValue() {
		t.Errorf("%v, %v", resp, err)
	}
	f.err = io.EOF
	if _, err := client.Probe(t.Context(), &csi.ProbeRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

// Secrets of a request never reach the log.
func TestLogRedacts(t *testing.T) {
	var out strings.Builder
	klog.LogToStderr(false)
	klog.SetOutput(&out)
	t.Cleanup(func() {
		klog.Flush()
		klog.LogToStderr(true)
	})
	conn, _ := serve(t, &fake{err: volume.ErrInvalid})
	req := createRequest()
	req.Secrets = map[string]string{"password": "hunter2"}
	if _, err := csi.NewControllerClient(conn).CreateVolume(t.Context(), req); err == nil {
		t.Error("the call succeeded")
	}
	// A kubelet may put tokens where the specification knows no secret.
	publish := &csi.NodePublishVolumeRequest{VolumeContext: map[string]string{tokensKey: "hunter2", "kind": "shown"}}
	if _, err := csi.NewNodeClient(conn).NodePublishVolume(t.Context(), publish); err == nil {
		t.Error("the call succeeded")
	}
	klog.Flush()
	for _, want := range []string{"CreateVolume", "NodePublishVolume", "shown"} {
		if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "hunter2") {
			t.Errorf("the log is %s", out.String())
		}
	}
}
