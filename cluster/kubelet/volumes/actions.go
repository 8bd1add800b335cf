package volumes

import (
	"path/filepath"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/volume"
	utilstrings "k8s.io/utils/strings"

	"github.com/orlop-io/orlop/configsync/action"
	"github.com/orlop-io/orlop/configsync/action/cri"
)

const (
	// markerDir is the directory, in a pod's directory of a plugin, of the files that say up to which generation a
	// volume's changes were acted on. The kubelet removes it with the pod.
	markerDir = "orlop-acted-on"
)

// actions acts on the changes of the volumes of pods that ask for it by annotations.
type actions struct {
	host   volume.VolumeHost
	runner *action.Runner
	close  func() error

	mu sync.Mutex
	// invalid is what was last said of a pod's annotations.
	invalid map[types.UID]string
}

// newActions returns nil where there is no container runtime to act through.
func newActions(host volume.VolumeHost, config Config) *actions {
	if config.RuntimeEndpoint == "" {
		return nil
	}
	runtime, err := cri.New(config.RuntimeEndpoint)
	if err != nil {
		klog.ErrorS(err, "Changes of configuration volumes are not acted on")
		return nil
	}
	return actionsThrough(host, config, runtime, runtime.Close)
}

func actionsThrough(host volume.VolumeHost, config Config, runtime action.Runtime, closeRuntime func() error) *actions {
	a := &actions{host: host, close: closeRuntime, invalid: map[types.UID]string{}}
	a.runner = action.NewRunner(action.Options{Runtime: runtime, Recorder: host.GetEventRecorder(), HostIP: config.NodeIP,
		Log: func(err error) { klog.ErrorS(err, "A change of a configuration volume may be acted on once more") }})
	return a
}

func (a *actions) stop() {
	if a == nil {
		return
	}
	a.runner.Close()
	if err := a.close(); err != nil {
		klog.ErrorS(err, "Closing the connection to the container runtime")
	}
}

// forget cancels what is to be done for a pod whose volumes are being taken down: its containers are gone.
func (a *actions) forget(pod types.UID) {
	if a == nil {
		return
	}
	a.runner.Forget(string(pod))
	a.mu.Lock()
	delete(a.invalid, pod)
	a.mu.Unlock()
}

// spec reads a pod's annotations, and tells the user once what is wrong with them.
func (a *actions) spec(pod *v1.Pod) *action.Spec {
	spec, err := action.Parse(pod.Annotations)
	said := ""
	if err != nil {
		said = err.Error()
	}
	a.mu.Lock()
	news := said != a.invalid[pod.UID]
	if said == "" {
		delete(a.invalid, pod.UID)
	} else {
		a.invalid[pod.UID] = said
	}
	a.mu.Unlock()
	if err != nil && news {
		a.runner.Invalid(podOf(pod), err)
	}
	return spec
}

// podOf is what an action needs of a pod.
func podOf(pod *v1.Pod) action.Pod {
	p := action.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), Containers: map[string]bool{}}
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			p.Containers[c.Name] = pod.Spec.RestartPolicy == v1.RestartPolicyAlways
			if c.RestartPolicy != nil {
				p.Containers[c.Name] = *c.RestartPolicy == v1.ContainerRestartPolicyAlways
			}
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		p.Containers[c.Name] = false
	}
	return p
}

// track is called before the volume is written; mt.mu is held. It begins or ends following the volume's generations, as the
// pod's annotations say.
func (mt *mount) track() {
	a := mt.manager.actions
	if a == nil {
		return
	}
	mt.onChange = a.spec(mt.manager.pods.newest(mt.request.pod))
	if mt.onChange != nil && mt.onChange.Follows(mt.key.volume) {
		if mt.tracker == nil {
			tracker, err := a.runner.Track(mt.writer, mt.request.dir, mt.marker())
			if err != nil {
				klog.ErrorS(err, "Changes of a configuration volume are not acted on", "podUID", mt.key.pod, "volume", mt.key.volume)
				return
			}
			mt.tracker = tracker
		}
		return
	}
	mt.untrack()
	// What an earlier process followed is no longer.
	if err := action.Forget(mt.marker()); err != nil {
		klog.ErrorS(err, "Configuration volume", "podUID", mt.key.pod, "volume", mt.key.volume)
	}
}

// untrack ends following. mt.mu is held.
func (mt *mount) untrack() {
	if mt.tracker != nil {
		mt.tracker.Close()
		mt.tracker = nil
	}
}

// report is called when the volume is whole, files mounted with subPath included, and has a change acted on. Where it was
// written and is not whole, the next call finds the change. mt.mu is held.
func (mt *mount) report() {
	if mt.tracker == nil {
		return
	}
	dirs := []string{mt.request.dir, filepath.Join(mt.manager.host.GetPodsDir(), string(mt.key.pod), subPaths, mt.key.volume)}
	err := mt.tracker.Written(action.Change{Pod: podOf(mt.request.pod), Spec: mt.onChange,
		Volume: action.Volume{Name: mt.key.volume, Dirs: dirs}}, credentialPaths(mt.request.volume, slices.Contains(mt.onChange.Volumes, mt.key.volume)))
	if err != nil {
		klog.ErrorS(err, "Acting on a change of a configuration volume", "podUID", mt.key.pod, "volume", mt.key.volume)
	}
}

func (mt *mount) marker() string {
	return filepath.Join(mt.manager.host.GetPodPluginDir(mt.key.pod, utilstrings.EscapeQualifiedName(mt.key.plugin)), markerDir, mt.key.volume)
}

// credentialPaths are the files of a volume whose content is no reason to act: upstream's managers in the kubelet make
// tokens and certificates anew from time to time, and all of them when the kubelet was restarted. A new certificate is
// one where the user named the volume.
func credentialPaths(v v1.Volume, named bool) []string {
	sources, _ := projection(v)
	var paths []string
	for _, s := range sources {
		if s.ServiceAccountToken != nil {
			paths = append(paths, s.ServiceAccountToken.Path)
		}
		if c := s.PodCertificate; c != nil && !named {
			paths = append(paths, c.CredentialBundlePath, c.KeyPath, c.CertificateChainPath)
		}
	}
	return paths
}
