package provisioner

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// queue hands keys to workers: one key to one worker at a time, failed keys again with exponential backoff.
type queue[K comparable] struct {
	workqueue.TypedRateLimitingInterface[K]
	sync func(context.Context, K) error
	log  klog.Logger
}

func newQueue[K comparable](
	name string, base, limit time.Duration, log klog.Logger, sync func(context.Context, K) error,
) *queue[K] {
	return &queue[K]{
		TypedRateLimitingInterface: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[K](base, limit),
			workqueue.TypedRateLimitingQueueConfig[K]{Name: name},
		),
		sync: sync,
		log:  log,
	}
}

// restart has a key handled now, its backoff starting from the beginning.
func (q *queue[K]) restart(key K) {
	q.Forget(key)
	q.Add(key)
}

// run works until ctx ends and returns when the last worker has.
func (q *queue[K]) run(ctx context.Context, workers int) {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for q.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	q.ShutDown()
	group.Wait()
}

func (q *queue[K]) next(ctx context.Context) bool {
	key, shutdown := q.Get()
	if shutdown {
		return false
	}
	defer q.Done(key)
	// A queue that shuts down still hands out what it holds.
	if ctx.Err() != nil {
		return true
	}
	if err := q.sync(ctx, key); err != nil {
		if ctx.Err() == nil {
			q.log.Info("Will try again", "key", key, "attempt", q.NumRequeues(key)+1, "err", err)
			q.AddRateLimited(key)
		}
		return true
	}
	q.Forget(key)
	return true
}
