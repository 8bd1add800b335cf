package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/configsync/versions"
)

// Versions is how old versions of immutable ConfigMaps and Secrets are collected.
type Versions struct {
	// Collect has it done at all.
	Collect bool
	// After is for how long a version must be unused, where it does not say itself.
	After time.Duration
}

func (v *Versions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&v.Collect, "collect", true,
		"delete immutable ConfigMaps and Secrets that ask for it ("+versions.LabelCollect+"="+versions.CollectUnused+") and are unused")
	f.DurationVar(&v.After, "collect-after", versions.DefaultAfter, "for how long they must be unused")
}

// controller returns what runs until its context ends.
func (v *Versions) controller(config *rest.Config, client kubernetes.Interface, recorder record.EventRecorder,
	metrics prometheus.Registerer,
) (run func(context.Context) error, _ error) {
	if v.After <= 0 {
		return nil, fmt.Errorf("--collect-after is %s: give a time, or --collect=false", v.After)
	}
	if !v.Collect {
		return func(context.Context) error { return nil }, nil
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of metadata: %w", err)
	}
	c, err := versions.New(versions.Config{
		Client: client, Metadata: objects, Recorder: recorder, After: v.After, Metrics: metrics,
		Logger: klog.Background().WithName("versions"),
	})
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}
