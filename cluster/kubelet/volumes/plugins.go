// Package volumes puts live configuration into the kubelet: volume plugins with the names of upstream's for configMap,
// secret, projected and downwardAPI volumes, which change a volume's files when the API object changes and not when the
// pod is next looked at.
//
// Each plugin wraps the one of upstream that it replaces. Names, paths, reconstruction after a restart and tearing down
// stay upstream's; setting up is ours: package source brings the objects, package payload decides the files, package
// writer puts them in place. Service-account tokens, trust bundles and pod certificates still come from upstream's
// managers in the kubelet.
//
// The kubelet's own calls of SetUp, 60 to 90 s apart for each volume, heal what a user or a failure changed, refresh
// tokens and ask whether an immutable object is still the same one.
package volumes

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
)

// media are upstream's names of the plugins that Replace replaces, and where their files are. Upstream has all but
// ConfigMaps in memory; a ConfigMap's size would count as the memory of no container.
var media = map[string]v1.StorageMedium{
	"kubernetes.io/configmap":    v1.StorageMediumDefault,
	"kubernetes.io/secret":       v1.StorageMediumMemory,
	"kubernetes.io/projected":    v1.StorageMediumMemory,
	"kubernetes.io/downward-api": v1.StorageMediumMemory,
}

// Config is what the plugins need to know of the node.
type Config struct {
	// RuntimeEndpoint is the container runtime's gRPC endpoint. Where it is empty, changes are not acted on.
	RuntimeEndpoint string
	// NodeIP is the node's address, for requests to pods in the node's own network.
	NodeIP string
}

// Replace returns the plugins with those of configuration volumes replaced. It is called once, before the kubelet runs.
func Replace(config Config, plugins []volume.VolumePlugin) []volume.VolumePlugin {
	m := newManager(config)
	replaced := make([]volume.VolumePlugin, len(plugins))
	for i, p := range plugins {
		if _, ours := media[p.GetPluginName()]; ours {
			p = &plugin{VolumePlugin: p, manager: m}
		}
		replaced[i] = p
	}
	return replaced
}

// plugin is upstream's, with mounters and unmounters of ours.
type plugin struct {
	volume.VolumePlugin

	manager *manager
}

var _ volume.VolumePlugin = (*plugin)(nil)

// Init is called once, before anything else.
func (p *plugin) Init(host volume.VolumeHost) error {
	if err := p.VolumePlugin.Init(host); err != nil {
		return err
	}
	p.manager.start(host)
	return nil
}

// NewMounter returns what sets the volume up, at first and again.
func (p *plugin) NewMounter(spec *volume.Spec, pod *v1.Pod) (volume.Mounter, error) {
	upstream, err := p.VolumePlugin.NewMounter(spec, pod)
	if err != nil || p.manager.source == nil {
		// Without an API server there is nothing to follow.
		return upstream, err
	}
	return &mounter{Mounter: upstream, plugin: p, spec: spec, pod: pod}, nil
}

// NewUnmounter returns what takes the volume down. After a restart it is called for volumes that were never set up by
// this process.
func (p *plugin) NewUnmounter(name string, pod types.UID) (volume.Unmounter, error) {
	upstream, err := p.VolumePlugin.NewUnmounter(name, pod)
	if err != nil {
		return nil, err
	}
	return &unmounter{Unmounter: upstream, manager: p.manager, key: key{pod, p.GetPluginName(), name}}, nil
}

// mounter sets one volume up; paths, attributes and metrics are upstream's.
type mounter struct {
	volume.Mounter

	plugin *plugin
	spec   *volume.Spec
	pod    *v1.Pod
}

// SetUp sets the volume up, or brings it up to date.
func (m *mounter) SetUp(args volume.MounterArgs) error { return m.SetUpAt(m.GetPath(), args) }

// SetUpAt is SetUp in another directory.
func (m *mounter) SetUpAt(dir string, args volume.MounterArgs) error {
	name := m.plugin.GetPluginName()
	return m.plugin.manager.setUp(key{m.pod.UID, name, m.spec.Name()}, request{
		dir: dir, pod: m.pod, volume: *m.spec.Volume, medium: media[name], args: args,
		tearDown: func() error {
			upstream, err := m.plugin.VolumePlugin.NewUnmounter(m.spec.Name(), m.pod.UID)
			if err != nil {
				return err
			}
			return upstream.TearDownAt(dir)
		},
	})
}

// unmounter stops following the volume's objects before upstream's takes the volume down.
type unmounter struct {
	volume.Unmounter

	manager *manager
	key     key
}

// TearDown takes the volume down.
func (u *unmounter) TearDown() error { return u.TearDownAt(u.GetPath()) }

// TearDownAt is TearDown in another directory.
func (u *unmounter) TearDownAt(dir string) error {
	u.manager.remove(u.key)
	u.manager.actions.forget(u.key.pod)
	return u.Unmounter.TearDownAt(dir)
}
