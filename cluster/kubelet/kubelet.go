// Package kubelet is the bundled cluster's kubelet: upstream's, started through a command of our own, so that
// volume plugins can be put in the place of upstream's before it runs.
//
// The command takes the kubelet's own flags and a KubeletConfiguration file. Unlike upstream's it does not
// take configuration by both at once (a flag that is a field of the file is refused) nor drop-in
// directories: the cluster writes the file afresh at every start.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/configfiles"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	utilfs "k8s.io/kubernetes/pkg/util/filesystem"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/nodump"
)

// Node is what the kubelet was told of its node.
type Node struct {
	// RuntimeEndpoint is the container runtime's gRPC endpoint, IP the node's address, empty where it is found out.
	RuntimeEndpoint, IP string
}

// Plugins maps upstream's volume plugins to those the kubelet runs with. Two of one name, or two that support one
// volume, make the kubelet refuse the volume.
type Plugins func(Node, []volume.VolumePlugin) []volume.VolumePlugin

// PodFollower is a volume plugin that is told of the node's pods, of which the kubelet has a watch anyway.
type PodFollower interface {
	// FollowPods returns what is called with every pod, at once after a change of it and about once a second, or nil for
	// nothing. It must return at once, and not change the pod. get returns a pod as the kubelet has it.
	FollowPods(get func(namespace, name string) (*v1.Pod, bool)) func(*v1.Pod)
}

// LiveConfigFlag is the flag with which the command runs with the plugins it was given instead of upstream's.
const LiveConfigFlag = "orlop-config-volumes"

// NewCommand returns the kubelet's command. Its plugins are upstream's, or with LiveConfigFlag those that plugins makes
// of them.
func NewCommand(plugins Plugins) *cobra.Command {
	flags := options.NewKubeletFlags()
	live := false
	cmd := &cobra.Command{
		Use:          "kubelet",
		Short:        "The node agent of the bundled cluster: upstream's kubelet",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !live {
				return run(cmd.Context(), flags, nil)
			}
			// The plugins keep what the node's Secrets hold.
			if err := nodump.Protect(); err != nil {
				return err
			}
			return run(cmd.Context(), flags, plugins)
		},
	}
	flags.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&live, LiveConfigFlag, false,
		"Change the files of configMap, secret, projected and downwardAPI volumes as soon as the API object changes")
	cmd.Flags().SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	return cmd
}

func run(ctx context.Context, flags *options.KubeletFlags, plugins Plugins) error {
	if flags.KubeletConfigFile == "" {
		return errors.New("--config is missing: name a KubeletConfiguration file")
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return fmt.Errorf("kubelet flags: %w", err)
	}
	server, err := newServer(ctx, flags)
	if err != nil {
		return err
	}
	deps, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("kubelet dependencies: %w", err)
	}
	if plugins != nil {
		// Of a dual-stack node's two, the first is its main one.
		ip, _, _ := strings.Cut(server.NodeIP, ",")
		node := Node{RuntimeEndpoint: server.ContainerRuntimeEndpoint, IP: ip}
		deps.VolumePlugins = plugins(node, deps.VolumePlugins)
		deps.Options = append(deps.Options, func(k *kubelet.Kubelet) { followPods(k, deps.VolumePlugins) })
	}
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	return app.Run(genericapiserver.SetupSignalContext(), server, deps, utilfeature.DefaultFeatureGate)
}

// podHost is the kubelet as far as plugins follow its pods.
type podHost interface {
	lifecycle.PodSyncTarget
	lifecycle.PodSyncLoopTarget
	GetPodByName(namespace, name string) (*v1.Pod, bool)
}

// followPods lets those of the plugins that want it follow the kubelet's pods.
func followPods(k podHost, plugins []volume.VolumePlugin) {
	for _, p := range plugins {
		follower, ok := p.(PodFollower)
		if !ok {
			continue
		}
		if see := follower.FollowPods(k.GetPodByName); see != nil {
			// The first is called when a pod changes, unless the kubelet is still busy with it; the second does not wait.
			k.AddPodSyncHandler(podObserver(see))
			k.AddPodSyncLoopHandler(podObserver(see))
		}
	}
}

// podObserver looks at pods and asks nothing of the kubelet.
type podObserver func(*v1.Pod)

var (
	_ lifecycle.PodSyncHandler     = podObserver(nil)
	_ lifecycle.PodSyncLoopHandler = podObserver(nil)
)

// ShouldEvict is called first thing of every sync of a pod.
func (see podObserver) ShouldEvict(pod *v1.Pod) lifecycle.ShouldEvictResponse {
	see(pod)
	return lifecycle.ShouldEvictResponse{}
}

// ShouldSync is called for every pod once a second.
func (see podObserver) ShouldSync(pod *v1.Pod) bool {
	see(pod)
	return false
}

// newServer reads the configuration file and applies what is global in it: feature gates and logging.
func newServer(ctx context.Context, flags *options.KubeletFlags) (*options.KubeletServer, error) {
	loader, err := configfiles.NewFsLoader(&utilfs.DefaultFs{}, flags.KubeletConfigFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flags.KubeletConfigFile, err)
	}
	config, err := loader.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flags.KubeletConfigFile, err)
	}
	if config.EvictionHard == nil {
		config.EvictionHard = eviction.DefaultEvictionHard
	}
	gate := utilfeature.DefaultMutableFeatureGate
	if err := gate.SetFromMap(config.FeatureGates); err != nil {
		return nil, fmt.Errorf("%s: feature gates: %w", flags.KubeletConfigFile, err)
	}
	logs.InitLogs()
	if err := logsapi.ValidateAndApplyAsField(&config.Logging, gate, field.NewPath("logging")); err != nil {
		return nil, fmt.Errorf("%s: %w", flags.KubeletConfigFile, err)
	}
	if err := validation.ValidateKubeletConfiguration(config, gate); err != nil {
		return nil, fmt.Errorf("%s: %w", flags.KubeletConfigFile, err)
	}
	return &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}, nil
}
