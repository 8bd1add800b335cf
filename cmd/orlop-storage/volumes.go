package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/provisioner"
	"github.com/orlop-io/orlop/pvcontroller"
)

// volumeControllers bind claims to volumes, and choose nodes for claims that do not wait for a pod.
type volumeControllers struct {
	workers  int
	informer informers.SharedInformerFactory
	binder   *pvcontroller.Controller
	leader   *provisioner.Leader
	cancel   context.CancelFunc
}

// newVolumeControllers begins to read claims and volumes; stop ends that. What is read serves the work and outlives ctx,
// as the work may.
func newVolumeControllers(ctx context.Context, client kubernetes.Interface, recorder record.EventRecorder,
	registry prometheus.Registerer, workers int,
) (*volumeControllers, error) {
	observe, err := registerVolumeMetrics(registry)
	if err != nil {
		return nil, err
	}
	v := &volumeControllers{workers: workers}
	v.informer = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(pvcontroller.Transform))
	if v.binder, err = pvcontroller.New(pvcontroller.Config{
		Client: client, Informers: v.informer, Observe: observe, Logger: klog.Background().WithName("pvcontroller"),
		Recorder: recorder,
	}); err != nil {
		return nil, err
	}
	if v.leader, err = provisioner.NewLeader(provisioner.LeaderConfig{
		Client: client, Informers: v.informer, Recorder: recorder, Driver: localDriver, TopologyKey: localTopology,
		Log: klog.Background().WithName("provisioner"),
	}); err != nil {
		return nil, err
	}
	serve, cancel := context.WithCancel(context.WithoutCancel(ctx))
	v.cancel = cancel
	v.informer.StartWithContext(serve)
	return v, nil
}

// stop returns when nothing is read any more.
func (v *volumeControllers) stop() {
	v.cancel()
	v.informer.Shutdown()
}

// read waits until claims and volumes were read once; it returns false when ctx ended first.
func (v *volumeControllers) read(ctx context.Context) bool {
	for _, ok := range v.informer.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return false
		}
	}
	return true
}

// run works until ctx ends.
func (v *volumeControllers) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return v.binder.Run(ctx, v.workers) })
	group.Go(func() error { return v.leader.Run(ctx) })
	return group.Wait()
}

// registerVolumeMetrics returns what reports each reconciliation to the registry.
func registerVolumeMetrics(registry prometheus.Registerer) (func(string, time.Duration, error), error) {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "orlop_pvcontroller_sync_duration_seconds",
		Help:    "Time that reconciliations of claims and volumes took, in seconds, by queue and result (ok or error).",
		Buckets: []float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"queue", "result"})
	if err := registry.Register(took); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return func(queue string, d time.Duration, err error) {
		result := "ok"
		if err != nil {
			result = "error"
		}
		took.WithLabelValues(queue, result).Observe(d.Seconds())
	}, nil
}
