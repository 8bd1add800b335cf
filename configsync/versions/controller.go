package versions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/payload"
	"github.com/orlop-io/orlop/configsync/source"
)

// DefaultAfter is for how long an object must be unused by default.
const DefaultAfter = time.Hour

const (
	retryBase = 100 * time.Millisecond
	retryMax  = time.Minute
	// batch is how long objects whose time has come are gathered: one look at all that can refer serves all of them.
	batch = time.Second
	// share is which part of the time such looks may take: a large cluster is not listed all the time.
	share = 20
	// again is when an object is looked at anew that the informers call unused and the API server does not.
	again = 30 * time.Second
)

// Config is what a Controller works with. Client, Metadata and Recorder are required.
type Config struct {
	// Client reads what can refer to configuration.
	Client kubernetes.Interface
	// Metadata reads the labelled objects' metadata, annotates and deletes them. Nothing else is done with ConfigMaps and
	// Secrets. Where it may not read one of the two kinds, those are left alone.
	Metadata metadata.Interface
	// Recorder publishes events on ConfigMaps and Secrets.
	Recorder record.EventRecorder
	// After is for how long an object must be unused, where its annotation says nothing. Zero is DefaultAfter.
	After time.Duration
	// Metrics takes the controller's metrics; nil for none.
	Metrics prometheus.Registerer
	// Logger takes what happened. The zero value discards.
	Logger klog.Logger
}

// Controller deletes the unused versions of configuration. Make it with New.
type Controller struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	recorder record.EventRecorder
	after    time.Duration
	log      klog.Logger
	// collected counts, by kind.
	collected *prometheus.CounterVec

	// objects are the labelled ones, a store a kind.
	objects map[payload.Kind]cache.SharedIndexInformer
	queue   workqueue.TypedRateLimitingInterface[source.Key]

	// The rest is the worker's alone.

	// referrers exists while there are labelled objects.
	referrers *referrers
	// due are the objects whose time has come.
	due map[source.Key]bool
	// rested is when the next look may be.
	rested time.Time
	// told is what each object's owner was last told.
	told map[source.Key]notice
}

// sweep is the key in the queue that stands for a look at all objects that are due.
var sweep = source.Key{}

var resources = map[payload.Kind]schema.GroupVersionResource{
	payload.ConfigMap: corev1.SchemeGroupVersion.WithResource("configmaps"),
	payload.Secret:    corev1.SchemeGroupVersion.WithResource("secrets"),
}

// New makes a controller. The error names what is missing from config, or wrong in it.
func New(config Config) (*Controller, error) {
	switch {
	case config.Client == nil:
		return nil, errors.New("versions: Config.Client is missing")
	case config.Metadata == nil:
		return nil, errors.New("versions: Config.Metadata is missing")
	case config.Recorder == nil:
		return nil, errors.New("versions: Config.Recorder is missing")
	case config.After < 0:
		return nil, fmt.Errorf("versions: Config.After is %s: a time cannot be negative", config.After)
	case config.After == 0:
		config.After = DefaultAfter
	}
	collected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "orlop_versions_collected_total", Help: "Unused versions of configuration that were deleted, by kind.",
	}, []string{"kind"})
	for kind := range resources {
		collected.WithLabelValues(string(kind))
	}
	if config.Metrics != nil {
		if err := config.Metrics.Register(collected); err != nil {
			return nil, fmt.Errorf("versions: register metrics: %w", err)
		}
	}
	return &Controller{
		collected: collected, client: config.Client, metadata: config.Metadata, recorder: config.Recorder, after: config.After, log: config.Logger,
		objects: map[payload.Kind]cache.SharedIndexInformer{}, due: map[source.Key]bool{}, told: map[source.Key]notice{},
	}, nil
}

// Run works until the context ends, and returns nil then, with all of its goroutines ended. A controller runs once.
//
// Two at once are safe, but tell everything twice: use leader election.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	c.queue = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[source.Key](retryBase, retryMax),
		workqueue.TypedRateLimitingQueueConfig[source.Key]{Name: "versions"})
	var running sync.WaitGroup
	defer running.Wait()
	defer c.queue.ShutDown()
	defer cancel()
	for kind, resource := range resources {
		informer, err := c.watch(kind, resource)
		if err != nil {
			return fmt.Errorf("versions: watch %s: %w", resource.Resource, err)
		}
		c.objects[kind] = informer
	}
	for _, informer := range c.objects {
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	running.Go(func() {
		<-ctx.Done()
		c.queue.ShutDown()
	})
	defer func() {
		if c.referrers != nil {
			c.referrers.close()
		}
	}()
	for c.next(ctx) {
	}
	return nil
}

// next takes one key from the queue. It is false when the queue is shut down.
func (c *Controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	work := c.sync
	if key == sweep {
		work = c.collectDue
	}
	err := work(ctx, key)
	switch {
	case err == nil:
		c.queue.Forget(key)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		c.log.V(3).Info("Somebody else was faster; trying again", "object", key, "err", err)
	default:
		c.log.Error(err, "Old versions of configuration: trying again", "object", key)
	}
	c.queue.AddRateLimited(key)
	return true
}

// sync does what one object needs now.
func (c *Controller) sync(ctx context.Context, key source.Key) error {
	object, err := c.get(key)
	if err != nil {
		return err
	}
	if object == nil {
		delete(c.due, key)
		delete(c.told, key)
		c.rest()
		return nil
	}
	if err := c.wake(ctx); err != nil {
		return err
	}
	by, err := c.referrers.of(key)
	if err != nil {
		return err
	}
	v := decide(object, by != nil, c.after, time.Now())
	if v.action != collect {
		delete(c.due, key)
	}
	if v.problem != "" {
		c.warn(key, object, "NotCollected", v.problem)
	}
	switch v.action {
	case wait:
		c.queue.AddAfter(key, v.wait)
	case mark:
		return c.mark(ctx, key, object, v.grace)
	case unmark:
		c.log.V(2).Info("Used again", "object", key, "by", by.String())
		return c.annotate(ctx, key, object, nil)
	case collect:
		c.due[key] = true
		c.queue.AddAfter(sweep, max(batch, time.Until(c.rested)))
	}
	return nil
}

// get returns a labelled object, nil when there is none of that name.
func (c *Controller) get(key source.Key) (*metav1.PartialObjectMetadata, error) {
	object, exists, err := c.objects[key.Kind].GetIndexer().GetByKey(key.Namespace + "/" + key.Name)
	if err != nil || !exists {
		return nil, err
	}
	return object.(*metav1.PartialObjectMetadata), nil
}

// wake has the referrers watched, and waits until all of them are known.
func (c *Controller) wake(ctx context.Context) (err error) {
	if c.referrers == nil {
		c.log.Info("There are versions of configuration to look after: watching what refers to them")
		if c.referrers, err = startReferrers(ctx, c.client, c.changed); err != nil {
			return err
		}
	}
	if !c.referrers.wait(ctx) {
		return ctx.Err()
	}
	return nil
}

// rest ends the watches on referrers when there is nothing left that could be referred to: an idle cluster pays nothing.
func (c *Controller) rest() {
	for _, objects := range c.objects {
		if len(objects.GetIndexer().ListKeys()) > 0 {
			return
		}
	}
	if c.referrers != nil {
		c.log.Info("No versions of configuration are left to look after")
		c.referrers.close()
		c.referrers = nil
	}
}

// changed has the labelled ones among the keys looked at. The informers of referrers call it.
func (c *Controller) changed(keys []source.Key) {
	for _, key := range keys {
		if _, labelled, err := c.objects[key.Kind].GetIndexer().GetByKey(key.Namespace + "/" + key.Name); err == nil && labelled {
			c.queue.Add(key)
		}
	}
}
