package kubelet

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/volume"
)

// host is a kubelet as far as plugins follow its pods.
type host struct {
	lifecycle.PodSyncHandlers
	lifecycle.PodSyncLoopHandlers
}

func (*host) GetPodByName(string, string) (*v1.Pod, bool) { return nil, false }

// follower is a plugin that is told of pods.
type follower struct {
	volume.VolumePlugin
	seen int
	none bool
}

func (f *follower) FollowPods(func(namespace, name string) (*v1.Pod, bool)) func(*v1.Pod) {
	if f.none {
		return nil
	}
	return func(*v1.Pod) { f.seen++ }
}

// A plugin that follows pods is told of them by the kubelet's handlers, which ask nothing of the kubelet.
func TestFollowPods(t *testing.T) {
	h, f, none := &host{}, &follower{}, &follower{none: true}
	followPods(h, []volume.VolumePlugin{nil, f, none})
	if len(h.PodSyncHandlers) != 1 || len(h.PodSyncLoopHandlers) != 1 {
		t.Fatalf("%d and %d handlers, want one of each", len(h.PodSyncHandlers), len(h.PodSyncLoopHandlers))
	}
	if r := h.PodSyncHandlers[0].ShouldEvict(&v1.Pod{}); r.Evict || f.seen != 1 {
		t.Errorf("a sync of a pod: %+v, seen %d times", r, f.seen)
	}
	if h.PodSyncLoopHandlers[0].ShouldSync(&v1.Pod{}) || f.seen != 2 {
		t.Errorf("a look at a pod syncs it, or it was seen %d times", f.seen)
	}
}
