package driver

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

// MaxDuration bounds every call, also one whose caller sets no deadline: no work outlives its purpose.
const MaxDuration = 2 * time.Minute

// Metrics counts and times calls. Register it with a prometheus registry.
type Metrics struct {
	driver  string
	seconds *prometheus.HistogramVec
}

// NewMetrics returns metrics for the driver of that name. The name and the labels are those that CSI plugins share
// (csi-lib-utils/metrics), so that dashboards fit.
func NewMetrics(driver string) *Metrics {
	return &Metrics{driver: driver, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "csi",
		Subsystem: "plugin",
		Name:      "operations_seconds",
		Help:      "Duration of CSI calls in seconds, by method and gRPC status code.",
		Buckets:   []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
	}, []string{"driver_name", "method_name", "grpc_status_code"})}
}

// Of returns metrics for another driver of the same program. They are collected with m, and not to be registered.
func (m *Metrics) Of(driver string) *Metrics { return &Metrics{driver: driver, seconds: m.seconds} }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { m.seconds.Describe(ch) }

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) { m.seconds.Collect(ch) }

func (m *Metrics) interceptor(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	start := time.Now()
	resp, err := next(ctx, req)
	m.seconds.WithLabelValues(m.driver, info.FullMethod, status.Code(err).String()).Observe(time.Since(start).Seconds())
	return resp, err
}

// requests numbers the calls of this process.
var requests atomic.Uint64

// withRequestID gives each call a number that all its log lines carry.
func withRequestID(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	log := klog.FromContext(ctx).WithValues("request", requests.Add(1), "method", info.FullMethod)
	return next(klog.NewContext(ctx, log), req)
}

// quiet are the methods that are called all the time and change nothing; a success of theirs is logged at level 5.
var quiet = map[string]bool{
	"/csi.v1.Identity/Probe": true, "/csi.v1.Identity/GetPluginInfo": true, "/csi.v1.Identity/GetPluginCapabilities": true,
	"/csi.v1.Node/NodeGetCapabilities": true, "/csi.v1.Node/NodeGetVolumeStats": true, "/csi.v1.Node/NodeGetInfo": true,
	"/csi.v1.Controller/ControllerGetCapabilities": true, "/csi.v1.Controller/GetCapacity": true,
	"/csi.v1.Controller/ListVolumes": true,
}

// logged writes one line a call, without the fields that the CSI specification marks as secret.
func logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	log := klog.FromContext(ctx)
	start := time.Now()
	resp, err := next(ctx, req)
	log = log.WithValues("req", protosanitizer.StripSecrets(withoutTokens(req)), "took", time.Since(start))
	switch {
	case status.Code(err) == codes.Internal:
		log.Error(err, "CSI call failed")
	case err != nil:
		log.Info("CSI call refused", "code", status.Code(err), "reason", status.Convert(err).Message())
	case quiet[info.FullMethod]:
		log.V(5).Info("CSI call served")
	default:
		log.V(2).Info("CSI call served")
	}
	return resp, err
}

// tokensKey is where a kubelet puts the pod's tokens in the volume context, which the CSI specification does not mark as
// secret, for a CSIDriver that does not say serviceAccountTokenInSecrets.
const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// withoutTokens returns the request, or a copy of it whose volume context has no token.
func withoutTokens(req any) any {
	publish, ok := req.(*csi.NodePublishVolumeRequest)
	if !ok || publish.GetVolumeContext()[tokensKey] == "" {
		return req
	}
	clean, ok := proto.Clone(publish).(*csi.NodePublishVolumeRequest)
	if !ok {
		return nil
	}
	clean.VolumeContext[tokensKey] = "***stripped***"
	return clean
}

func withDeadline(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, MaxDuration)
	defer cancel()
	return next(ctx, req)
}

func translated(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

// Server serves a driver on one listener.
type Server struct {
	grpc *grpc.Server
}

// Services are the CSI services of one driver.
type Services interface {
	// Register adds them to a gRPC server.
	Register(grpc.ServiceRegistrar)
}

var _ Services = (*Driver)(nil)

// NewServer returns a server whose calls pass, from the outside in: the metrics, a request ID, the log, a deadline and
// the translation of errors.
func NewServer(d Services, m *Metrics) *Server {
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(m.interceptor, withRequestID, logged, withDeadline, translated))
	d.Register(s)
	return &Server{grpc: s}
}

// stopGrace is how long calls under way may take when the server stops; then their contexts end.
const stopGrace = 5 * time.Second

// Serve serves until ctx ends, then lets the calls under way finish, for a while. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		hard := time.AfterFunc(stopGrace, s.grpc.Stop)
		defer hard.Stop()
		s.grpc.GracefulStop()
	})
	err := s.grpc.Serve(l)
	if !stop() {
		<-stopped
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve CSI at %s: %w", l.Addr(), err)
	}
	return nil
}
