package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/rollout"
)

// Rollouts is how workloads are rolled when a ConfigMap or Secret that they use changes.
type Rollouts struct {
	// Enabled has it done at all.
	Enabled bool
	// Paused has changes wait.
	Paused bool
	// Window is how long no edit must have come before a workload is rolled.
	Window time.Duration
	// Max is how many rollouts run at a time; 0 for any number.
	Max int
	// Reloader has the annotations of Stakater's Reloader understood.
	Reloader bool
}

func (r *Rollouts) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&r.Enabled, "rollouts", true, "roll workloads that ask for it when a ConfigMap or Secret that they use changes")
	f.BoolVar(&r.Paused, "pause-rollouts", false, "have changes of configuration wait until this is off again")
	f.DurationVar(&r.Window, "rollout-window", rollout.DefaultWindow, "how long no edit must have come before a workload is rolled")
	f.IntVar(&r.Max, "max-rollouts", rollout.DefaultMaxRollouts, "how many such rollouts run at a time (0: any number)")
	f.BoolVar(&r.Reloader, "reloader-annotations", true, "heed the annotations of Stakater's Reloader, too")
}

// controller returns what runs until its context ends.
func (r *Rollouts) controller(client kubernetes.Interface, recorder record.EventRecorder, metrics prometheus.Registerer,
) (run func(context.Context) error, _ error) {
	if !r.Enabled {
		return func(context.Context) error { return nil }, nil
	}
	c, err := rollout.New(rollout.Config{
		Client: client, Recorder: recorder, Metrics: metrics, Namespace: systemNamespace, Window: r.Window, MaxRollouts: r.Max,
		Paused: r.Paused, Reloader: r.Reloader, Logger: klog.Background().WithName("rollouts"),
	})
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}
