package provisioner

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

func TestQueueTriesAgainUntilItWorks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var running, attempts atomic.Int32
	q := newQueue("test", time.Nanosecond, time.Microsecond, klog.Logger{}, func(_ context.Context, key string) error {
		if running.Add(1) != 1 {
			t.Error("two workers have the same key")
		}
		defer running.Add(-1)
		if attempts.Add(1) < 5 {
			return errors.New("not yet")
		}
		cancel()
		return nil
	})
	q.restart("a")
	q.run(ctx, 3)
	if got := attempts.Load(); got != 5 {
		t.Errorf("%d attempts", got)
	}
}

func TestQueueLeavesTheRestWhenItEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q := newQueue("test", time.Nanosecond, time.Microsecond, klog.Logger{}, func(context.Context, string) error {
		t.Error("a key was worked on after the end")
		return nil
	})
	q.Add("a")
	q.run(ctx, 2)
}

func TestRetryDelay(t *testing.T) {
	for name, tt := range map[string]struct {
		err         error
		delay, want time.Duration
	}{
		"final":               {status.Error(codes.Internal, "x"), time.Hour, time.Hour},
		"final, wrapped":      {fmt.Errorf("y: %w", status.Error(codes.InvalidArgument, "x")), time.Hour, time.Hour},
		"unfinished":          {status.Error(codes.Aborted, "x"), time.Hour, unfinishedLimit},
		"unfinished, wrapped": {fmt.Errorf("y: %w", status.Error(codes.Unavailable, "x")), time.Hour, unfinishedLimit},
		"unfinished, early":   {status.Error(codes.Unavailable, "x"), time.Second, time.Second},
		"joined":              {errors.Join(status.Error(codes.Internal, "x"), errors.New("y")), time.Hour, time.Hour},
		"not from gRPC":       {errors.New("conflict"), time.Hour, unfinishedLimit},
	} {
		if got := retryDelay(tt.err, tt.delay); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
