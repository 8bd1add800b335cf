package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/projected"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumetest "k8s.io/kubernetes/pkg/volume/testing"

	"github.com/orlop-io/orlop/configsync/payload"
)

func ptr[T any](v T) *T { return &v }

// kubeletHost is what the kubelet is to its plugins.
type kubeletHost interface {
	volume.VolumeHost
	volume.KubeletVolumeHost
}

// testHost is a kubelet's volume host on a fake API server.
type testHost struct {
	t       *testing.T
	client  *fake.Clientset
	host    kubeletHost
	plugins map[string]volume.VolumePlugin
	manager *manager
	pod     *v1.Pod
	// late is how far the writers' clock is ahead.
	late atomic.Int64

	synced atomic.Pointer[v1.Pod] // the pod as the kubelet has it
	see    []func(*v1.Pod)
}

// sync is what the kubelet does with a changed pod.
func (h *testHost) sync(pod *v1.Pod) {
	h.synced.Store(pod)
	for _, see := range h.see {
		see(pod)
	}
}

func upstreamPlugins() []volume.VolumePlugin {
	return slices.Concat(emptydir.ProbeVolumePlugins(), configmap.ProbeVolumePlugins(), secret.ProbeVolumePlugins(),
		projected.ProbeVolumePlugins(), downwardapi.ProbeVolumePlugins())
}

func newHost(t *testing.T, replaced bool) *testHost {
	t.Helper()
	return newHostIn(t, t.TempDir(), replaced)
}

// newHostIn is newHost with the kubelet's directory.
func newHostIn(t *testing.T, root string, replaced bool) *testHost {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "x", Namespace: "ns", ResourceVersion: "1", UID: "u"}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "pod-uid", ResourceVersion: "5",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"kubernetes.io/config.source": "api"}},
		Spec: v1.PodSpec{ServiceAccountName: "sa", NodeName: ""}}
	stored := pod.DeepCopy()
	stored.Annotations = nil
	client := fake.NewClientset(stored,
		&v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {0, 255}}},
		&v1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": []byte("s3cret"), "a": []byte("of the secret")}})
	client.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "token"}}, nil
	})
	h := newHostOn(t, root, client, pod, replaced)
	h.client = client
	if replaced {
		t.Cleanup(h.manager.stop)
	}
	return h
}

// newHostOn is newHost with a pod and an API server of the caller's. The caller stops the manager.
func newHostOn(t *testing.T, root string, client kubernetes.Interface, pod *v1.Pod, replaced bool) *testHost {
	t.Helper()
	h := &testHost{t: t, plugins: map[string]volume.VolumePlugin{}, pod: pod}
	plugins := upstreamPlugins()
	if replaced {
		plugins = Replace(Config{}, plugins)
	}
	h.host = volumetest.NewFakeKubeletVolumeHost(t, root, client, plugins)
	for _, p := range plugins {
		h.plugins[p.GetPluginName()] = p
		if ours, ok := p.(*plugin); ok {
			h.manager = ours.manager
			h.manager.writer.Now = func() time.Time { return time.Now().Add(time.Duration(h.late.Load())) }
			if see := ours.FollowPods(func(string, string) (*v1.Pod, bool) { pod := h.synced.Load(); return pod, pod != nil }); see != nil {
				h.see = append(h.see, see)
			}
		}
	}
	return h
}

func (h *testHost) plugin(spec *volume.Spec) volume.VolumePlugin {
	for _, p := range h.plugins {
		if p.CanSupport(spec) {
			return p
		}
	}
	h.t.Fatal("no plugin supports the volume")
	return nil
}

// setUp sets the volume up and returns its directory.
func (h *testHost) setUp(v v1.Volume, args volume.MounterArgs) (string, error) {
	h.t.Helper()
	v.Name = "v"
	return h.setUpNamed(v, args)
}

func (h *testHost) setUpNamed(v v1.Volume, args volume.MounterArgs) (string, error) {
	h.t.Helper()
	spec := volume.NewSpecFromVolume(&v)
	m, err := h.plugin(spec).NewMounter(spec, h.pod)
	if err != nil {
		h.t.Fatal(err)
	}
	return m.GetPath(), m.SetUp(args)
}

func (h *testHost) tearDown(v v1.Volume) {
	h.t.Helper()
	if v.Name == "" {
		v.Name = "v"
	}
	u, err := h.plugin(volume.NewSpecFromVolume(&v)).NewUnmounter(v.Name, h.pod.UID)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := u.TearDown(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := os.Lstat(u.GetPath()); !os.IsNotExist(err) {
		h.t.Errorf("%s is left: %v", u.GetPath(), err)
	}
}

// tree describes all that is in the directory, with the generation's name replaced.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	generation, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() == "..generation" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		case e.Type().IsRegular():
			var raw []byte
			raw, err = os.ReadFile(path)
			what = string(raw)
		}
		stat := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %v %d:%d %q", strings.TrimPrefix(path, dir), info.Mode(), stat.Uid, stat.Gid, what)
		lines = append(lines, strings.ReplaceAll(line, generation, "GENERATION"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func fieldFile(path, field string) v1.DownwardAPIVolumeFile {
	return v1.DownwardAPIVolumeFile{Path: path, FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: field}}
}

var local = v1.LocalObjectReference{Name: "x"}

// cases are volumes that both kubelets must set up to the same files.
var cases = map[string]v1.VolumeSource{
	"ConfigMap": {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local, DefaultMode: ptr(int32(0o644))}},
	"ConfigMap, items": {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local, DefaultMode: ptr(int32(0o600)),
		Items: []v1.KeyToPath{{Key: "a", Path: "deep/er/a", Mode: ptr(int32(0o400))}, {Key: "c", Path: "deep/c"}, {Key: "b", Path: "b"}}}},
	"ConfigMap, optional and absent": {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "no"},
		DefaultMode: ptr(int32(0o644)), Optional: ptr(true)}},
	"ConfigMap, optional key": {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local, DefaultMode: ptr(int32(0o644)), Optional: ptr(true),
		Items: []v1.KeyToPath{{Key: "no", Path: "no"}, {Key: "a", Path: "a"}}}},
	"Secret": {Secret: &v1.SecretVolumeSource{SecretName: "x", DefaultMode: ptr(int32(0o400))}},
	"downward API": {DownwardAPI: &v1.DownwardAPIVolumeSource{DefaultMode: ptr(int32(0o644)),
		Items: []v1.DownwardAPIVolumeFile{fieldFile("labels", "metadata.labels"), fieldFile("d/name", "metadata.name"),
			fieldFile("annotations", "metadata.annotations"), fieldFile("l", "metadata.labels['l']")}}},
	"projected": {Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local}},
		{Secret: &v1.SecretProjection{LocalObjectReference: local}},
		{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Optional: ptr(true)}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{fieldFile("d/uid", "metadata.uid")}}},
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", Audience: "me", ExpirationSeconds: ptr(int64(3600))}},
	}}},
	"nothing projected": {Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644))}},
}

// Whatever the volume, the files, links, modes and owners are those that upstream's plugin makes.
func TestSameAsUpstream(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: giving files away needs root")
	}
	for name, source := range cases {
		for fsName, args := range map[string]volume.MounterArgs{
			"": {}, ", fsGroup": {FsGroup: ptr(int64(2000))}, ", user": {FsUser: ptr(int64(1000))},
			", user and fsGroup": {FsUser: ptr(int64(1000)), FsGroup: ptr(int64(2000))},
		} {
			t.Run(name+fsName, func(t *testing.T) {
				var trees [2][]string
				for i, replaced := range []bool{false, true} {
					h := newHost(t, replaced)
					for range 2 {
						dir, err := h.setUp(v1.Volume{VolumeSource: source}, args)
						if err != nil {
							t.Fatal(err)
						}
						trees[i] = tree(t, dir)
					}
					h.tearDown(v1.Volume{VolumeSource: source})
				}
				if !slices.Equal(trees[0], trees[1]) {
					t.Errorf("upstream's:\n%s\nours:\n%s", strings.Join(trees[0], "\n"), strings.Join(trees[1], "\n"))
				}
			})
		}
	}
}

func (h *testHost) eventually(what, file, want string) {
	h.t.Helper()
	var got string
	err := wait.PollUntilContextTimeout(h.t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		raw, err := os.ReadFile(file)
		got = string(raw)
		if errors.Is(err, fs.ErrNotExist) {
			got = "absent"
		}
		return got == want, nil
	})
	if err != nil {
		h.t.Fatalf("%s: %s is %q, want %q", what, file, got, want)
	}
}

func (h *testHost) update(value string) {
	h.t.Helper()
	cm, err := h.client.CoreV1().ConfigMaps("ns").Get(h.t.Context(), "x", metav1.GetOptions{})
	if err == nil {
		cm.Data["a"] = value
		cm.ResourceVersion += "0"
		_, err = h.client.CoreV1().ConfigMaps("ns").Update(h.t.Context(), cm, metav1.UpdateOptions{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// Nobody calls SetUp after the first time here: each change arrives by its event.
func TestChangesArrive(t *testing.T) {
	h := newHost(t, true)
	v := v1.Volume{VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []v1.VolumeProjection{
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: local}},
		{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "late"}, Optional: ptr(true)}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{fieldFile("l", "metadata.labels['l']"),
			fieldFile("source", "metadata.annotations['kubernetes.io/config.source']"), fieldFile("n", "metadata.annotations['n']")}}},
	}}}}
	dir, err := h.setUp(v, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	h.eventually("at first", file("a"), "1")
	h.update("2")
	h.eventually("a ConfigMap was changed", file("a"), "2")

	secrets := h.client.CoreV1().Secrets("ns")
	late := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "ns", ResourceVersion: "1"}, Data: map[string][]byte{"x": []byte("late")}}
	if _, err := secrets.Create(t.Context(), late, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("an optional Secret was made", file("x"), "late")
	if err := secrets.Delete(t.Context(), "late", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("an optional Secret was deleted", file("x"), "absent")

	pod := h.pod.DeepCopy()
	pod.Labels, pod.Annotations["n"] = map[string]string{"l": "2"}, "new"
	h.sync(pod)
	h.eventually("a label was changed", file("l"), "2")
	h.eventually("an annotation was changed", file("n"), "new")
	h.eventually("the kubelet's own annotation stays", file("source"), "api")
	// A SetUp may come with an older copy of the pod; it does not take the volume back.
	if _, err := h.setUp(v, volume.MounterArgs{IsRemount: true}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the kubelet's copy of the pod is old", file("l"), "2")

	// A ConfigMap that is gone and not optional leaves the last good files, and is an error only to the kubelet.
	if err := h.client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		_, err := h.setUp(v, volume.MounterArgs{IsRemount: true})
		return errors.Is(err, payload.ErrObjectMissing), nil
	})
	if err != nil {
		t.Errorf("SetUp does not say that the ConfigMap is gone: %v", err)
	}
	h.eventually("a ConfigMap was deleted", file("a"), "2")
	again := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns", UID: "other", ResourceVersion: "1"}, Data: map[string]string{"a": "again"}}
	if _, err := h.client.CoreV1().ConfigMaps("ns").Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("a ConfigMap was made again", file("a"), "again")

	h.tearDown(v)
	if n := h.manager.source.Watches(); n != 0 {
		t.Errorf("%d watches are left after the tear-down", n)
	}
	h.update("too late")
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the volume came back after its tear-down: %v", err)
	}
}

// A volume that cannot be set up leaves neither files nor watches.
func TestRefusedVolume(t *testing.T) {
	for name, tt := range map[string]struct {
		source v1.VolumeSource
		want   error
	}{
		"absent": {v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "no", DefaultMode: ptr(int32(0o644))}}, payload.ErrObjectMissing},
		"key": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local, DefaultMode: ptr(int32(0o644)),
			Items: []v1.KeyToPath{{Key: "no", Path: "x"}}}}, payload.ErrKeyMissing},
		"path": {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: local, DefaultMode: ptr(int32(0o644)),
			Items: []v1.KeyToPath{{Key: "a", Path: "../../x"}}}}, payload.ErrPathEscapes},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, true)
			dir, err := h.setUp(v1.Volume{VolumeSource: tt.source}, volume.MounterArgs{})
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", dir, err)
			}
			if n := h.manager.source.Watches(); n != 0 {
				t.Errorf("%d watches are left", n)
			}
			h.tearDown(v1.Volume{VolumeSource: tt.source})
		})
	}
}

// A kubelet that was restarted finds the files of the earlier one; where the object is gone meanwhile, the pod keeps them.
func TestRestart(t *testing.T) {
	h := newHost(t, true)
	v := v1.Volume{VolumeSource: cases["ConfigMap"]}
	dir, err := h.setUp(v, volume.MounterArgs{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.manager.mu.Lock()
	clear(h.manager.mounts)
	h.manager.mu.Unlock()
	err = wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		_, err := h.setUp(v, volume.MounterArgs{})
		return errors.Is(err, payload.ErrObjectMissing) || err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("after a restart without the object", filepath.Join(dir, "a"), "1")
	made := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns", UID: "new", ResourceVersion: "1"}, Data: map[string]string{"a": "back"}}
	if _, err := h.client.CoreV1().ConfigMaps("ns").Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the object is back", filepath.Join(dir, "a"), "back")
	h.tearDown(v)
}

func TestReplaceKeepsOthers(t *testing.T) {
	before := upstreamPlugins()
	after := Replace(Config{}, before)
	if len(after) != len(before) {
		t.Fatalf("%d plugins became %d", len(before), len(after))
	}
	for i := range before {
		name := before[i].GetPluginName()
		_, ours := after[i].(*plugin)
		if _, want := media[name]; ours != want || after[i].GetPluginName() != name {
			t.Errorf("%s: replaced %v by %s", name, ours, after[i].GetPluginName())
		}
	}
}
