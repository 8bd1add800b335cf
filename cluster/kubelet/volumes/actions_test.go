package volumes

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/orlop-io/orlop/configsync/action"
)

// fakeRuntime notes what it is asked for. Its one container mounts everything.
type fakeRuntime struct {
	mu    sync.Mutex
	calls []string
	dirs  []string
}

func (f *fakeRuntime) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return nil
}

func (f *fakeRuntime) made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

func (f *fakeRuntime) Containers(_ context.Context, pod string) ([]action.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []action.Container{{ID: pod, Name: "c", Mounts: f.dirs}}, nil
}

func (f *fakeRuntime) Address(context.Context, string) (string, error) { return "", nil }

func (f *fakeRuntime) Exec(_ context.Context, id string, command []string, _ time.Duration) (int, error) {
	return 0, f.note("exec %s %v", id, command)
}

func (f *fakeRuntime) Signal(_ context.Context, id string, s action.Signal) error {
	return f.note("%s %s", s, id)
}

func (f *fakeRuntime) Stop(_ context.Context, id string, grace time.Duration) error {
	return f.note("stop %s %v", id, grace)
}

// acting is a host whose manager acts on changes, through a fake runtime, and whose pod has the annotations.
func acting(t *testing.T, annotations map[string]string) (*testHost, *fakeRuntime) {
	t.Helper()
	h := newHost(t, true)
	h.pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	h.pod.Spec.Containers = []v1.Container{{Name: "c"}}
	maps.Copy(h.pod.Annotations, annotations)
	f := &fakeRuntime{}
	h.manager.actions = actionsThrough(h.manager.host, Config{}, f, func() error { return nil })
	return h, f
}

const quick = "config.orlop.io/on-change-debounce"

func (h *testHost) acts(what string, f *fakeRuntime, n int) {
	h.t.Helper()
	err := wait.PollUntilContextTimeout(h.t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return f.made() >= n, nil
	})
	if err != nil || f.made() != n {
		h.t.Fatalf("%s: %d actions, want %d", what, f.made(), n)
	}
}

// settled waits until the volume's marker names the visible generation: nothing is left to be acted on.
func (h *testHost) settled(k key) {
	h.t.Helper()
	err := wait.PollUntilContextTimeout(h.t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		h.manager.mu.Lock()
		mt := h.manager.mounts[k]
		h.manager.mu.Unlock()
		acted, err := os.ReadFile(mt.marker())
		current, linkErr := os.Readlink(filepath.Join(mt.request.dir, "..data"))
		return err == nil && linkErr == nil && string(acted) == current+"\n", nil
	})
	if err != nil {
		h.t.Fatal("the last change was not acted on")
	}
}

func TestActsOnChange(t *testing.T) {
	h, f := acting(t, map[string]string{action.Annotations.OnChange: "signal=SIGHUP", quick: "10ms"})
	v := v1.Volume{VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local}},
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3600))}}}}}}
	k := key{h.pod.UID, "kubernetes.io/projected", "v"}
	dir, err := h.setUp(v, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	f.dirs = []string{dir}
	h.settled(k)
	if _, err := h.setUp(v, volume.MounterArgs{}); err != nil {
		t.Fatal(err)
	}
	h.update("2")
	h.acts("an edit", f, 1)
	h.settled(k)

	// The kubelet is started again: all is known from the disk alone.
	restart := func() {
		h.manager.remove(k)
		if _, err := h.setUp(v, volume.MounterArgs{}); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	h.settled(k)
	h.manager.remove(k)
	h.update("3")
	restart()
	h.acts("an edit while no kubelet ran", f, 2)
	h.settled(k)
	mt := h.manager.mounts[k]
	if err := os.WriteFile(mt.marker(), []byte("..2006_01_02_15_04_05.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restart()
	h.acts("a kubelet that was killed before it acted", f, 3)
	h.settled(k)
	if !slices.Equal(f.calls, slices.Repeat([]string{"SIGHUP pod-uid"}, 3)) {
		t.Errorf("the runtime was asked for %q", f.calls)
	}

	// Without the annotation nothing is acted on, and nothing caught up later.
	h.pod = h.pod.DeepCopy()
	delete(h.pod.Annotations, action.Annotations.OnChange)
	delete(h.pod.Annotations, quick)
	if _, err := h.setUp(v, volume.MounterArgs{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mt.marker()); !os.IsNotExist(err) {
		t.Errorf("the marker is left: %v", err)
	}
	h.update("4")
	h.eventually("without the annotation", filepath.Join(dir, "a"), "4")
	h.pod = h.pod.DeepCopy()
	h.pod.Annotations[action.Annotations.OnChange] = "signal=SIGHUP"
	if _, err := h.setUp(v, volume.MounterArgs{}); err != nil {
		t.Fatal(err)
	}
	h.settled(k)
	h.acts("the annotation is back", f, 3)
	h.tearDown(v)
}

// A volume that is not listed changes without an action, as does one of a pod whose annotations are wrong.
func TestActsOnNothing(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"not listed": {action.Annotations.OnChange: "signal=SIGHUP", action.Annotations.Volumes: "w"},
		"wrong":      {action.Annotations.OnChange: "signal=SIGKILL"},
		"no action":  {},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := acting(t, annotations)
			v := v1.Volume{VolumeSource: cases["ConfigMap"]}
			dir, err := h.setUp(v, volume.MounterArgs{})
			if err != nil {
				t.Fatal(err)
			}
			f.dirs = []string{dir}
			h.update("2")
			h.eventually("an edit", filepath.Join(dir, "a"), "2")
			mt := h.manager.mounts[key{h.pod.UID, "kubernetes.io/configmap", "v"}]
			mt.mu.Lock()
			if mt.tracker != nil {
				t.Error("the volume's changes are acted on")
			}
			mt.mu.Unlock()
			h.tearDown(v)
			if len(h.manager.actions.invalid) != 0 || f.made() != 0 {
				t.Errorf("%v is kept, %d actions", h.manager.actions.invalid, f.made())
			}
		})
	}
}

func TestPodOf(t *testing.T) {
	always, never := v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever
	p := podOf(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways,
		InitContainers:      []v1.Container{{Name: "sidecar", RestartPolicy: &always}},
		Containers:          []v1.Container{{Name: "a"}, {Name: "b", RestartPolicy: &never}},
		EphemeralContainers: []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug"}}}}})
	if want := map[string]bool{"sidecar": true, "a": true, "b": false, "debug": false}; !maps.Equal(p.Containers, want) {
		t.Errorf("%v", p.Containers)
	}
	p = podOf(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyOnFailure,
		InitContainers: []v1.Container{{Name: "sidecar", RestartPolicy: &always}}, Containers: []v1.Container{{Name: "a"}}}})
	if want := map[string]bool{"sidecar": true, "a": false}; !maps.Equal(p.Containers, want) {
		t.Errorf("%v", p.Containers)
	}
}

func TestCredentialPaths(t *testing.T) {
	v := v1.Volume{VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
		{PodCertificate: &v1.PodCertificateProjection{CredentialBundlePath: "bundle"}},
		{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{Path: "trust"}}}}}}
	if got := strings.Join(credentialPaths(v, false), " "); got != "token bundle  " {
		t.Errorf("%q", got)
	}
	if got := strings.Join(credentialPaths(v, true), " "); got != "token" {
		t.Errorf("%q for a volume that is named", got)
	}
}
