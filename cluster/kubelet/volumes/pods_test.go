package volumes

import (
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
)

func TestPods(t *testing.T) {
	pod := func(uid types.UID, label string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u" + uid, Labels: map[string]string{"l": label}}}
	}
	p := newPods()
	defer p.close()
	told := 0
	first := p.follow(pod("", "1"), func() { told++ })
	second := p.follow(pod("", "1"), func() { told++ })
	for i, x := range []struct {
		see  *v1.Pod
		want int
	}{
		{pod("", "1"), 0}, {pod("other", "2"), 0}, {pod("", "2"), 2}, {pod("", "2"), 2}, {pod("", "1"), 4},
	} {
		if p.see(x.see); told != x.want {
			t.Errorf("step %d: told %d times, want %d", i, told, x.want)
		}
	}
	first.release()
	first.release()
	if p.see(pod("", "3")); told != 5 {
		t.Errorf("told %d times, want 5", told)
	}
	second.release()
	if p.see(pod("", "4")); told != 5 || len(p.follows) != 0 {
		t.Errorf("told %d times, want 5; %d pods are followed", told, len(p.follows))
	}
	second.release()

	// The newest copy is the kubelet's, unless that is of another pod of the same name.
	if got := p.newest(pod("", "1")); got.Labels["l"] != "1" {
		t.Errorf("before the kubelet has told: %v", got.Labels)
	}
	for uid, want := range map[types.UID]string{"": "2", "other": "1"} {
		q := newPods()
		pl := &plugin{manager: &manager{pods: q}}
		if pl.FollowPods(func(string, string) (*v1.Pod, bool) { return pod(uid, "2"), true }) == nil {
			t.Error("the first plugin follows nothing")
		}
		if pl.FollowPods(nil) != nil {
			t.Error("a second plugin is told of the same pods")
		}
		if got := q.newest(pod("", "1")); got.Labels["l"] != want {
			t.Errorf("of a kubelet's pod with UID %q: %v, want %s", uid, got.Labels, want)
		}
	}
}

// A change that comes while the kubelet is busy with the one before is seen without a sync.
func TestBusyPod(t *testing.T) {
	h := newHost(t, true)
	v := v1.Volume{VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{DefaultMode: ptr(int32(0o644)),
		Items: []v1.DownwardAPIVolumeFile{fieldFile("l", "metadata.labels['l']")}}}}
	dir, err := h.setUp(v, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	first, second := h.pod.DeepCopy(), h.pod.DeepCopy()
	first.Labels, second.Labels = map[string]string{"l": "first"}, map[string]string{"l": "second"}
	h.sync(first)
	h.synced.Store(second)
	h.eventually("a second change", filepath.Join(dir, "l"), "second")
}
