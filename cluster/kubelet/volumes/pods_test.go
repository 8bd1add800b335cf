package volumes

import (
	"path/filepath"
	"testing"
	"time"

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

// After an outage the kubelet may not see changes for a minute: a watch brings them, until the kubelet is trusted again.
func TestPodsAfterAnOutage(t *testing.T) {
	h := newHost(t, true)
	v := v1.Volume{VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{DefaultMode: ptr(int32(0o644)),
		Items: []v1.DownwardAPIVolumeFile{fieldFile("l", "metadata.labels['l']"),
			fieldFile("source", "metadata.annotations['kubernetes.io/config.source']")}}}}
	dir, err := h.setUp(v, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	watches := func() int {
		n := 0
		for _, a := range h.client.Actions() {
			if a.Matches("watch", "pods") {
				n++
			}
		}
		return n
	}
	label := func(value string) *v1.Pod {
		p := h.pod.DeepCopy()
		p.Labels = map[string]string{"l": value}
		return p
	}
	if n := watches(); n != 0 {
		t.Errorf("%d watches of pods before an outage", n)
	}
	h.sync(label("before"))
	h.eventually("before the outage", filepath.Join(dir, "l"), "before")
	h.manager.pods.outage()
	h.manager.pods.outage()
	for _, value := range []string{"after", "later"} {
		if _, err := h.client.CoreV1().Pods("ns").Update(t.Context(), label(value), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		h.eventually("the kubelet has not seen it", filepath.Join(dir, "l"), value)
		h.eventually("the kubelet's own annotation", filepath.Join(dir, "source"), "api")
	}
	if n := watches(); n != 1 {
		t.Errorf("%d watches of pods after an outage, want 1", n)
	}
	p := h.manager.pods
	p.over()
	if p.calm == nil {
		t.Error("the kubelet is trusted again at once")
	}
	h.synced.Store(label("trusted"))
	p.mu.Lock()
	p.until = time.Now()
	p.mu.Unlock()
	p.over()
	h.eventually("the kubelet is trusted again", filepath.Join(dir, "l"), "trusted")
	h.tearDown(v)
	if p.calm != nil || len(p.follows) != 0 {
		t.Errorf("calm is %v, and %d pods are followed", p.calm, len(p.follows))
	}
}
