package pvcontroller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Retries of one object back off from retryBase to retryMax. The base is short because the usual reason is that
// somebody else wrote the object first, and that needs no pause.
const (
	retryBase = 5 * time.Millisecond
	retryMax  = 2 * time.Minute
)

// ownProvisionerSuffix ends the names of the drivers whose provisioner is part of this project.
const ownProvisionerSuffix = ".csi.orlop.io"

// Config is what a controller works with. Client, Informers and Recorder are required.
type Config struct {
	// Client writes, and reads where a cache must not be trusted. It should not throttle on its own side.
	Client kubernetes.Interface
	// Informers supplies volumes, claims, storage classes and pods. The caller starts the factory after New, and
	// shuts it down after Run. Use Transform with it to keep the caches small.
	Informers informers.SharedInformerFactory
	// Recorder publishes events on claims and volumes.
	Recorder record.EventRecorder
	// Recycler scrubs volumes whose reclaim policy is Recycle. Without one such volumes end as Failed, with an
	// event that says what to do.
	Recycler Recycler
	// OwnProvisioner tells the provisioners that find their claims without the storage-provisioner annotations;
	// for them the annotations are part of the bind, which saves a write a claim. By default these are the names
	// that end in ".csi.orlop.io".
	OwnProvisioner func(name string) bool
	// Observe is called after each reconciliation with the queue ("claims", "volumes" or "recycle"), how long it
	// took and how it ended. It must be safe for concurrent use. Nil observes nothing.
	Observe func(queue string, took time.Duration, err error)
	// Logger takes what happened. Nothing secret is ever in it. The zero value discards.
	Logger klog.Logger
}

// Controller binds claims to volumes and reclaims released volumes. Make it with New.
type Controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	recycler Recycler
	own      func(string) bool
	observe  func(string, time.Duration, error)
	log      klog.Logger

	volumes      *latest[*corev1.PersistentVolume]
	claims       *latest[*corev1.PersistentVolumeClaim]
	pods         cache.Indexer
	classes      storagelisters.StorageClassLister
	informers    informerSet
	reservations reservations
	announced    announcer
	recycling    recycling

	// The queues exist while Run does, as do the handlers that fill them.
	claimQueue, volumeQueue, recycleQueue workqueue.TypedRateLimitingInterface[string]
}

// informerSet is the informers whose events feed the queues.
type informerSet struct {
	volumes, claims, classes, pods cache.SharedIndexInformer
}

// New makes a controller and asks the factory for the informers it needs, so it must come before the factory's
// Start. It starts nothing. The error names what is missing from config.
func New(config Config) (*Controller, error) {
	switch {
	case config.Client == nil:
		return nil, errors.New("pvcontroller: Config.Client is missing")
	case config.Informers == nil:
		return nil, errors.New("pvcontroller: Config.Informers is missing")
	case config.Recorder == nil:
		return nil, errors.New("pvcontroller: Config.Recorder is missing")
	}
	core := config.Informers.Core().V1()
	c := &Controller{
		client:   config.Client,
		recorder: config.Recorder,
		recycler: config.Recycler,
		own:      config.OwnProvisioner,
		observe:  config.Observe,
		log:      config.Logger,
		classes:  config.Informers.Storage().V1().StorageClasses().Lister(),
		informers: informerSet{
			volumes: core.PersistentVolumes().Informer(),
			claims:  core.PersistentVolumeClaims().Informer(),
			classes: config.Informers.Storage().V1().StorageClasses().Informer(),
			pods:    core.Pods().Informer(),
		},
	}
	c.announced.repeatAfter = defaultRepeat
	if c.own == nil {
		c.own = func(name string) bool { return strings.HasSuffix(name, ownProvisionerSuffix) }
	}
	if c.observe == nil {
		c.observe = func(string, time.Duration, error) {}
	}
	if err := addIndexers(&c.informers); err != nil {
		return nil, fmt.Errorf("pvcontroller: %w", err)
	}
	c.volumes = newLatest[*corev1.PersistentVolume](c.informers.volumes.GetIndexer())
	c.claims = newLatest[*corev1.PersistentVolumeClaim](c.informers.claims.GetIndexer())
	c.pods = c.informers.pods.GetIndexer()
	return c, nil
}

func newQueue(name string) workqueue.TypedRateLimitingInterface[string] {
	// The default rate limiter also allows ten retries a second for all objects together, which would make a race of
	// two controllers over many claims last minutes.
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryBase, retryMax),
		workqueue.TypedRateLimitingQueueConfig[string]{Name: name})
}

// Run reconciles, with the given number of workers for claims and as many for volumes, until the context ends; it
// waits for the informers first. It returns nil then, with all of its goroutines ended. A controller runs once.
//
// Several controllers on one cluster are safe, but do each other's work over: use leader election.
func (c *Controller) Run(ctx context.Context, workers int) error {
	// Queues have goroutines, so they are made here and not in New.
	c.claimQueue, c.volumeQueue, c.recycleQueue = newQueue("claims"), newQueue("volumes"), newQueue("recycle")
	defer c.claimQueue.ShutDown()
	defer c.volumeQueue.ShutDown()
	defer c.recycleQueue.ShutDown()
	synced, remove, err := c.addHandlers()
	defer remove()
	if ctx.Err() != nil {
		return nil // The informers may have stopped already.
	}
	if err != nil {
		return fmt.Errorf("pvcontroller: watch: %w", err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // The context ended first.
	}
	c.log.Info("Binding volumes", "workers", workers)

	var wg sync.WaitGroup
	start := func(workers int, name string, queue workqueue.TypedRateLimitingInterface[string],
		sync func(context.Context, string) error) {
		for range workers {
			wg.Go(func() {
				for c.next(ctx, name, queue, sync) {
				}
			})
		}
	}
	start(workers, "claims", c.claimQueue, c.syncClaim)
	start(workers, "volumes", c.volumeQueue, c.syncVolume)
	start(workers, "recycle", c.recycleQueue, c.recycle)
	<-ctx.Done()
	c.claimQueue.ShutDown()
	c.volumeQueue.ShutDown()
	c.recycleQueue.ShutDown()
	wg.Wait()
	return nil
}

// next takes one key from a queue and reconciles it. It is false when the queue is shut down.
func (c *Controller) next(ctx context.Context, name string, queue workqueue.TypedRateLimitingInterface[string],
	sync func(context.Context, string) error,
) bool {
	key, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(key)
	if ctx.Err() != nil {
		return true // Drain what is left without working on it.
	}
	started := time.Now()
	err := sync(ctx, key)
	c.observe(name, time.Since(started), err)
	switch {
	case err == nil:
		queue.Forget(key)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err), errors.Is(err, errReserved):
		c.log.V(3).Info("Somebody else was faster; trying again", "queue", name, "key", key, "err", err)
	default:
		c.log.Error(err, "Reconciliation failed; trying again", "queue", name, "key", key)
	}
	queue.AddRateLimited(key)
	return true
}
