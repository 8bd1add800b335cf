package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The usual times of leader election. They only matter when a leader dies: one that stops gives its lease up.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// lead waits for the lease, does the work while holding it, and gives it up when the work has ended, so that the next
// process need not wait for it to expire. It returns nil when ctx ends, and an error when the work fails or the lease
// is lost; the work has ended in any case. It calls known when it has seen who holds the lease, be it this process.
func lead(
	ctx context.Context, client kubernetes.Interface, namespace string, known func(), work func(context.Context) error,
) error {
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find a name for the lease's holder: %w", err)
	}
	var (
		// The lease outlives ctx until the work has ended: given up earlier, two processes would work at once.
		hold, giveUp = context.WithCancel(context.WithoutCancel(ctx))
		mu           sync.Mutex
		leading      bool
		worked       = make(chan error, 1)
	)
	defer giveUp()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: controllersName, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: controllersName, Namespace: namespace},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: hostname + "_" + uuid.NewString()},
		},
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				mu.Lock()
				leading = held.Err() == nil
				mu.Unlock()
				if !leading {
					return // ctx ended at the same moment.
				}
				working, cancel := context.WithCancel(held)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				worked <- work(working)
				giveUp()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(string) { known() },
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !leading {
			giveUp()
		}
	})()
	elector.Run(hold)
	lost := hold.Err() == nil
	giveUp()
	mu.Lock()
	defer mu.Unlock()
	if !leading {
		return nil
	}
	err = <-worked
	if lost && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("lease %s/%s was lost to another process", namespace, controllersName), err)
	}
	return err
}
