package provisioner

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// unfinishedLimit bounds the backoff after an unfinished answer: what is in the making may be there any moment, and so
// may a driver that was away. A failure that the driver calls final gets the whole backoff.
const unfinishedLimit = 10 * time.Second

// queue hands keys to workers: one key to one worker at a time, failed keys again with exponential backoff.
type queue[K comparable] struct {
	workqueue.TypedDelayingInterface[K]
	backoff workqueue.TypedRateLimiter[K]
	sync    func(context.Context, K) error
	log     klog.Logger
}

func newQueue[K comparable](
	name string, base, limit time.Duration, log klog.Logger, sync func(context.Context, K) error,
) *queue[K] {
	return &queue[K]{
		TypedDelayingInterface: workqueue.NewTypedDelayingQueueWithConfig(
			workqueue.TypedDelayingQueueConfig[K]{Name: name}),
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[K](base, limit),
		sync:    sync,
		log:     log,
	}
}

// restart has a key handled now, its backoff starting from the beginning.
func (q *queue[K]) restart(key K) {
	q.backoff.Forget(key)
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
	err := q.sync(ctx, key)
	switch {
	case err == nil:
		q.backoff.Forget(key)
	case ctx.Err() == nil:
		delay := retryDelay(err, q.backoff.When(key))
		q.log.Info("Will try again", "key", key, "after", delay, "err", err)
		q.AddAfter(key, delay)
	}
	return true
}

// retryDelay shortens a delay if the error is not the driver's final word, but one of the API server for example.
func retryDelay(err error, delay time.Duration) time.Duration {
	if classify(err) == unfinished {
		return min(delay, unfinishedLimit)
	}
	return delay
}
