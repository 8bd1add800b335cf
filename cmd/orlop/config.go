package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orlop-io/orlop/cluster"
	"github.com/orlop-io/orlop/cluster/configstatus"
)

const (
	// apiPatience is how long the API server may take to say what it has: one that hangs must not hide the node's files.
	apiPatience = 5 * time.Second
	// statusPoll is how often --wait looks.
	statusPoll = 200 * time.Millisecond
)

func newConfigCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "See how ConfigMaps, Secrets and labels arrive in pods",
	}
	cmd.AddCommand(newConfigStatusCommand(o))
	return cmd
}

// configStatus are the flags of `orlop config status`.
type configStatus struct {
	namespace, output string
	all, check        bool
	wait              time.Duration
}

func newConfigStatusCommand(o *options) *cobra.Command {
	var f configStatus
	cmd := &cobra.Command{
		Use:   "status [POD]",
		Short: "Show what configuration volumes project, since when, and what is behind",
		Long: `Show what the configuration volumes of pods project, since when, and what is behind.

For each volume: the objects with the resourceVersion that its files agree with, since when the files are as they
are, and whether the API has something newer. Below: what running containers keep of objects until they are
started again, which are environment variables and files mounted by subPath.

The volume that every pod has for its own credentials (kube-api-access-…) is shown with -o wide, or where it is
behind. Nothing of what is in an object is read or shown.

While the API server is down it shows what is on the node, and says that the comparison is missing.

Exit status: 0; with --check or --wait 1 when a volume is behind or could not be compared.`,
		Example: `  orlop config status -A
  orlop kubectl apply -f config.yaml && orlop config status --wait=10s`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"", "table", "wide", "json"}, f.output) {
				return fmt.Errorf("--output %q is unknown: choose json, wide or table", f.output)
			}
			if err := requireRoot(); err != nil {
				return err
			}
			l, err := o.runningLayout(cmd.Context())
			if err != nil {
				return err
			}
			filter := configstatus.Filter{Namespace: f.namespace}
			if f.all {
				filter.Namespace = ""
			}
			if len(args) == 1 {
				filter.Pod = args[0]
			}
			report, err := f.report(cmd.Context(), l, filter)
			if err != nil {
				return err
			}
			if len(report.Volumes) == 0 && report.Compared && f.output != "json" && filter.Pod != "" {
				return fmt.Errorf("no pod %q with a configuration volume in namespace %q: 'orlop config status -A' shows all",
					filter.Pod, f.namespace)
			}
			if err := printConfigStatus(cmd.OutOrStdout(), report, f.output, f.all, time.Now()); err != nil {
				return err
			}
			if (f.check || f.wait > 0) && (report.Behind() || !report.Compared) {
				return exitError(1)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "namespace of the pods")
	cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "show the pods of all namespaces")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "output format: json, wide or table")
	cmd.Flags().BoolVar(&f.check, "check", false, "exit with status 1 when a volume is behind or could not be compared")
	cmd.Flags().DurationVar(&f.wait, "wait", 0, "wait until no volume is behind, for `DURATION` at the most, and --check")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	return cmd
}

// report returns the first report in which nothing is behind, or the last one when the time is over.
func (f *configStatus) report(ctx context.Context, l cluster.Layout, filter configstatus.Filter) (*configstatus.Report, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	node := configstatus.Node{KubeletDir: l.KubeletDir(), PodLogsDir: l.PodLogsDir()}
	deadline := time.Now().Add(f.wait)
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, apiPatience)
		report, err := node.Report(asking, configstatus.API{Client: client, Metadata: meta, Node: l.Node}, filter)
		cancel()
		if err != nil || report.Compared && !report.Behind() || !time.Now().Before(deadline) {
			return report, errors.Join(err, ctx.Err())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
