package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/source"
)

const (
	workers   = 4
	retryBase = 10 * time.Millisecond
	retryMax  = time.Minute
	// DefaultWindow is how long no edit must have come, by default, before a workload is rolled.
	DefaultWindow = 3 * time.Second
	// DefaultMaxRollouts is how many rollouts run at a time by default.
	DefaultMaxRollouts = 10
)

// Config is what a controller works with. Client, Recorder and Namespace are required.
type Config struct {
	// Client reads objects and patches workloads. It should not throttle on its own side.
	Client kubernetes.Interface
	// Recorder publishes events on workloads.
	Recorder record.EventRecorder
	// Namespace holds the Secret KeySecret, which the controller makes where it is missing.
	Namespace string
	// Window is how long no edit must have come before a workload is rolled, where its annotations do not say. A
	// workload that is edited all the time is rolled after ten windows.
	Window time.Duration
	// MaxRollouts is how many rollouts run at a time; 0 for any number.
	MaxRollouts int
	// Paused has all changes wait, until a controller without it catches up with them.
	Paused bool
	// Reloader has the annotations of Stakater's Reloader understood.
	Reloader bool
	// Observe is called after each look at a workload, with how it ended. It must be safe for concurrent use. Nil observes
	// nothing.
	Observe func(kind, namespace, name string, err error)
	// Metrics takes the controller's metrics; nil for none.
	Metrics prometheus.Registerer
	// Logger takes what happened. Nothing secret is ever in it. The zero value discards.
	Logger klog.Logger
}

// Controller rolls workloads. Make it with New.
type Controller struct {
	config    Config
	client    kubernetes.Interface
	log       klog.Logger
	now       func() time.Time
	announced announcer
	metrics   *metrics

	// What follows exists while Run does.
	queue      workqueue.TypedRateLimitingInterface[identity]
	stores     map[kind]cache.Indexer
	namespaces cache.Indexer
	hasher     *hasher
	objects    *objects
	slots      *slots

	mu      sync.Mutex
	pending map[identity]*pending
	// accounted is the generation of the last roll of each workload that has had its place.
	accounted map[identity]int64
}

// pending is a change that waits to be rolled.
type pending struct {
	hash        string    // of the content that is waited for
	first, last time.Time // when the first, and the latest, edit was seen
	due         bool      // the window is over
}

// New makes a controller and registers its metrics. It starts nothing. The error names what is wrong with the config.
func New(config Config) (*Controller, error) {
	switch {
	case config.Client == nil:
		return nil, errors.New("rollout: Config.Client is missing")
	case config.Recorder == nil:
		return nil, errors.New("rollout: Config.Recorder is missing")
	case config.Namespace == "":
		return nil, errors.New("rollout: Config.Namespace is missing")
	case config.Window < 0 || config.Window > maxWindow:
		return nil, fmt.Errorf("rollout: the window is %s: give 0s to %s", config.Window, maxWindow)
	case config.MaxRollouts < 0:
		return nil, fmt.Errorf("rollout: the most rollouts at a time are %d: give 0, for any number, or more", config.MaxRollouts)
	}
	c := &Controller{config: config, client: config.Client, log: config.Logger, now: time.Now}
	var err error
	if c.metrics, err = newMetrics(config.Metrics); err != nil {
		return nil, fmt.Errorf("rollout: %w", err)
	}
	return c, nil
}

// Run rolls workloads until the context ends, and returns nil then, with all of its goroutines ended. Only one controller
// may run in a cluster at a time. A controller runs once.
func (c *Controller) Run(ctx context.Context) error {
	if c.hasher = c.obtainKey(ctx); c.hasher == nil {
		return nil // The context ended first.
	}
	c.pending, c.accounted = map[identity]*pending{}, map[identity]int64{}
	c.queue = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[identity](retryBase, retryMax),
		workqueue.TypedRateLimitingQueueConfig[identity]{Name: "rollouts"})
	defer c.queue.ShutDown()
	src := source.New(c.client, reloaderIgnore, reloaderMatch)
	defer src.Close()
	working, stop := context.WithCancel(ctx)
	c.objects = newObjects(working, src, c.hasher, c.queue.Add)
	defer c.objects.wait()
	c.slots = newSlots(c.config.MaxRollouts, c.queue.Add)
	defer c.metrics.watch(c.slots, c.objects)()

	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTransform(transform))
	defer factory.Shutdown()
	defer stop()
	synced, err := c.watch(factory)
	if err != nil {
		return fmt.Errorf("rollout: watch: %w", err)
	}
	factory.StartWithContext(working)
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // The context ended first.
	}
	c.resume()
	c.log.Info("Rolling workloads when their configuration changes", "window", c.config.Window,
		"maxRollouts", c.config.MaxRollouts, "paused", c.config.Paused)

	var wg sync.WaitGroup
	wg.Go(func() { c.objects.run(working) })
	for range workers {
		wg.Go(func() {
			for c.next(working) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	wg.Wait()
	return nil
}

// watch connects the informers to the queue.
func (c *Controller) watch(factory informers.SharedInformerFactory) ([]cache.InformerSynced, error) {
	apps := factory.Apps().V1()
	workloads := map[kind]cache.SharedIndexInformer{
		deployment:  apps.Deployments().Informer(),
		statefulSet: apps.StatefulSets().Informer(),
		daemonSet:   apps.DaemonSets().Informer(),
	}
	var synced []cache.InformerSynced
	c.stores = map[kind]cache.Indexer{}
	for k, informer := range workloads {
		c.stores[k] = informer.GetIndexer()
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { c.changed(obj) },
			UpdateFunc: func(old, obj any) {
				c.changed(old) // which may have been followed, where the new one is not
				c.changed(obj)
			},
			DeleteFunc: func(obj any) {
				if w := c.changed(obj); w != nil {
					c.announced.forget(w.UID)
				}
			},
		})
		if err != nil {
			return nil, err
		}
		synced = append(synced, registration.HasSynced)
	}
	informer := factory.Core().V1().Namespaces().Informer()
	c.namespaces = informer.GetIndexer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, obj any) { c.namespaceChanged(old, obj) },
	})
	if err != nil {
		return nil, err
	}
	return append(synced, registration.HasSynced), nil
}

// changed has a workload looked at, unless it has none of the annotations, and returns it.
func (c *Controller) changed(obj any) *workload {
	if missed, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	w, ok := obj.(*workload)
	if !ok || !w.annotated() {
		return nil
	}
	c.queue.Add(w.identity())
	return w
}

// namespaceChanged wakes the workloads of a namespace that is no longer paused, or is now.
func (c *Controller) namespaceChanged(old, obj any) {
	was, ok1 := old.(*corev1.Namespace)
	is, ok2 := obj.(*corev1.Namespace)
	if !ok1 || !ok2 || was.Annotations[AnnotationPaused] == is.Annotations[AnnotationPaused] {
		return
	}
	for _, store := range c.stores {
		workloads, err := store.ByIndex(cache.NamespaceIndex, is.Name)
		if err != nil { // The factory's informers have that index.
			c.log.Error(err, "Cannot look up the workloads of a namespace", "namespace", is.Name)
			continue
		}
		for _, w := range workloads {
			c.changed(w)
		}
	}
}

// resume takes over the rollouts that a controller before this one began.
func (c *Controller) resume() {
	for _, store := range c.stores {
		for _, obj := range store.List() {
			if w, ok := obj.(*workload); ok {
				c.account(w)
			}
		}
	}
}

// next takes one workload from the queue and looks at it. It is false when the queue is shut down.
func (c *Controller) next(ctx context.Context) bool {
	id, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(id)
	if ctx.Err() != nil {
		return true // Drain what is left.
	}
	err := c.sync(ctx, id)
	if c.config.Observe != nil {
		c.config.Observe(string(id.kind), id.namespace, id.name, err)
	}
	switch {
	case err == nil:
		c.queue.Forget(id)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err):
		c.log.V(3).Info("Somebody else was faster; trying again", "workload", id.String(), "err", err)
	default:
		c.log.Error(err, "Rollout failed; trying again", "workload", id.String())
	}
	c.queue.AddRateLimited(id)
	return true
}
